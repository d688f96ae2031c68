"""Embedded model -> its measured truth, by the project's own `compare`: `measured.json` and the model's card.

    python -m benchmarks.measure_tiny [--model FOLDER] [--runs FOLDER]

Every figure of the card comes from here: levels and shifts by base and dose, placebos, other layers, other behaviors'
vectors, the planted direction, answers in words, plain facts. About ten minutes on two cores; `make tiny` runs it last.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.benchmark import Benchmark
from caa_bench.interventions import CAA
from caa_bench.models.model import ChatModel
from caa_bench.recipe import load_recipe
from caa_bench.storage.paths import package_folder
from caa_bench.tiny import truth
from caa_bench.tiny.words import BEHAVIORS

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report

HERE = package_folder() / "tiny"
DOSES = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
CALIBRATION_BASES = ("system_prompt_no_room", "system_prompt_works_against", "system_prompt_untouched")
LEVELS = ("n", "p_balanced", "p_balanced_low", "p_balanced_high", "log_odds", "option_mass", "letter_bias")
STACKED = ("interaction", "interaction_low", "interaction_high", "retention", "verdict", "tags")

Say = Callable[[str], None]


def measure(chat: ChatModel, runs: Path, *, say: Say = print) -> dict[str, Any]:
    """Every figure of the card.

    Args:
        chat: the embedded model.
        runs: where run folders and artifacts go; a second call reuses them.
        say: called with a line a step.
    """
    found: dict[str, Any] = {"behaviors": {}, "transfer": {}}
    for behavior in BEHAVIORS:
        say(f"{behavior}: every base and dose, every layer, answers in words")
        bases = CALIBRATION_BASES if behavior == truth.CALIBRATION else ()
        found["behaviors"][behavior] = _behavior(chat, behavior, runs, bases)
    for behavior in BEHAVIORS:
        say(f"{behavior}: the vectors of the other behaviors")
        found["transfer"][behavior] = {
            other: _transfer(chat, behavior, other, runs) for other in BEHAVIORS if other != behavior
        }
    return found


def _behavior(chat: ChatModel, behavior: str, runs: Path, more_bases: Sequence[str]) -> dict[str, Any]:
    recipe = load_recipe("compare")
    bases = "[" + ", ".join((*recipe.args.bases, *more_bases)) + "]"
    doses = f"caa.multipliers={list(DOSES)}"
    benchmark, report = _run(chat, behavior, runs, "compare", (f"bases={bases}", doses))
    _, sweep = _run(chat, behavior, runs, "layer_sweep", ())
    near = f"caa.multipliers={[dose for dose in DOSES if abs(dose) <= 1]}"
    _, answers = _run(chat, behavior, runs, "open_ended", ("bases=[none]", near))
    vectors = next(item for item in benchmark.vectors if isinstance(item, CAA)).fitted()
    return {
        "cells": _cells(report.cells),
        "stacking": _stacking(report.stacking),
        "sweep": _sweep(sweep),
        "cosines": _cosines(vectors[truth.PLANTED_LAYER], Path(chat.source)),
        "words": _words(answers),
        "capability": _capability(report),
    }


def _run(chat: ChatModel, behavior: str, runs: Path, recipe: str, overrides: Sequence[str]) -> tuple[Benchmark, Report]:
    benchmark = _compared(chat, behavior, runs, recipe, overrides)
    return benchmark, benchmark.report()


def _compared(chat: ChatModel, behavior: str, runs: Path, recipe: str, overrides: Sequence[str]) -> Benchmark:
    made = load_recipe(recipe, [*overrides, "report_to=[]", f"output_dir={runs}"])
    return Benchmark.from_recipe(replace(made, behavior=behavior), chat=chat).compare()


def _cells(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Levels of every cell; `letter_locked` too, a share of items."""
    chosen = ["base", "vector", "multiplier", *LEVELS, "letter_locked"]
    return _plain(cells[cells["evaluator"] == "answer_probability"][chosen])


