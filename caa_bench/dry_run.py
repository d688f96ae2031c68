"""`DRY_RUN=1`: what a run would compute and about what that costs, without fitting anything or loading the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caa_bench.behavior import variants

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark

CHARACTERS_A_TOKEN = 4
"""A usual figure for English text; the estimate says that it is one."""
CPU_FLOPS, GPU_FLOPS = 5e10, 1e14
"""Sustained operations a second that the two stated machines reach in fp32 and in bf16."""
SUFFIX_TOKENS = 2
"""Tokens from the end of the instruction to the answer letter: two for Llama 2, one for most others."""


def render(benchmark: Benchmark) -> str:
    """The cells, and forwards, token-layers, time and memory as estimates, marked so."""
    layers = benchmark.chat.layers
    if layers is None:
        return f"{benchmark.chat.name}: not downloaded yet, so its layers are not known; nothing can be estimated"
    lines = [f"{benchmark.behavior.title} on {benchmark.chat.name}: results would go to {benchmark.folder}"]
    prompts, tokens = _prompts(benchmark)
    grid = [condition for vector in benchmark.vectors for condition in vector.conditions(layers)]
    for base in benchmark.bases:
        for dose in base.conditions(layers):
            lines.append(f"  {base.label} x{dose.multiplier:g}: alone, and {len(grid)} cells on top")
            for vector in benchmark.vectors:
                grid_of = ", ".join(f"layer {c.layer} x{c.multiplier:+g}" for c in vector.conditions(layers))
                lines.append(f"    {vector.label}: {grid_of}")
    arms = sum(len(base.conditions(layers)) for base in benchmark.bases)
    above = sum(layers.count - 1 - (condition.layer or 0) for condition in grid)
    shared = arms * (tokens * layers.count + prompts * SUFFIX_TOKENS * above)
    plain = arms * tokens * layers.count * (1 + len(grid))
    training = _training(benchmark, tokens_a_prompt=tokens / max(prompts, 1), layers=layers.count)
    memory = benchmark.chat.loading.memory_gb
    lines += [
        f"cells: {arms * (1 + len(grid))}; prompts a base: {prompts} (about {tokens:,} tokens)",
        f"forward work: about {shared:,} token-layers with shared prefixes ({plain:,} without)",
        f"training work: about {training:,} token-layers",
        f"time: {_time((shared + training) * 24 * layers.hidden**2)}",
        f"memory: {'not known' if memory is None else f'about {memory:g} GB for the weights'}",
    ]
    return "\n".join(lines)


def _prompts(benchmark: Benchmark) -> tuple[int, int]:
    """Number of prompts of one base, and their tokens, about."""
    args = benchmark.args
    items = [item for one in benchmark.evaluators for item in one.items(benchmark.behavior, split=args.split)]
    asked = [text.question for item in items[: args.limit] for text in variants(item, protocol=args.protocol)]
    return len(asked), sum(len(question) for question in asked) // CHARACTERS_A_TOKEN + 8 * len(asked)


def _training(benchmark: Benchmark, *, tokens_a_prompt: float, layers: int) -> int:
    """Token-layers of every fit: one forward over the pairs a vector, three (with the backward) an epoch of LoRA."""
    pairs = len(benchmark.behavior.pairs())
    passes = 0.0
    for intervention in benchmark.interventions:
        if intervention.trains and not intervention.placebo_of:
            rows = min(pairs, getattr(intervention.config, "max_pairs", None) or pairs)
            passes += rows * 3 * getattr(intervention.config, "epochs", 1 / 3)
    return round(passes * tokens_a_prompt * layers)


def _time(flops: float) -> str:
    """Seconds on two stated machines; a statement of arithmetic, not a promise."""
    cpu, gpu = flops / CPU_FLOPS, flops / GPU_FLOPS
    return f"about {cpu:,.0f} s on 2 CPU cores, {gpu:,.1f} s on a data-center GPU, plus loading"
