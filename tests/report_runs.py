"""Run folders made from simulated answers through the real store, so that reports are tested on known truth."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from caa_bench.analysis.diagnostics import as_lines, vector_diagnostics
from caa_bench.analysis.estimates import Resampling
from caa_bench.recipe import load_recipe
from caa_bench.runs.folder import RowStore, RunFolder
from caa_bench.runs.plan import Cell
from caa_bench.storage.files import content_key

BASES = ("none", "system_prompt_positive", "system_prompt_negative", "system_prompt_neutral")
BASES = (*BASES, "lora_sft_positive", "lora_sft_negative")
SHIFT = {
    "none": 0.0,
    "system_prompt_positive": 2.2,
    "system_prompt_negative": -2.0,
    "system_prompt_neutral": 0.1,
    "lora_sft_positive": 5.5,
    "lora_sft_negative": -5.0,
}
KEPT = {"system_prompt_positive": 0.6, "system_prompt_neutral": 1.0, "lora_sft_negative": 0.8}
GAIN = {"caa": 1.8, "random": 0.05, "shuffled": -0.08}


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What is simulated: log-odds = item + base + gain * kept * multiplier * layer, each order with its letter bias.

    Args:
        doses: the doses of a base that has others than 1; a base shifts by as much as its dose says.
        layers: steered blocks; the gain halves with every block away from block 3.
        failed: cells' positions whose rows are errors.
        dropped: how many of the last batches were never written.
        loss: (base, multiplier) -> what it takes from the log-odds of the correct option, at every layer, NaN for
            answers in error; None where capability was not measured.
        facts_asked: ids of the capability's questions; own facts of four categories where not given.
        draws: of each placebo, on the unchanged model alone; draw d does 1 / d of its gain, in turn either way.
        vector_layer / vector_model: where a transferred vector was taken.
        signal: how far apart the training pairs' sides lie, in standard deviations.
        trained: training items.
        rise: (base, multiplier) -> what it takes from the log-probability of each token of plain text, NaN for passages
            in error; None where perplexity was not measured.
    """

    bases: Sequence[str] = BASES
    doses: Mapping[str, Sequence[float]] = field(default_factory=dict)
    vectors: Sequence[str] = ("caa", "random", "shuffled")
    multipliers: Sequence[float] = (-1.0, -0.5, 0.5, 1.0)
    layers: Sequence[int] = (3,)
    items: int = 60
    behavior: str = "refusal"
    title: str = "Refusal"
    matching: str = "the assistant declines"
    recipe: str = "compare"
    overrides: Sequence[str] = ()
    warnings: Sequence[str] = ()
    kept: Mapping[str, float] = field(default_factory=lambda: dict(KEPT))
    gain: Mapping[str, float] = field(default_factory=lambda: dict(GAIN))
    letter_bias: float = 0.3
    mass: float = 0.99
    failed: Sequence[int] = ()
    dropped: int = 0
    loss: Mapping[tuple[str, float], float] | None = None
    facts_asked: Sequence[str] = ()
    draws: int = 1
    vector_layer: int | None = None
    vector_model: str = ""
    signal: float = 4.0
    trained: int = 40
    rise: Mapping[tuple[str, float], float] | None = None
    seed: int = 0


def simulate(folder: Path, simulated: Simulated | None = None, **changes: Any) -> Path:
    """A finished run folder; `changes` are fields of `Simulated`."""
    plan = simulated or Simulated(**changes)
    overrides = [f"behavior={plan.behavior}", f"bases={json.dumps(list(plan.bases))}", "draws=999", *plan.overrides]
    recipe = load_recipe(plan.recipe, overrides).flat()
    cells = _cells(plan, recipe)
    chunks = [range(start, min(start + 32, plan.items)) for start in range(0, plan.items, 32)]
    batches = [(f"batch{b:03d}{c}", base, chunk) for b, base in enumerate(plan.bases) for c, chunk in enumerate(chunks)]
    with RunFolder(folder, recipe=recipe) as run:
        run.record(
            cells=[asdict(cell) for cell in cells],
            batches=[key for key, _, _ in batches] + ["facts"] * bool(plan.facts_asked),
            behavior={"id": plan.behavior, "title": plan.title, "matching": plan.matching},
            layers={"count": 6, "default": 3, "hidden": 128},
            warnings=list(plan.warnings),
            artifacts=_artifacts(folder, plan),
            diagnostics={"caa": _diagnostics(plan)} if "caa" in plan.vectors else {},
        )
        if recipe["split"] == "test":
            run.open_test(content_key([key for key, _, _ in batches]))
        store = RowStore(run.rows_path)
        for key, base, chunk in batches[: len(batches) - plan.dropped]:
            store.append(key, _rows(plan, recipe, [cell for cell in cells if cell.base == base], chunk, cells))
        if plan.facts_asked:
            store.append("facts", _facts(plan, cells))
        run.set_status("error" if plan.failed or plan.dropped else "success")
    return folder


