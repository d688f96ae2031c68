"""Results -> BENCHMARKS.md and its figure. Says what was measured, on what, against which target; invents nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Found = dict[str, Any]
REAL = "results-real.json"
"""What benchmarks/real.py leaves."""
GPU = (
    "python -m benchmarks.bench --device cuda --dtype bfloat16 --shape llama-2-7b --only sweep generation growth memory"
)
NOT_MEASURED = "not measured"


def write(root: Path, results: Found) -> None:
    """Write BENCHMARKS.md and benchmarks/growth.svg."""
    if "conditions" in results.get("growth", {}):
        _figure(root / "benchmarks" / "growth.svg", results["growth"])
    parts = [
        _head(results),
        _targets(results),
        _sweeps(results),
        _changes(results),
        _extraction(results),
        _generation(results),
    ]
    parts += [_growth(results), _more(results), _real(root / "benchmarks" / REAL), _gpu(results)]
    (root / "BENCHMARKS.md").write_text("\n\n".join(part for part in parts if part) + "\n")


def _head(results: Found) -> str:
    settings, machine = results["settings"], results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    where = machine["accelerator"] if settings["device"] == "cuda" else machine["processor"]
    loads = [
        round(found["load before"], 1)
        for found in results.values()
        if isinstance(found, dict) and "load before" in found
    ]
    clock = {
        "wall": "wall time",
        "cpu": "CPU time of the process on one thread, because other work ran on the machine",
    }[settings["clock"]]
    items = (
        "the published refusal splits (50 test items, 200 training pairs, 16 open questions) in Llama 2 tokens"
        if settings["published"]
        else "random tokens of the published refusal items' lengths (the data were not at hand)"
    )
    return f"""# Benchmarks

`make bench` measures the engine beside its peers in one run: same model, items, precision and threads.

- Machine: {where}, {machine["memory_gib"]} GiB of memory, {settings["threads"]} threads; {versions}.
- Model: a random Llama of shape {settings["shape"]} (vocabulary 32,000), {settings["dtype"]}. Items: {items}.
- Seconds are {clock}. Every ratio is the median of {settings["repetitions"]} per-repetition ratios, in brackets the
  least and the greatest; the methods are interleaved and take turns at going first.