def _stacking(stacking: pd.DataFrame) -> list[dict[str, Any]]:
    """The vector on top of every base, at the doses over which the truth is stated."""
    chosen = stacking[(stacking["vector"] == "caa") & (stacking["evaluator"] == "answer_probability")]
    return _plain(chosen[["base", "multiplier", *STACKED]])


def _sweep(report: Report) -> dict[str, float]:
    """Layer -> mean of how far +1 raises and -1 lowers p(matching)."""
    cells = report.cells[report.cells["evaluator"] == "answer_probability"]
    p = cells[cells["vector"] == "caa"].pivot_table(index="layer", columns="multiplier", values="p_balanced")
    return {str(int(layer)): round((row[1.0] - row[-1.0]) / 2, 4) for layer, row in p.iterrows()}


def _cosines(vector: Any, folder: Path) -> dict[str, float]:
    """Cosine of the fitted vector with every planted direction."""
    from safetensors.torch import load_file

    directions = load_file(folder / "directions.safetensors")["directions"]
    return {b: round(float(d @ vector / vector.norm()), 4) for b, d in zip(BEHAVIORS, directions, strict=True)}


def _transfer(chat: ChatModel, behavior: str, other: str, runs: Path) -> float:
    """The larger change of p(matching) by `other`'s vector at -1 and +1."""
    from caa_bench.report import make_report

    overrides = ["bases=[none]", "vectors=[caa]", "caa.multipliers=[-1,1]", f"caa.vector_behavior={other}"]
    overrides += ["draws=99", "evaluators=[answer_probability]"]
    benchmark = _compared(chat, behavior, runs, "compare", overrides)
    p = make_report(benchmark.folder).cells.set_index("multiplier")["p_balanced"]
    down, up = float(p[-1.0] - p[0.0]), float(p[1.0] - p[0.0])
    return round(up if abs(up) > abs(down) else down, 4)


def _words(report: Report) -> dict[str, dict[str, float]]:
    """Multiplier -> share of matching answers among those the grammar can parse, and the share that it can."""
    if report.answers is None:
        raise RuntimeError("the run holds no answers in words")
    cells = report.answers.cells.sort_values("multiplier")
    return {
        f"{cell['multiplier']:g}": {
            "n": int(cell["n_items"]),
            "parsed": round(1 - cell["missing_share"], 4),
            **{key: round(cell[key], 4) for key in ("score", "score_low", "score_high")},
        }
        for cell in cells.to_dict("records")
    }


def _capability(report: Report) -> dict[str, Any]:
    """Accuracy on the plain facts without any intervention."""
    cells = report.cells[(report.cells["evaluator"] == "capability") & (report.cells["multiplier"] == 0)]
    (cell,) = cells[cells["base"] == "none"].to_dict("records")
    return {"n": int(cell["n"])} | {key: round(cell[key], 4) for key in ("accuracy", "accuracy_low", "accuracy_high")}


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Lines of a table as JSON: four decimals, missing as null."""
    text = table.round(4).to_json(orient="records", double_precision=4)
    lines: list[dict[str, Any]] = json.loads(text)
    return lines


def main() -> None:
    """Measure and write both files."""
    from caa_bench.tiny.card import write_card

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=HERE / "model", help="the model's folder")
    parser.add_argument("--runs", type=Path, help="keep the runs here (default: a folder that is thrown away)")
    arguments = parser.parse_args()
    chat = ChatModel.find("tiny", changes={} if arguments.model == HERE / "model" else {"source": str(arguments.model)})
    with tempfile.TemporaryDirectory() as scratch:
        measured = measure(chat, arguments.runs or Path(scratch), say=lambda line: print(line, flush=True))
    target = arguments.model.parent / "measured.json"
    target.write_text(json.dumps(measured, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    write_card(arguments.model, measured)
    print(f"{target} and {arguments.model / 'README.md'} are written")


if __name__ == "__main__":
    main()