def _cells(plan: Simulated, recipe: Mapping[str, Any]) -> list[Cell]:
    cells = _cells_of("answer_probability", plan.vectors, plan, recipe)
    cells += [] if plan.loss is None else _cells_of("capability", ("caa",), plan, recipe)
    return cells if plan.rise is None else [*cells, *_cells_of("perplexity", ("caa",), plan, recipe)]


def _cells_of(evaluator: str, vectors: Sequence[str], plan: Simulated, recipe: Mapping[str, Any]) -> list[Cell]:
    cells = []
    for base, base_dose in [(name, dose) for name in plan.bases for dose in plan.doses.get(name, (1.0,))]:
        grid = [(*v, layer, m) for v in _on_top(vectors, base, plan) for layer in plan.layers for m in plan.multipliers]
        for vector, fit, layer, multiplier in [("", "", None, 0.0), *grid]:
            identity = {
                "model": recipe["model"],
                "protocol": recipe["protocol"],
                "split": recipe["split"],
                "behavior": plan.behavior,
                "evaluator": evaluator,
                "base": base,
                "base_dose": base_dose,
                "vector": vector,
                "vector_behavior": plan.behavior if vector else "",
                "vector_layer": plan.vector_layer if vector and plan.vector_layer is not None else layer,
                "layer": layer,
                "multiplier": multiplier,
                "vector_model": plan.vector_model if vector else "",
                "fit": fit,
            }
            cells.append(Cell(key=content_key(identity)[:16], **identity))
    return cells


def _on_top(vectors: Sequence[str], base: str, plan: Simulated) -> list[tuple[str, str]]:
    """Each vector with the number of its draw, "" where it has none."""
    if plan.draws == 1:
        return [(vector, "") for vector in vectors]
    draws = [str(draw) for draw in range(1, plan.draws + 1)] if base == "none" else []
    return [(v, d) for v in vectors for d in (draws if v in ("random", "shuffled") else [""])]


def _rows(
    plan: Simulated, recipe: Mapping[str, Any], cells: Sequence[Cell], chunk: range, every: Sequence[Cell]
) -> list[dict[str, Any]]:
    orders = (0,) if recipe["protocol"] == "caa" else (0, 1)
    failed = {every[place].key for place in plan.failed}
    rows = []
    for number in chunk:
        level, slope, bias, noise = np.random.default_rng([plan.seed, number]).normal(size=4)
        for cell in cells:
            if cell.evaluator == "capability":
                rows += [] if plan.facts_asked else _correct(plan, cell, f"own/kind {number % 4}/{number:04d}", level)
                continue
            if cell.evaluator == "perplexity":
                rows.append(_read(plan, cell, number, noise))
                continue
            y = -0.1 + 1.2 * level + SHIFT.get(cell.base, 1.0) * cell.base_dose
            if cell.vector:
                kept = plan.kept.get(cell.base, 0.85)
                near = 0.5 ** abs((cell.layer or 0) - 3)
                draw = int(cell.fit or 1)
                y += (
                    plan.gain[cell.vector]
                    / draw
                    * (-1) ** (draw - 1)
                    * kept
                    * near
                    * cell.multiplier
                    * (1 + 0.35 * slope)
                )
                y += 0.15 * noise * len(cell.base) / 20
            for order in orders:
                matching = (number + order) % 2
                key_a = 1 if matching == 0 else -1
                odds = y + key_a * plan.letter_bias * (1 + bias)
                rows.append(_row(plan, cell, number, order, matching, odds, failed=cell.key in failed))
    return rows


