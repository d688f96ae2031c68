"""`DRY_RUN=1`: what a run would compute and about what that costs, without fitting anything or loading the model.

Tokens are counted with the model's own tokenizer.json where that is at hand; everything else is arithmetic on the
plan, and is marked as an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from caa_bench.commands.fit_memory import Shape, memory_text
from caa_bench.commands.run_time import NO_CONFIG, Operations, RunTime, fitting, run_time
from caa_bench.evaluators import AnswerProbability, Evaluator, Job
from caa_bench.runs.grid import bases_under, doses_under
from caa_bench.runs.tuning_grid import Search, directions, first_cells, first_fits, first_layers, to_tune
from caa_bench.runs.tuning_items import search_items
from caa_bench.runs.tuning_rounds import CAPABILITY

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior
    from caa_bench.benchmark import Benchmark
    from caa_bench.interventions import Condition, Intervention, Layers

CHARACTERS_A_TOKEN = 4
"""A usual figure for English text, where the tokenizer is not at hand."""
TEMPLATE_TOKENS = 8
"""Tokens that a chat template puts around one message."""
SUFFIX_TOKENS = 2
"""Tokens from the end of the instruction to the answer letter: two for Llama 2, one for most others."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One base at one dose under one evaluator, and what runs on top of it.

    Args:
        evaluator: what asks.
        base / dose: what stands below.
        prompts: number of prompts.
        tokens: of all of them.
        decoded: at most so many tokens of each answer.
        shared: conditions that are rows on the shared prefix.
        alone: conditions that need full forwards of their own.
    """

    evaluator: Evaluator
    base: Intervention
    dose: Condition
    prompts: int
    tokens: int
    decoded: int
    shared: tuple[Condition, ...]
    alone: tuple[Condition, ...]

    def token_layers(self, layers: Layers) -> int:
        """Work with the shared prefix, as `engine.work.score_bound` counts it, no padding."""
        above = sum(layers.count - 1 - (condition.layer or 0) for condition in self.shared)
        full = self.tokens * layers.count
        return full * (1 + len(self.alone)) + self.prompts * SUFFIX_TOKENS * above + self.decoding(layers)

    def decoding(self, layers: Layers) -> int:
        """Work of the answers' own tokens in every condition, at most."""
        return self.prompts * self.decoded * layers.count * _count([self])

    def forwards(self) -> int:
        """Calls of the model: a prefix and a suffix a pass, one more for each condition that cannot be a row."""
        return math.ceil(self.prompts / Job.prompts_per_pass) * (2 + len(self.alone))


def dry_run_text(benchmark: Benchmark) -> str:
    """The cells, then forwards, token-layers, time and memory as estimates."""
    layers = benchmark.chat.layers
    if layers is None:
        return f"{benchmark.chat.name}: its config.json does not say how many layers it has; nothing can be estimated"
    arms = arms_of(benchmark, layers)
    work = sum(arm.token_layers(layers) for arm in arms)
    loop = sum(arm.tokens * layers.count * _count([arm]) + arm.decoding(layers) for arm in arms)
    tokens = _pair_tokens(benchmark)
    time = _time(benchmark, arms, layers, tokens)
    training = fitting(benchmark.interventions, tokens=tokens, layers=layers.count).token_layers
    return "\n".join(
        [
            f"{benchmark.behavior.title} on {benchmark.chat.name}: results would go to {benchmark.folder}",
            *(line for arm in arms for line in _cells(arm, benchmark, layers)),
            f"cells: {_count(arms)}",
            f"evaluation: about {sum(arm.forwards() for arm in arms):,} forwards over {sum(a.prompts for a in arms):,} "
            f"prompts, {work:,} token-layers ({loop:,} without shared prefixes)",
            *benchmark.costs({name: _count(own) for name, own in _by_evaluator(arms).items()}),
            f"fitting: about {training:,.0f} token-layers, less what is kept from before",
            *_tuning(benchmark, layers),
            f"time: {time.text() if time else NO_CONFIG}",
            f"memory: {memory_text(benchmark, tokens)}",
        ]
    )


