"""Continuations of many prompts under many conditions, decoded together: every pair is a row with its own edits.

Shapes: N prompts, C conditions, B prompts of a batch, R rows still speaking, S tokens of a forward, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from caa_bench.engine.batches import batched
from caa_bench.engine.decoding import DecodingRows
from caa_bench.engine.edit import Edit
from caa_bench.engine.head import float32_head
from caa_bench.engine.positions import batch_of
from caa_bench.engine.prefix import split
from caa_bench.engine.sharing import can_share, shareable
from caa_bench.engine.sites import check_edits
from caa_bench.engine.steer import hooked
from caa_bench.models.blocks import base_model, frozen, input_device
from caa_bench.models.prompts import Prompt
from caa_bench.models.rope import beyond_rope, forget_lengths, rope_limit

# Rows of one decoding batch: each holds keys and values of its own for prompt and continuation.
_MOST_ROWS = 256


Tell = Callable[[int, float], None]


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What one row said.

    Args:
        ids: new token ids, without the stop token.
        ended: `"stop"`, a stop token came; `"length"`, `max_new_tokens` were made.
        log_probs: of each new token where it was picked, at temperature 1; last bits depend on the batch, so they are
            no part of equality. Nats, as many as `ids`.
    """

    ids: tuple[int, ...]
    ended: Literal["stop", "length"]
    log_probs: tuple[float, ...] = field(default=(), compare=False)