def _correct(plan: Simulated, cell: Cell, item: str, level: float) -> list[dict[str, Any]]:
    """A plain question in both orders, or in the paper's."""
    lost = (plan.loss or {}).get((cell.base, cell.multiplier), 0.0) * cell.base_dose
    rows, number = [], int(item.rpartition("/")[2])
    for order in (0,) if cell.protocol == "caa" else (0, 1):
        odds = 0.0 if math.isnan(lost) else 1.5 + 0.5 * level - lost
        row = _row(plan, cell, number, order, (number + order) % 2, odds, failed=math.isnan(lost))
        rows.append(row | {"item": item} | {"cluster": f"{item.partition('/')[0]}/{number:04d}"})
    return rows


def _facts(plan: Simulated, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """`facts_asked` in every cell of the capability."""
    levels = np.random.default_rng([plan.seed, 1]).normal(size=len(plan.facts_asked))
    asked = list(zip(plan.facts_asked, levels, strict=True))
    own = [cell for cell in cells if cell.evaluator == "capability"]
    return [row for cell in own for item, level in asked for row in _correct(plan, cell, item, level)]


def _read(plan: Simulated, cell: Cell, number: int, noise: float) -> dict[str, Any]:
    """One passage of 5 to 24 tokens."""
    tokens, risen = 5 + 7 * number % 20, (plan.rise or {}).get((cell.base, cell.multiplier), 0.0)
    own = 2 + 0.3 * noise + risen * (1 + 0.2 * noise)
    return {
        "cell": cell.key,
        "item": f"passages/{number:04d}",
        "cluster": f"passages/{number:04d}",
        "task": "",
        "metric": "perplexity",
        "aggregation": "perplexity",
        "value": None if math.isnan(risen) else -own * tokens,
        "weight": tokens,
        "error": "a logit is not finite" if math.isnan(risen) else None,
    }


def _row(
    plan: Simulated, cell: Cell, number: int, order: int, matching: int, odds: float, *, failed: bool
) -> dict[str, Any]:
    right, wrong = 10 + odds / 2, 10 - odds / 2
    logits = [right, wrong] if matching == 0 else [wrong, right]
    log_z = max(logits) + math.log1p(math.exp(-abs(odds))) - math.log(plan.mass)
    return {
        "cell": cell.key,
        "item": f"{cell.split}/{number:04d}",
        "cluster": f"{cell.split}/{number:04d}",
        "order": order,
        "matching": matching,
        "letters": "AB",
        "logits": None if failed else logits,
        "log_z": None if failed else log_z,
        "error": "a logit is not finite" if failed else None,
    }


def _diagnostics(plan: Simulated) -> list[dict[str, Any]]:
    """Of items in both orders whose sides lie `signal` apart in six layers of width 16; no spread in the first."""
    rng, count = np.random.default_rng(plan.seed), 2 * plan.trained
    noise = rng.normal(size=(2, count, 6, 16))
    noise[:, :, 0] = 0
    noise[0, :, :, 0] += plan.signal
    return as_lines(
        vector_diagnostics(noise[0], noise[1], clusters=[n // 2 for n in range(count)], how=Resampling(draws=999))
    )


def _artifacts(folder: Path, plan: Simulated) -> dict[str, str]:
    """Artifact folders with a timing beside each, as the artifact store leaves them."""
    root = folder.parent.parent / "artifacts"
    trained = [base for base in plan.bases if base.startswith("lora")] + list(plan.vectors)
    found = {}
    for place, label in enumerate(trained):
        kept = root / f"{label}-0000{place}"
        kept.mkdir(parents=True, exist_ok=True)
        (kept / "tensors.safetensors").write_bytes(b"0" * (30000 if label.startswith("lora") else 3100))
        kept.with_suffix(".timing.json").write_text(json.dumps({"fit_s": 31.0 if label.startswith("lora") else 1.5}))
        found[label] = str(kept)
    return found
