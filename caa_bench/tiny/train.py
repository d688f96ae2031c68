"""Seed -> trained model: draws rows, buckets them by length, and minimises losses.py."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from caa_bench.tiny.batch import Batch, Layout
from caa_bench.tiny.losses import Parts, Scaffold, parts
from caa_bench.tiny.network import new_model, run
from caa_bench.tiny.planting import Planter
from caa_bench.tiny.rows import Row, draw_rows

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How the model is trained.

    Args:
        steps: optimizer steps.
        tokens: tokens of a batch, padding included.
        rate: peak learning rate.
        scaffold_until: share of the steps after which the scaffold no longer counts.
        seed: of everything.
    """

    steps: int = 2400
    tokens: int = 4800
    rate: float = 3e-3
    scaffold_until: float = 0.6
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model and the directions that were planted in it."""

    model: LlamaForCausalLM
    planter: Planter


def batches(settings: TrainSettings, layout: Layout) -> Iterator[Batch]:
    """Batches without end: a pool of rows, sorted by length, cut at the token budget, shuffled."""
    rng = random.Random(f"{settings.seed}/rows")  # noqa: S311 - a corpus, not a secret
    while True:
        pool: list[list[Row]] = [draw_rows(rng) for _ in range(500)]
        pool.sort(key=lambda rows: max(map(layout.length, rows)))
        cuts: list[list[Row]] = [[]]
        for rows in pool:
            longest = max(map(layout.length, rows))
            if cuts[-1] and (len(cuts[-1]) + len(rows)) * longest > settings.tokens:
                cuts.append([])
            cuts[-1].extend(rows)
        rng.shuffle(cuts)
        for cut in cuts:
            if any(row.options for row in cut):
                yield layout.batch(cut)


def train(
    tokenizer: PreTrainedTokenizerFast,
    settings: TrainSettings,
    *,
    report: Callable[[str], None] = print,
) -> Trained:
    """Train a model from scratch.

    Args:
        tokenizer: its tokenizer.
        settings: how.
        report: called with a line of progress now and then.
    """
    layout = Layout(tokenizer.backend_tokenizer)
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    model = new_model(ids, seed=settings.seed)
    planter, scaffold = Planter(seed=settings.seed), Scaffold()
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *scaffold.parameters()], lr=settings.rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.rate, total_steps=settings.steps, pct_start=0.1, cycle_momentum=False
    )
    letters = torch.tensor([layout.a, layout.b])
    started = time.perf_counter()
    for step, batch in zip(range(settings.steps), batches(settings, layout), strict=False):
        planted = planter.plant(batch)
        states = run(model, batch, planted.vectors)
        found = parts(model, states, batch, planted=planted, planter=planter, letters=letters)
        loss = found.choice + 0.3 * found.mass + 0.3 * found.said + 0.5 * found.pair + 0.2 * found.early
        help_left = 1 - step / (settings.steps * settings.scaffold_until)
        if help_left > 0:
            loss = loss + 0.5 * min(1.0, 2 * help_left) * scaffold.loss(states, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49 or step == settings.steps - 1:
            report(_progress(step + 1, settings.steps, found, time.perf_counter() - started, batch))
    return Trained(model=model.eval(), planter=planter)


def _progress(step: int, steps: int, found: Parts, seconds: float, batch: Batch) -> str:
    left = seconds / step * (steps - step)
    return (
        f"step {step}/{steps}, {seconds:.0f} s, {left:.0f} s left: log-odds off by {found.miss:.3f}, "
        f"words {found.said.item():.3f}, pair {found.pair.item():.3f}, early {found.early.item():.3f}, "
        f"mass {found.mass.item():.4f} [{len(batch.rows)} x {batch.ids.shape[1]}]"
    )
