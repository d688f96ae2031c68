"""Both sides' activations of every contrast pair on the disk, read back one layer at a time.

A fit over P pairs of a model with L layers of width D has 8 P L D bytes of them: 2 GB for a 7B model, too much to hold
several times. On the disk they are the unfinished state of the fit as well: a killed one goes on behind the last whole
batch, and everything that is computed from the file is the same as without the kill.

Shapes: P pairs, L layers, D hidden size. Side 0 is the matching answer, side 1 the other.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from caa_bench.interventions.fitting import Fitting, current
from caa_bench.storage.atomic import append_synced, write_synced
from caa_bench.storage.files import content_key, read_json, to_json

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.models.prompts import ChoicePrompt

STATE, HEAD = "activations.f32", "activations.json"
NUMBER = 4  # bytes of an fp32 number


class PairActivations:
    """Block outputs at the answer letter, or at the last token of any texts, in fp32. [P, 2, L, D]

    Args:
        path: the file; one pair after another in the order of `places`. It may be deleted afterwards: what is open
            stays readable until this object is gone.
        places: which pair each record in the file belongs to.
        layers / hidden: L and D.
        sides: 2 answers a pair; 1 where each is a text of its own.
    """

    def __init__(self, path: Path, *, places: Sequence[int], layers: int, hidden: int, sides: int = 2) -> None:
        self._file = path.open("rb")
        self._places = tuple(places)
        self.shape = (len(places), sides, layers, hidden)

    def layer(self, number: int, side: int) -> np.ndarray:
        """One side's activations at one layer. [P, D]"""
        import numpy as np

        count, sides, layers, hidden = self.shape
        found = np.empty((count, hidden), dtype=np.float32)
        for record, place in enumerate(self._places):
            start = ((record * sides + side) * layers + number) * hidden * NUMBER
            found[place] = np.frombuffer(os.pread(self._file.fileno(), hidden * NUMBER, start), dtype=np.float32)
        return found

    def side(self, number: int) -> Side:
        """One side as `analysis.diagnostics` takes it. [P, L, D]"""
        return Side(self, number)

    def diagnosed(self, pairs: Pairs) -> pd.DataFrame:
        """`analysis.diagnostics.vector_diagnostics` of these pairs."""
        from caa_bench.analysis.diagnostics import vector_diagnostics

        matching, other = cast(Any, self.side(0)), cast(Any, self.side(1))  # read as arrays are, a layer at a time
        items, keys = [pair.item for pair in pairs], [pair.matching for pair in pairs]
        return vector_diagnostics(matching, other, clusters=items, keys=keys)

    def mean_difference(self, *, rows: Sequence[int] | None = None, signs: Sequence[float] | None = None) -> Tensor:
        """Mean of (matching - other), summed in double: a bf16 pair difference alone carries about 15% noise. [L, D]

        Args:
            rows: the pairs to average, one as often as it stands there; all where not given.
            signs: what each pair's difference is multiplied by. [P]
        """
        import numpy as np
        import torch

        means = []
        for number in range(self.shape[2]):
            differences = self.layer(number, 0).astype(np.float64)
            differences -= self.layer(number, 1)
            if signs is not None:
                differences *= np.asarray(signs, dtype=np.float64)[:, None]
            means.append((differences if rows is None else differences[list(rows)]).mean(axis=0))
        return torch.from_numpy(np.stack(means).astype(np.float32))


def exchanged_mean(activations: PairActivations, pairs: Pairs, *, exchanged: set[str]) -> Tensor:
    """The mean difference where the two sides change places in these items. [L, D]"""
    return activations.mean_difference(signs=[-1.0 if pair.item in exchanged else 1.0 for pair in pairs])


def stand_in(vectors: Tensor, activations: PairActivations, pairs: Pairs, *, exchanged: set[str]) -> Tensor:
    """The mean difference of exchanged pairs, scaled as `vectors` are to the mean difference of the pairs. [L, D]"""
    scale = vectors.norm(dim=-1, keepdim=True) / activations.mean_difference().norm(dim=-1, keepdim=True)
    return scale * exchanged_mean(activations, pairs, exchanged=exchanged)