- Load average before each section: {loads} (the benchmark's own process makes about {settings["threads"]}).
- A *token-layer* is one token through one decoder block, padding included."""


def _targets(results: Found) -> str:
    sweep, seven = results.get("sweep"), results.get("seven_multipliers")
    extraction, generation = results.get("extraction"), results.get("generation")
    rows: list[tuple[str, str, Found | None]] = [
        ("every layer x (-1, 1), 50 items, over (a) with all logits", "at least 16x", _ratio(sweep, "a, all logits")),
        ("the same over (a) with last-position logits", "at least 12x", _ratio(sweep, "a, last logits")),
        ("the same over (b)", "at least 10x", _ratio(sweep, "b")),
        ("every layer x 7, 12 items, over (a) with all logits", "at least 25x", _ratio(seven, "a, all logits")),
        ("extraction, 200 pairs, over two plain passes", "at least 3x", _ratio(extraction, "two plain passes")),
        ("extraction, over steering-vectors at its best", "at least 1.5x", _ratio(extraction, "steering-vectors")),
        ("generation, 7 multipliers x 16 prompts, over `model.generate` one after another", "at least 1.3x",
         _ratio(generation, "generate, one after another")),
        ("the same over this engine, one multiplier after another", "", _ratio(generation, "ours, one after another")),
    ]  # fmt: skip
    lines = [f"| {what} | {target} | {_times(found)} |" for what, target, found in rows]
    steering = generation["steering"] if generation else None
    for name in ("engine", "generate"):
        cost = _percent(steering[name]) if steering else NOT_MEASURED
        lines.append(f"| time that steering adds to generation ({name}) | at most 5% | {cost} |")
    costs = results["changes"]["over additions"].values() if "changes" in results else ()
    dearest = _times(max(costs, key=lambda one: one["median"], default=None), digits=2)
    lines.append(f"| a sweep of the dearest other edit, over one of additions | at most 1.3x | {dearest} |")
    work = f"{sweep['over bound']:.3f}" if sweep else NOT_MEASURED
    lines.append(f"| token-layers of the sweep, over the arithmetic bound | at most 1.1 | {work} |")
    return "## At a glance\n\n| what | asked | measured |\n|---|---|---|\n" + "\n".join(lines)


def _sweeps(results: Found) -> str:
    text = """## Scoring a sweep

(a) the plain CAA loop: one item, one condition at a time, `all logits` as the published code computes them, and with
last-position logits; (b) full recompute for each condition in left-padded batches of 16 similar lengths, last-position
logits; (c) the steering-vectors package; (d) this engine."""
    for title, key in (
        ("Every layer x (-1, 1), 50 items", "sweep"),
        ("Every layer x 7 multipliers, 12 seeded items", "seven_multipliers"),
        ("Every layer x (-1, 1), 12 seeded items, steering-vectors", "steering_vectors_scoring"),
    ):
        if "seconds" in results.get(key, {}):
            text += f"\n\n### {title}\n\n{_table(results[key])}"
        if "bound" in results.get(key, {}):
            found = results[key]
            text += (
                f"\n\nToken-layers: {found['token-layers']:,}, {found['over bound']:.3f} of the bound "
                f"{found['bound']:,} (prefix once, one unsteered suffix pass, and for each condition the blocks above "
                f"its first edit); the loop computes {found['loop']:,}, "
                f"{found['loop'] / found['token-layers']:.1f} times as many."
            )
    return text


def _changes(results: Found) -> str:
    found = results.get("changes")
    if not found:
        return ""
    costs = found["over additions"]
    lines = [
        f"| `{name}` | {seconds:.2f} | {_times(costs[name], digits=2) if name in costs else ''} | "
        f"{found['greatest difference'][name]:.1e} |"
        for name, seconds in found["seconds"].items()
    ]
    return (
        "### Other edits than additions\n\nEvery layer x (-1, 1), 12 items, each kind of edit; CPU seconds on one "
        "thread. "
        "The difference is of "
        "logits, between rows on a shared prefix and full forwards.\n\n"
        "| edit | seconds | over additions | greatest difference |\n|---|---|---|---|\n" + "\n".join(lines)
    )


def _extraction(results: Found) -> str:
    found = results.get("extraction")
    if not found:
        return ""
    versions = found.get("steering-vectors versions")
    note = (
        "\n\nsteering-vectors 0.12.2 needs transformers below 5: it runs in an environment of its own with "
        f"transformers {versions['transformers']} and the same torch build, at its best batch size, "
        f"{found['steering-vectors batch']} of (1, 2, 4, 8, 16), timed inside its process, without tokenization."
        if versions
        else ""
    )
    return f"## Extraction: vectors of all layers from 200 published pairs\n\n{_table(found)}{note}"


def _generation(results: Found) -> str:
    found = results.get("generation")
    if not found:
        return ""
    lines = [
        f"| {name} | {seconds:.2f} | {found['tokens per s'][name]:.0f} | {_times(found['ratios'].get(name))} | "
        f"{'yes' if found['identical'][name] else 'NO'} |"
        for name, seconds in found["seconds"].items()
    ]
    costs = {name: _percent(cost) for name, cost in found["steering"].items()}
    return (
        "## Generation: 7 multipliers x 16 prompts, 40 new tokens, greedy\n\n"
        "| way | seconds | tokens/s | ours is faster by | same tokens |\n|---|---|---|---|---|\n"
        + "\n".join(lines)
        + f"\n\nTime that steering adds, same rows and length: {costs['engine']} in the engine, {costs['generate']} "
        "with `steered` around `model.generate`."
    )


def _growth(results: Found) -> str:
    found = results.get("growth")
    if not found:
        return ""
    text = "## How the cost grows\n\n![Seconds by conditions, items and prompt length](benchmarks/growth.svg)"
    for title, key in (("conditions (8 items)", "conditions"), ("items (every layer x 2)", "items"),
                       ("prompt tokens (8 items, 24 conditions)", "prompt tokens")):  # fmt: skip
        counts = list(found[key])
        text += f"\n\n| {title} | {' | '.join(map(str, counts))} |\n|---|{'---|' * len(counts)}"
        for name in ("ours", "b"):
            if any(name in found[key][count] for count in counts):
                cells = [f"{found[key][count][name]:.2f}" if name in found[key][count] else "" for count in counts]
                text += f"\n| {name}, seconds | {' | '.join(cells)} |"
    return text + "\n\n(b) by prompt length was run for 4 of the 24 conditions and multiplied by 6."


def _more(results: Found) -> str:
    text = ""
    if memory := results.get("memory"):
        cells = ", ".join(f"{name} {value:.0f} MiB" for name, value in memory.items() if name != "load before")
        text = f"## Memory\n\nPeak above the loaded model while scoring the sweep on 50 items: {cells}."
    lora = results.get("lora_fit", {})
    if "seconds" in lora:
        over = lora["ours over bare"]
        text += (
            f"\n\n## LoRA\n\nFit on 64 pairs: {lora['seconds']['ours']:.1f} s; a bare SFTTrainer on the same rows, "
            f"model and settings: {lora['seconds']['bare SFTTrainer']:.1f} s. Ours takes {_percent(over)} more."
        )
    return text


def _real(path: Path) -> str:
    """The sections of benchmarks/real.py, where it was run."""
    if not path.exists():
        return ""
    found = json.loads(path.read_text())
    weights = f"{found['weights'] / 2**20:,.0f} MiB of weights"
    text = f"""## A real model

`python -m benchmarks.real FOLDER` on {found["model"]}, float32, {weights}; published
{found["behavior"]} items. CPU seconds of the process on one thread, one run. The sweep has the unsteered model as one
more condition; the plain loop and batched recompute were run on a part of it and scaled up by tokens, by the factor in
brackets. Memory is the peak above the loaded model, in MiB.

| what | way | CPU seconds | ours is faster by | memory | results |
|---|---|---|---|---|---|"""
    for title, one in found.get("sweep", {}).items():
        text += f"\n| sweep, {title} | ours | {one['ours']:.1f} | | {one['memory']['ours']:.0f} | |"
        for name, times in one["times"].items():
            apart, memory = one["greatest difference"][name], one["memory"][name]
            way = f"{name} (x{one['scale']:.1f})"
            text += f"\n| | {way} | {one[name]:.1f} | {times:.1f}x | {memory:.0f} | {apart:.0e} apart |"
    titles = {
        "extraction": "extraction, {count} pairs", "generation": "generation, {count} new tokens",
        "lora_fit": "LoRA fit, {count} pairs",
    }  # fmt: skip
    for key, title in titles.items():
        for name, seconds in found.get(key, {}).get("seconds", {}).items():
            own, what = found[key], title.format(**found[key]) if name == "ours" else ""
            times = "" if name == "ours" else f"{own['times'][name]:.2g}x"
            text += f"\n| {what} | {name} | {seconds:.1f} | {times} | {own['memory'][name]:.0f} | {_same(own, name)} |"
    return text


def _same(own: Found, name: str) -> str:
    """How the other way's results compare with ours, where they are compared."""
    if name == "ours" or not {"identical", "greatest difference"} & set(own):
        return ""
    if "identical" in own:
        return "same tokens" if own["identical"] else "OTHER TOKENS"
    return f"{own['greatest difference']:.0e} apart"


def _gpu(results: Found) -> str:
    if results["settings"]["device"] == "cuda":
        return ""
    return (
        "## Not measured\n\nA GPU was not at hand. Its targets (a Llama-2-7B-shaped random model in bf16: at least "
        f"50x over (a); generation at least 4x) are not measured. The command that would:\n\n    {GPU}"
    )


def _table(found: Found) -> str:
    lines = [
        f"| {name} | {seconds:.2f} | {_times(found['ratios'].get(name))} | {_difference(found, name)} |"
        for name, seconds in found["seconds"].items()
    ]
    return "| way | seconds | ours is faster by | greatest difference |\n|---|---|---|---|\n" + "\n".join(lines)


def _difference(found: Found, name: str) -> str:
    return f"{found['greatest difference'][name]:.1e}" if name in found["greatest difference"] else ""


def _ratio(found: Found | None, name: str) -> Found | None:
    return found.get("ratios", {}).get(name) if found else None


def _times(found: Found | None, *, digits: int = 1) -> str:
    if not found:
        return NOT_MEASURED
    median, least, most = (f"{found[key]:.{digits}f}" for key in ("median", "least", "most"))
    return f"{median}x [{least}, {most}]"


def _percent(found: Found) -> str:
    """Ratios around 1 as what is added."""
    median, least, most = (100 * (found[key] - 1) for key in ("median", "least", "most"))
    return f"{median:+.1f}% [{least:+.1f}, {most:+.1f}]"


def _figure(path: Path, growth: Found) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "caa_bench"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for axis, key in zip(axes, ("conditions", "items", "prompt tokens"), strict=True):
        for name, label in (("ours", "shared prefix (ours)"), ("b", "batched recompute")):
            points = [(int(count), found[name]) for count, found in growth[key].items() if name in found]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label)
        axis.set_xlabel(key)
        axis.set_ylabel("seconds")
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