@dataclass(frozen=True, kw_only=True)
class Picked:
    """The next token of each row, and its log-probability."""

    tokens: list[int]
    log_probs: list[float]


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How rows choose their next token, and when they end.

    Args:
        max_new_tokens: length limit of each row.
        stop_ids: tokens that end a row.
        temperature: 0 is greedy; above, tokens are drawn from softmax(logits / temperature).
        tell: called with each new token and its log-probability; what it raises ends the decoding.
    """

    max_new_tokens: int
    stop_ids: frozenset[int]
    temperature: float
    tell: Tell | None = None

    def pick(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Picked:
        """The next token of each row. logits: [R, V]"""
        tokens = self._drawn(logits, generators) if self.temperature > 0 else logits.argmax(-1, keepdim=True)
        log_probs = logits.log_softmax(-1).gather(-1, tokens)
        return Picked(tokens=tokens[:, 0].tolist(), log_probs=log_probs[:, 0].tolist())

    def told(self, token: int, log_prob: float) -> None:
        """Pass a new token on to whoever listens."""
        if self.tell is not None:
            self.tell(token, log_prob)

    def _drawn(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """One draw a row from its own generator, by inverse distribution function in double precision: what a row says
        does not depend on the rows beside it. [R, 1]"""
        cumulative = (logits.double() / self.temperature).softmax(-1).cumsum(-1)
        draws = torch.stack([torch.rand(1, generator=one, dtype=torch.float64) for one in generators])
        draws = draws.to(cumulative.device)
        return torch.searchsorted(cumulative, draws * cumulative[:, -1:]).clamp(max=cumulative.shape[-1] - 1)


def generate(
    model: nn.Module,
    prompts: Sequence[Prompt],
    conditions: Sequence[Sequence[Edit]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    temperature: float = 0.0,
    seeds: Sequence[Sequence[int]] | None = None,
    batch_size: int = 16,
    share_prefix: bool = True,
    tell: Tell | None = None,
) -> list[list[Continuation]]:
    """Continue every prompt under every condition; edits go on from each prompt's first position to the end.

    Args:
        temperature: 0 is greedy; above, tokens are drawn from softmax(logits / temperature).
        seeds: of each row's own generator, [N][C]; needed when temperature is above 0. A row's text is a function of
            its prompt, condition and seed, whatever it is decoded beside.
        batch_size: most prompts decoded together; each brings a row a condition.
        share_prefix: False decodes every row alone, as a check.
        tell: called with each new token and its log-probability as soon as it is picked, for one prompt under one
            condition; what it raises ends the decoding.

    Returns:
        `[N][C]` continuations.

    Raises:
        ValueError: seeds are missing, or an edit names a place that is not there.
    """
    if temperature > 0 and seeds is None:
        raise ValueError("temperature is above 0: give seeds, one a row")
    for edits in conditions:
        check_edits(model, edits)
    wanted = [[edit for edit in edits if not edit.change.is_identity] for edits in conditions]
    decoding = Decoding(max_new_tokens=max_new_tokens, stop_ids=frozenset(stop_ids), temperature=temperature, tell=tell)
    said: dict[tuple[int, int], Continuation] = {}
    with frozen(model):
        alone = beyond_rope(model, prompts, more=max_new_tokens)
        sharing = share_prefix and not alone and can_share(model, prompts)
        shared = [c for c, edits in enumerate(wanted) if sharing and shareable(edits)]
        groups = batched(prompts, batch_size, batch_cost=16 * max_new_tokens) if shared else []
        for rows in _rows_together(groups, shared):
            generators = [_generator(seeds, n, c) for n, c in rows]
            ended = _together(model, prompts, wanted, rows=rows, decoding=decoding, generators=generators)
            said.update(zip(rows, ended, strict=True))
        for n, prompt in enumerate(prompts):
            for c in set(range(len(wanted))) - set(shared):
                said[n, c] = _generate_alone(
                    model, prompt, wanted[c], decoding=decoding, generator=_generator(seeds, n, c)
                )
    return [[said[n, c] for c in range(len(conditions))] for n in range(len(prompts))]


def _rows_together(groups: Iterable[Sequence[int]], shared: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """(prompt, condition) of the rows that are decoded together: a group of prompts under as many conditions as fit."""
    for group in groups:
        size = max(1, _MOST_ROWS // len(group))
        for start in range(0, len(shared), size):
            yield [(n, c) for n in group for c in shared[start : start + size]]


def _generator(seeds: Sequence[Sequence[int]] | None, n: int, c: int) -> torch.Generator:
    return torch.Generator().manual_seed(seeds[n][c] if seeds is not None else 0)


def _together(
    model: nn.Module,
    prompts: Sequence[Prompt],
    conditions: Sequence[Sequence[Edit]],
    *,
    rows: Sequence[tuple[int, int]],
    decoding: Decoding,
    generators: Sequence[torch.Generator],
) -> list[Continuation]:
    """Decode (prompt, condition) rows of one batch; the prefix of each prompt is computed once."""
    group = list(dict.fromkeys(n for n, _ in rows))
    suffix = len(prompts[group[0]].ids) - prompts[group[0]].first_position
    with batch_of([prompts[n] for n in group]):
        prefix = split(model, [prompts[n] for n in group], suffix=suffix)
    new: list[list[int]] = [[] for _ in rows]
    log_probs: list[list[float]] = [[] for _ in rows]
    ended: list[Literal["stop", "length"]] = ["length"] * len(rows)
    decoded_rows = DecodingRows(
        prefix,
        [conditions[c] for _, c in rows],
        repeats=len(rows) // len(group),
        room=decoding.max_new_tokens,
    )
    alive = list(range(len(rows)))
    for _ in range(decoding.max_new_tokens):
        with batch_of([prompts[rows[row][0]] for row in alive]):
            logits = decoded_rows.forward(model)
        picked = decoding.pick(logits, [generators[row] for row in alive])
        keep = [place for place, token in enumerate(picked.tokens) if token not in decoding.stop_ids]
        for row, token, log_prob in zip(alive, picked.tokens, picked.log_probs, strict=True):
            if token in decoding.stop_ids:
                ended[row] = "stop"
            else:
                new[row].append(token)
                log_probs[row].append(log_prob)
                decoding.told(token, log_prob)
        alive = [alive[place] for place in keep]
        if not alive:
            break
        decoded_rows.go_on(keep, [picked.tokens[place] for place in keep])
    return [
        Continuation(ids=tuple(ids), ended=why, log_probs=tuple(own))
        for ids, why, own in zip(new, ended, log_probs, strict=True)
    ]


def _generate_alone(
    model: nn.Module, prompt: Prompt, edits: Sequence[Edit], *, decoding: Decoding, generator: torch.Generator
) -> Continuation:
    """One row by hooks and the model's own cache: what cannot share a prefix, and what the rest is tested against."""
    new: list[int] = []
    log_probs: list[float] = []
    chunk, cache, seen = list(prompt.ids), None, 0
    limit = rope_limit(model)
    # Mamba, RWKV and xLSTM keep a state of another kind, which nothing here continues: they read everything again.
    keeps = "past_key_values" in inspect.signature(base_model(model).forward).parameters
    forget_lengths(model)
    with batch_of([prompt]), hooked(model, edits), float32_head(model):
        while len(new) < decoding.max_new_tokens:
            if limit is not None and len(prompt.ids) + len(new) > limit:  # what is cached was turned another way
                chunk, cache, seen = [*prompt.ids, *new], None, 0
            ids = torch.tensor([chunk], device=input_device(model))
            positions = torch.arange(seen, seen + len(chunk), device=ids.device)[None]
            output = model(
                input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=keeps, logits_to_keep=1
            )
            cache, seen = getattr(output, "past_key_values", None), seen + len(chunk)
            picked = decoding.pick(output.logits[:, -1].float(), [generator])
            if picked.tokens[0] in decoding.stop_ids:
                return Continuation(ids=tuple(new), ended="stop", log_probs=tuple(log_probs))
            new += picked.tokens
            log_probs += picked.log_probs
            decoding.told(new[-1], log_probs[-1])
            chunk, seen = (picked.tokens, seen) if cache is not None else ([*prompt.ids, *new], 0)
    return Continuation(ids=tuple(new), ended="length", log_probs=tuple(log_probs))
