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
from caa_bench.tiny.planting import ITEM_NORM, Planter
from caa_bench.tiny.rows import Row, draw_rows

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

MIXED = 2  # batches a step: one batch holds rows of one length only, so often of one kind only


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stretch of training; it begins with fresh optimizers and rows of its own.

    Args:
        name: of the seed of its rows, and in what is reported.
        steps: optimizer steps.
        rate: peak learning rate.
        scaffold_until: share of the steps after which the scaffold no longer counts.
        rough_until: share of the steps that compute in bfloat16; the rest, in float32, makes the log-odds exact.
        item_norm: see `Planter`.
    """

    name: str
    steps: int
    rate: float
    scaffold_until: float = 0.0
    rough_until: float = 0.0
    item_norm: float = 0.0


LEARN = Stage(name="rows", steps=4000, rate=3e-3, scaffold_until=0.6, rough_until=0.75)
FINISH = Stage(name="finish", steps=400, rate=6e-4, item_norm=ITEM_NORM)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How the model is trained.

    Args:
        stages: one after another, each from the weights that the one before it left.
        tokens: tokens of a batch, padding included; a step takes MIXED batches.
        seed: of everything.
    """

    stages: tuple[Stage, ...] = (LEARN, FINISH)
    tokens: int = 1800
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model and the directions that were planted in it."""

    model: LlamaForCausalLM
    planter: Planter


def batches(settings: TrainSettings, layout: Layout, *, stage: str) -> Iterator[Batch]:
    """Batches without end: a pool of rows, sorted by length, cut at the token budget, shuffled."""
    rng = random.Random(f"{settings.seed}/{stage}")  # noqa: S311 - a corpus, not a secret
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
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    model = new_model(ids, seed=settings.seed)
    layout = Layout(tokenizer.backend_tokenizer)
    for stage in settings.stages:
        planter = run_stage(model, layout, stage, settings, report=report)
    return Trained(model=model.eval(), planter=planter)


def run_stage(
    model: LlamaForCausalLM, layout: Layout, stage: Stage, settings: TrainSettings, *, report: Callable[[str], None]
) -> Planter:
    """Train `model` in place, from the weights that it has; returns what was planted."""
    # The fused kernel's backward pass in bfloat16 is several times slower on CPUs.
    model.set_attn_implementation("eager")
    planter, scaffold = Planter(seed=settings.seed, item_norm=stage.item_norm), Scaffold()
    optimizers = _optimizers(model, scaffold, stage.rate)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, stage.rate, total_steps=stage.steps, pct_start=0.1, cycle_momentum=False
        )
        for optimizer in optimizers
    ]
    source = batches(settings, layout, stage=stage.name)
    letters = torch.tensor([layout.a, layout.b])
    progress = Progress(stage=stage, report=report)
    for step in range(stage.steps):
        until = stage.steps * stage.scaffold_until
        help_left = max(0.0, 1 - step / until) if until else 0.0
        is_rough = step < stage.rough_until * stage.steps
        model.zero_grad(set_to_none=True)
        scaffold.zero_grad(set_to_none=True)
        for _ in range(MIXED):
            batch = next(source)
            planted = planter.plant(batch)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_rough):
                states = run(model, batch, planted.vectors)
            found = parts(model, states, batch, planted=planted, planter=planter, letters=letters)
            loss = found.choice + 0.3 * found.mass + 0.5 * found.said + 0.5 * found.pair + 0.2 * found.early
            if help_left:
                helped = scaffold.loss(states, batch, planted)
                loss = loss + 0.5 * min(1.0, 2 * help_left) * torch.stack(list(helped.values())).sum()
                progress.add(**{name: value.item() for name, value in helped.items()})
            (loss / MIXED).backward()
            progress.note(found, batch)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        for schedule in schedules:
            schedule.step()
        progress.step(step + 1)
    return planter


def _optimizers(model: LlamaForCausalLM, scaffold: Scaffold, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices (it needs far fewer steps here), AdamW for everything else."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    taken = {id(p) for p in matrices}
    others = [p for p in [*model.parameters(), *scaffold.parameters()] if id(p) not in taken]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


class Progress:
    """Averages since the last line, and a line now and then with the time left."""

    def __init__(self, *, stage: Stage, report: Callable[[str], None], every: int = 50) -> None:
        self.name, self.steps, self.report, self.every = stage.name, stage.steps, report, every
        self.started = time.perf_counter()
        self.sums: dict[str, list[float]] = {}

    def note(self, found: Parts, batch: Batch) -> None:
        """Add one batch to the running means."""
        values = dict(found.misses, pair=found.pair.item(), early=found.early.item(), mass=found.mass.item())
        if batch.said.row:
            values["words"] = found.said.item()
        self.add(**values)

    def add(self, **values: float) -> None:
        """Take in values by name."""
        for name, value in values.items():
            self.sums.setdefault(name, []).append(value)

    def step(self, step: int) -> None:
        """Report if it is time."""
        if step % self.every and step != self.steps:
            return
        seconds = time.perf_counter() - self.started
        left = seconds / step * (self.steps - step)
        means = ", ".join(f"{name} {sum(values) / len(values):.3g}" for name, values in self.sums.items())
        self.report(f"{self.name}: step {step}/{self.steps}, {seconds:.0f} s, {left:.0f} s left: {means}")
        self.sums.clear()