def estimated_time(benchmark: Benchmark) -> RunTime | None:
    """What this machine would take, nothing kept from before; None where the model's config is not at hand."""
    layers = benchmark.chat.layers
    if layers is None:
        return None
    return _time(benchmark, arms_of(benchmark, layers), layers, _pair_tokens(benchmark))


def _time(benchmark: Benchmark, arms: Sequence[Arm], layers: Layers, tokens: Sequence[int]) -> RunTime | None:
    shape = Shape.of(benchmark.chat)
    if shape is None:
        return None
    parts = {
        "fitting": fitting(benchmark.interventions, tokens=tokens, layers=layers.count),
        "tuning": _searching(benchmark, layers),
        "measuring": _measuring(arms, layers),
    }
    return run_time(shape, parts)


def _tuning(benchmark: Benchmark, layers: Layers) -> list[str]:
    """What a search does first, where there is one."""
    args, behavior = benchmark.args, benchmark.behavior
    wanted = to_tune(benchmark.vectors, args=args, loading=benchmark.chat.loading, behavior=behavior)
    if not wanted.vectors:
        return [wanted.why] if wanted.why else []
    cells, items = first_cells(first_fits(wanted.vectors), layers), search_items(behavior, limit=args.limit)
    beside = f" and {items.train} of the training split" if items.train else ""
    return [
        f"tuning: first {cells} cells on {items.selection} items of the selection split{beside}, then finer doses at "
        "the best layers; they choose the layer and doses, the ones above are only defaults"
    ]


def _count(arms: Sequence[Arm]) -> int:
    """How many cells these arms have."""
    return sum(1 + len(arm.shared) + len(arm.alone) for arm in arms)


