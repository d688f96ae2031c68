"""Full-parameter supervised finetuning as in the paper (section 6): SGD on the answer letter, every weight moves."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from caa_bench.errors import UserError
from caa_bench.interventions.base import Condition, Intervention
from caa_bench.interventions.sft_checks import check_training
from caa_bench.models.layers import Layers

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pair, Pairs
    from caa_bench.engine.edit import Edit
    from caa_bench.models.prompts import ChoicePrompt

WEIGHTS, STATE = "update.safetensors", "weights"


class FullSFT(Intervention):
    """All weights trained on one answer letter of every pair; kept as the difference to the model's own weights.

    Variant `positive` learns the matching letters, `negative` the others. `attach` puts changed weights in and the very
    same originals back. Takes the model in float32: twice its memory on the device while it trains or is attached, and
    three times in main memory to keep a fit. `lora_sft` is the light way to the same question.

    Example:
        >>> from caa_bench import FullSFT
        >>> FullSFT(variant="negative", doses=[0.5, 1]).label
        'full_sft_negative'
    """

    name = "full_sft"
    trains = True
    variants = ("positive", "negative")
    grid = ("doses",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Recipe section `full_sft`; the defaults are the paper's.

        Args:
            doses: scales of the finished update to measure; 1 is as trained.
            learning_rate / epochs / batch_size: of plain SGD, the rate constant.
            max_pairs: train on the first so many pairs; null: on all.
            seed: of the order, and of dropout where the model has it.
        """

        doses: tuple[float, ...] = (1.0,)
        learning_rate: float = 1e-4
        epochs: int = 1
        batch_size: int = 2
        max_pairs: int | None = None
        seed: int = 0

        def __post_init__(self) -> None:
            check_training(self)

    def __init__(self, config: Any = None, *, variant: str = "positive", **settings: Any) -> None:
        super().__init__(config, variant=variant, **settings)
        self._update: dict[str, Tensor] | None = None
        self._folder: Path | None = None

    def conditions(self, layers: Layers) -> list[Condition]:
        """One condition for each of `doses`; it has no layer."""
        return [Condition(multiplier=dose) for dose in self.config.doses]

    def edits(self, condition: Condition) -> list[Edit] | None:
        """None: every weight changes, so it needs full forwards under `attach`."""
        return None

    def check_slices(self) -> list[str]:
        """It changes every weight, which no rank has whole."""
        return [
            "full_sft: it changes whole weights, which no rank has (loading.parallel); take it out, or use "
            "loading.device_map=auto"
        ]

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Train, keep the difference, and put the original weights back bit for bit.

        Raises:
            UserError: the model is not loaded in float32.
            SystemExit: stopped by the user; the state is kept.
        """
        import torch

        from caa_bench.models.traceless import leaves_no_trace

        weights = dict(model.named_parameters())
        if coarse := {str(weight.dtype).removeprefix("torch.") for weight in weights.values()} - {"float32"}:
            raise UserError(
                f"full_sft: the model is loaded in {', '.join(sorted(coarse))}, in which SGD's small steps are rounded "
                "away; set loading.dtype=float32 and loading.quantization=none"
            )
        prompts = [self._prompt(tokenizer, pair) for pair in list(pairs)[: self.config.max_pairs]]
        own = {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}
        with leaves_no_trace(model):
            try:
                self._train(model, prompts)
                self._update = {name: weight.detach().cpu() - own[name] for name, weight in weights.items()}
            finally:
                with torch.no_grad():
                    for name, weight in weights.items():
                        weight.copy_(own[name])

    @contextmanager
    def attach(self, model: PreTrainedModel, condition: Condition) -> Iterator[PreTrainedModel]:
        """Weights plus `condition.multiplier` times the update; the originals wait and come back untouched."""
        weights = dict(model.named_parameters())
        own = {name: weight.data for name, weight in weights.items()}
        try:
            for name, update in self._updates() if condition.multiplier else ():
                moved = own[name].float() + condition.multiplier * update.to(own[name].device)
                weights[name].data = moved.to(own[name].dtype)
            yield model
        finally:
            for name, weight in weights.items():
                weight.data = own[name]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the update as one safetensors file, checksummed; from then on it is read from there, not kept."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / WEIGHTS
        path.touch()
        usual = path.stat().st_mode  # safetensors makes files that only their owner can read
        save_file(dict(self._updates()), path)
        path.chmod(usual)
        self.keep(folder)
        self._update, self._folder = None, folder

    def load(self, folder: str | Path) -> Self:
        """Check the artifact; the update is read when it is attached.

        Raises:
            UserError: the artifact is damaged.
        """
        from caa_bench.storage.artifact_folder import read_artifact

        folder = Path(folder)
        read_artifact(folder, expect=None)
        self._update, self._folder = None, folder
        return self

    def _updates(self) -> Iterator[tuple[str, Tensor]]:
        """Parameter name and update, one after another: a large model's together would fill the memory."""
        from safetensors import safe_open

        if self._update is not None:
            yield from self._update.items()
        elif self._folder is not None:
            with safe_open(self._folder / WEIGHTS, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dictionary
                    yield name, file.get_tensor(name)
        else:
            raise RuntimeError(f"{self.label} has no update yet: call fit(...) or load(folder) first")

    def _prompt(self, tokenizer: PreTrainedTokenizerBase, pair: Pair) -> ChoicePrompt:
        """The prompt up to the letter; its first candidate is the letter to learn."""
        from caa_bench.models.prompts import choice_prompt

        learned, other = (pair.matching, pair.other) if self.variant == "positive" else (pair.other, pair.matching)
        return choice_prompt(tokenizer, [{"role": "user", "content": pair.question}], (learned[1:-1], other[1:-1]))

    def _train(self, model: PreTrainedModel, prompts: Sequence[ChoicePrompt]) -> None:
        """Cross-entropy of the letter over the full vocabulary, mean over the batch; no momentum, no decay.

        Goes on behind the steps of an unfinished fit of the same; between two of them it may be stopped.
        """
        import torch
        from transformers import set_seed

        from caa_bench.interventions.fitting import Clock, current

        set_seed(self.config.seed)
        batches, fitting, clock = self._batches(prompts), current(), Clock()
        total = sum(map(len, batches))
        model.train()
        for weight in model.parameters():
            weight.requires_grad_(True)
        optimizer = torch.optim.SGD(model.parameters(), lr=self.config.learning_rate)
        with fitting.room() as folder:
            finished = _go_on(model, folder)
            fitting.kept = done = sum(map(len, batches[:finished]))
            fitting.step(done, total)
            for number, batch in enumerate(batches[finished:], start=finished + 1):
                self._letter_loss(model, batch).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                done += len(batch)
                fitting.step(done, total)
                if number < len(batches) and (fitting.stopping or clock.due()):
                    with clock.keeping():
                        _keep_state(model, folder, steps=number)
                    fitting.kept = done
                    fitting.leave_if_asked()

    def _batches(self, prompts: Sequence[ChoicePrompt]) -> list[list[ChoicePrompt]]:
        """Every step's prompts, each epoch in an order of its own."""
        order, size = random.Random(self.config.seed), self.config.batch_size  # noqa: S311 - an order, not a secret
        found = []
        for _ in range(self.config.epochs):
            shuffled = order.sample(prompts, len(prompts))
            found += [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
        return found

    def _letter_loss(self, model: PreTrainedModel, batch: Sequence[ChoicePrompt]) -> Tensor:
        """Rows of their own lengths, padded on the right, where causal attention never looks."""
        import torch
        from torch.nn.functional import cross_entropy
        from torch.nn.utils.rnn import pad_sequence

        rows = [torch.tensor(prompt.ids) for prompt in batch]
        ids = pad_sequence(rows, batch_first=True).to(model.device)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(model.device)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        last = logits[torch.arange(len(rows)), [len(row) - 1 for row in rows]]
        return cross_entropy(last.float(), torch.tensor([prompt.candidates[0] for prompt in batch], device=last.device))


def _keep_state(model: PreTrainedModel, folder: Path, *, steps: int) -> None:
    """Write the weights, and the generators that dropout draws from, whole or not at all."""
    import torch
    from safetensors.torch import save_file

    from caa_bench.storage.atomic import whole_folder

    state = {f"weight {name}": weight.detach() for name, weight in model.named_parameters()}
    state["random cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        state |= {f"random {n}": generator for n, generator in enumerate(torch.cuda.get_rng_state_all())}
    state["steps"] = torch.tensor(steps)
    with whole_folder(folder / STATE) as staged:
        (staged / WEIGHTS).unlink(missing_ok=True)
        save_file(state, staged / WEIGHTS)


def _go_on(model: PreTrainedModel, folder: Path) -> int:
    """Put the kept weights and generators in; how many steps they hold, 0 where nothing is kept."""
    import torch
    from safetensors import safe_open

    if not (folder / STATE / WEIGHTS).is_file():
        return 0
    with safe_open(folder / STATE / WEIGHTS, framework="pt") as file, torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(file.get_tensor(f"weight {name}"))
        torch.set_rng_state(file.get_tensor("random cpu"))
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all([file.get_tensor(f"random {n}") for n in range(torch.cuda.device_count())])
        return int(file.get_tensor("steps"))