class Side:
    """The matching or the other activations, a layer at a time: `side[:, layer]` is read from the disk. [P, L, D]"""

    ndim = 3

    def __init__(self, activations: PairActivations, number: int) -> None:
        self._activations, self._number = activations, number
        count, _, layers, hidden = activations.shape
        self.shape = (count, layers, hidden)

    def __getitem__(self, key: tuple[slice, int]) -> np.ndarray:
        pairs, layer = key
        return self._activations.layer(layer, self._number)[pairs]


def read_activations(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, *, batch_size: int = 16
) -> PairActivations:
    """Run the pairs through the model, two prompts a pair that differ in the letter alone (paper section 3, eq. 1).

    Begins behind what an unfinished fit of the same has kept, and leaves between two batches where it is asked to.

    Inside `shared_readings` the same pairs are read once for every method, and a later fit is told the seconds.

    Args:
        batch_size: pairs a forward.

    Raises:
        UserError: the disk is full.
        SystemExit: stopped by the user; what was read is kept.
    """
    from caa_bench.interventions.readings import kept_reading
    from caa_bench.interventions.vectors import letter_prompts

    def read() -> PairActivations:
        return _read_sides(model, letter_prompts(tokenizer, pairs), batch_size=batch_size)

    return kept_reading(model, pairs, read=read)


def read_last_tokens(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], *, name: str, batch_size: int = 16
) -> PairActivations:
    """Every block's output at the last token of each text. [N, 1, L, D]

    Args:
        texts: token ids, two or more each. [N]
        name: what its unfinished state is called, beside that of the pairs.

    Raises:
        UserError: the disk is full.
        SystemExit: stopped by the user; what was read is kept.
    """
    from caa_bench.models.prompts import ChoicePrompt

    prompts = [
        ChoicePrompt(ids=tuple(ids[:-1]), first_position=len(ids) - 2, candidates=tuple(ids[-1:])) for ids in texts
    ]
    return _read_sides(model, prompts, batch_size=batch_size, name=f"{name}-")


def _read_sides(
    model: PreTrainedModel, prompts: Sequence[ChoicePrompt], *, batch_size: int, name: str = ""
) -> PairActivations:
    """Block outputs at each of the prompts' candidates, as many as the first one has."""
    from caa_bench.engine.capture import letter_batches, letter_groups
    from caa_bench.models.blocks import hidden_size, num_layers

    groups = letter_groups(model, prompts, batch_size=batch_size)
    # Mixed lengths, so that the time left can be told from the first minute on; the same order in every process.
    random.Random(0).shuffle(groups)  # noqa: S311 - an order, not a secret
    layers, hidden = num_layers(model), hidden_size(model)
    sides = len(prompts[0].candidates)
    fitting, record = current(), sides * layers * hidden * NUMBER
    with fitting.room() as folder:
        path, head = folder / f"{name}{STATE}", folder / f"{name}{HEAD}"
        finished = _finished(path, head, groups, prompts=prompts, record=record)
        done = sum(map(len, groups[:finished]))
        _note_step(fitting, done, len(prompts))
        for group, activations in letter_batches(model, prompts, groups[finished:]):
            append_synced(path, activations.numpy().tobytes(), start=done * record)
            done += len(group)
            _note_step(fitting, done, len(prompts))
            if done < len(prompts):
                fitting.leave_if_asked()
        places = [place for group in groups for place in group]
        return PairActivations(path, places=places, layers=layers, hidden=hidden, sides=sides)


def _note_step(fitting: Fitting, done: int, total: int) -> None:
    fitting.kept = done
    fitting.step(done, total)


def _finished(
    path: Path, described: Path, groups: Sequence[Sequence[int]], *, prompts: Sequence[ChoicePrompt], record: int
) -> int:
    """How many batches an unfinished fit of the very same left whole; makes the file where there is none."""
    ids = [[*prompt.ids, *prompt.candidates] for prompt in prompts]
    head = {"key": content_key([list(map(list, groups)), ids, record])}
    if not (path.is_file() and described.is_file() and read_json(described) == head):
        for old in (path, described):
            old.unlink(missing_ok=True)
        write_synced(path, b"")
        write_synced(described, to_json(head))
        return 0
    sizes = list(_sums(len(group) * record for group in groups))
    return sum(size <= path.stat().st_size for size in sizes)


def _sums(values: Any) -> Iterator[int]:
    total = 0
    for value in values:
        total += value
        yield total