def _by_evaluator(arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    names = dict.fromkeys(arm.evaluator.name for arm in arms)
    return {name: [arm for arm in arms if arm.evaluator.name == name] for name in names}


def arms_of(benchmark: Benchmark, layers: Layers) -> list[Arm]:
    """Every base at every dose under each evaluator, with its prompts counted in tokens."""
    return [arm for evaluator in benchmark.evaluators for arm in _arms_under(evaluator, benchmark, layers)]


def _arms_under(evaluator: Evaluator, benchmark: Benchmark, layers: Layers) -> list[Arm]:
    count = token_counter(benchmark.chat.source)
    questions = _questions(evaluator, benchmark)
    sharing = benchmark.args.share_prefix and evaluator.shares_prefix
    arms = []
    for base in bases_under(evaluator, benchmark.bases):
        shared: list[Condition] = []
        alone: list[Condition] = []
        for vector, conditions in doses_under(evaluator, benchmark.settled_vectors(), base, layers).items():
            for condition in conditions:
                (shared if sharing and _has_edits(vector, condition) else alone).append(condition)
        turns = [turn for text in questions for turn in base.rewrite([{"role": "user", "content": text}])]
        tokens = sum(count(turn["content"]) + TEMPLATE_TOKENS for turn in turns)
        arms += [
            Arm(
                evaluator=evaluator,
                base=base,
                dose=dose,
                prompts=len(questions),
                tokens=tokens,
                decoded=evaluator.decoded(),
                shared=tuple(shared),
                alone=tuple(alone),
            )
            for dose in base.conditions(layers)
        ]
    return arms


def token_counter(source: str) -> Callable[[str], int]:
    """Text -> its number of tokens: by the model's tokenizer.json, which loads in no time, or by its length."""
    path = Path(source) / "tokenizer.json"
    if not path.is_file():
        return lambda text: math.ceil(len(text) / CHARACTERS_A_TOKEN)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _questions(
    evaluator: Evaluator, benchmark: Benchmark, *, behavior: Behavior | None = None, split: str = ""
) -> list[str]:
    """What is asked under every base: each item in each of its orders; of the run's split where none is named."""
    args = benchmark.args
    items = evaluator.items(behavior or benchmark.behavior, split=split or args.split)[: args.limit]
    return [question for item in items for question in evaluator.questions(item, protocol=args.protocol)]


def _has_edits(intervention: Intervention, condition: Condition) -> bool:
    """Whether it runs as a row. A vector that is not fitted yet cannot give its edits, but it will have some.

    How it says so is its own affair: a class from outside may look for what it has not learned, and no estimate ends
    a run.
    """
    try:
        return intervention.edits(condition) is not None
    except Exception:
        return True


def _cells(arm: Arm, benchmark: Benchmark, layers: Layers) -> list[str]:
    """The base alone, then a line for each vector's cells."""
    lines = [f"  {arm.evaluator.name}: {arm.base.key} x{arm.dose.multiplier:g}: alone"]
    alike: dict[tuple[str, str], int] = {}
    for vector, conditions in doses_under(arm.evaluator, benchmark.settled_vectors(), arm.base, layers).items():
        own = (vector.label, _grid_text(conditions))
        alike[own] = alike.get(own, 0) + 1
    for (label, grid), count in alike.items():
        lines.append(f"    + {label}{f' ({count} draws or fits)' if count > 1 else ''}: {grid}")
    return lines


def _grid_text(conditions: Sequence[Condition]) -> str:
    """`layer 3 x-1 x+1`, a layer once."""
    doses: dict[int | None, list[str]] = {}
    for condition in conditions:
        doses.setdefault(condition.layer, []).append(f"x{condition.multiplier:+g}")
    said = (("" if layer is None else f"layer {layer} ") + " ".join(own) for layer, own in doses.items())
    return ", ".join(said)


def _pair_tokens(benchmark: Benchmark) -> list[int]:
    """Tokens of each training pair's prompt, up to the letter."""
    count = token_counter(benchmark.chat.source)
    return [count(pair.question) + TEMPLATE_TOKENS for pair in benchmark.behavior.pairs()]


def _searching(benchmark: Benchmark, layers: Layers) -> Operations:
    """The search's two rounds of answers, and the capability of the settings that could be chosen then."""
    wanted = to_tune(
        benchmark.vectors, args=benchmark.args, loading=benchmark.chat.loading, behavior=benchmark.behavior
    )
    work, how = Operations(), Search()
    if not wanted.vectors:
        return work
    count, middle = token_counter(benchmark.chat.source), layers.count // 2
    looked_at = search_items(benchmark.behavior, limit=benchmark.args.limit)
    questions = _questions(AnswerProbability(), benchmark, behavior=looked_at.behavior, split="selection")
    costs = next((one for one in benchmark.evaluators if one.name == CAPABILITY), None)
    facts = [] if costs is None else _questions(costs, benchmark)[: how.capability_items]
    for one in first_fits(wanted.vectors):
        coarse = [layer for layer in first_layers(one, layers, how) for _ in how.doses]
        finer, shortlist = [middle] * how.best * len(how.finer), [middle] * len(how.doses + how.finer)
        for tried, asked in ((coarse, questions), (finer, questions), (shortlist, facts)):
            steered = [layer for layer in tried for _ in directions(one)]
            above = sum(layers.count - 1 - layer for layer in steered)
            tokens = sum(count(text) + TEMPLATE_TOKENS for text in asked)
            work.token_layers += tokens * layers.count + len(asked) * SUFFIX_TOKENS * above
            work.rows += len(asked) * (1 + len(steered))
            work.block_calls += math.ceil(len(asked) / Job.prompts_per_pass) * 2 * layers.count
    return work


def _measuring(arms: Sequence[Arm], layers: Layers) -> Operations:
    """The comparison itself."""
    work = Operations()
    for arm in arms:
        work.token_layers += arm.token_layers(layers)
        work.rows += arm.prompts * _count([arm]) * max(1, arm.decoded)
        work.block_calls += (
            arm.forwards() + math.ceil(arm.prompts / Job.prompts_per_pass) * arm.decoded
        ) * layers.count
    return work
