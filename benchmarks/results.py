"""Finished runs on real models -> `results/`: the small files of each, and one page that reads them side by side.

    python -m benchmarks.results RUN RUN ...

Each run folder gives `results/<model>/<behavior>/`: the recipe, the cells, the stacking table, what tuning tried, the
printed table and the first figures. Weights and items are left out, and so is every path of the machine: a model is
called by its folder's name. The page `results/README.md` is written from the tables of all runs that are kept there.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from caa_bench.report import Report, words, write_report
from caa_bench.report.arms import ENDS
from caa_bench.storage.files import write_atomic

ROOT = Path(__file__).parents[1] / "results"
TABLES = ("cells.csv", "stacking.csv", "arms.csv", "placebos.csv", "tuning.csv", "table.txt")
FIGURES = ("stacking.svg", "dose_curves.svg")
MACHINE_KEYS = ("data_dir", "output_dir", "report_to", "project")
"""Keys of a recipe that are about the machine it ran on."""

HEAD = """# Results on real models

What `make compare` found on small pretrained models, with nothing tuned by hand: each run searched the layer and
the dose on the selection split, then opened the test split once. [docs/findings.md](../docs/findings.md) reads them.

- The models are Q4_K_M files (4-bit weights) of `Qwen2.5-Coder-0.5B-Instruct`, `Qwen2.5-Coder-1.5B-Instruct` and of
  the base model `Gemma 3 270M`, dequantized and computed in bfloat16 on a CPU that has arithmetic for it. They are
  small: a finding here is about them and says little about models a hundred times their size.
- Logits are summed in float32. Placebos of shuffled labels have the length that CAA makes from such labels.
- The behaviors are the published splits of arXiv 2312.06681 (`caa-bench data download`), 60 training pairs and the
  whole test split of 50 items, each in both option orders.
- Each folder holds the recipe, the cells, the stacking table, the search, the printed table and the figures. A run is
  repeated with the same file of weights by

      make compare BEHAVIOR=refusal MODEL=/path/to/the/model SET="max_pairs=60 limit=50"

The tables below are written by `python -m benchmarks.results` from these files. Shifts are in log-odds towards the
matching answer, with 95% intervals over items; "p" is p(matching).
"""


def keep(run: Path, root: Path = ROOT) -> Path:
    """Copy what is small and anybody's of a finished run; the tables are computed anew from its rows first.

    Returns:
        The folder under `root`.
    """
    report = write_report(run)
    folder = root / Path(report.record.model).name / report.record.behavior.id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    given, short = report.record.model, Path(report.record.model).name
    for file in (*(run / name for name in TABLES), *(run / "figures" / name for name in FIGURES)):
        if file.is_file():
            write_atomic(folder / file.name, file.read_text(encoding="utf-8").replace(given, short))
    write_atomic(folder / "recipe.yaml", _recipe(run / "recipe.yaml"))
    write_atomic(folder / "summary.csv", pd.DataFrame(_summary(report)).to_csv(index=False, float_format="%.6g"))
    return folder


def page(root: Path = ROOT) -> str:
    """The page over every run that is kept below `root`: what moves each behavior, and what stacks."""
    found = [pd.read_csv(path).assign(model=path.parts[-3]) for path in sorted(root.glob("*/*/summary.csv"))]
    parts = [HEAD]
    for model, lines in pd.concat(found).groupby("model", sort=False) if found else ():
        parts.append(f"## {model}\n\n{_moves(lines)}\n\n{_stacks(lines)}\n")
    return "\n".join(parts)


def _recipe(file: Path) -> str:
    """The recipe, its model called by its folder's name and without the keys of the machine."""
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    kept = {key: value for key, value in values.items() if key not in MACHINE_KEYS}
    return yaml.safe_dump(kept | {"model": Path(kept["model"]).name}, sort_keys=False)


def _summary(report: Report) -> Iterator[dict[str, Any]]:
    """The lines of the first table, with where the vector acts and how many items there were."""
    numbers = [f"{name}{end}" for name in ("shift", "retention", "capability") for end in ENDS]
    names = [
        "kind",
        "arm",
        "base",
        "vector",
        "multiplier",
        "n",
        "p_before",
        "p_balanced",
        *numbers,
        "option_mass",
        "verdict_words",
    ]
    for line in report.arms.to_dict("records"):
        place = {"behavior": report.record.behavior.id, "layer": report.headline.layer}
        yield place | {name: line[name] for name in names}


def _moves(lines: pd.DataFrame) -> str:
    """A line a behavior: where the vector acts, and how far each arm alone moves p and log-odds."""
    rows = []
    for behavior, one in lines.groupby("behavior", sort=False):
        none = one[one["kind"] == "none"].iloc[0]
        vectors = one[(one["kind"] == "vector") & (one["base"] == "none")].sort_values("multiplier")
        bases = {line["base"]: line for line in one[one["kind"] == "base"].to_dict("records")}
        layer = words.NA if pd.isna(none["layer"]) else f"{none['layer']:.0f}"
        down, up = (_arm(vectors.iloc[place]) if len(vectors) else words.NA for place in (0, -1))
        others = [_arm(bases[name]) if name in bases else words.NA for name in _named(bases)]
        rows.append([behavior, layer, words.probability(none["p_balanced"]), down, up, *others])
    head = ["behavior", "layer", "p unsteered", "CAA down", "CAA up", "prompt +", "prompt -", "LoRA +", "LoRA -"]
    return _markdown(head, rows)


def _named(bases: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{kind}_{side}" for kind in ("system_prompt", "lora_sft") for side in ("positive", "negative"))


def _arm(line: Mapping[str, Any]) -> str:
    """`.55 -> .40, -0.62 [-0.70, -0.54]`, and for a vector how it stands among its placebos."""
    told = f"; {line['verdict_words']}" if isinstance(line["verdict_words"], str) and line["kind"] == "vector" else ""
    moved = f"{words.probability(line['p_balanced'])}, {words.signed(line['shift'])}"
    return f"{moved} {_ends(line, 'shift')}{told}"


def _stacks(lines: pd.DataFrame) -> str:
    """A line a behavior and base: the vector on top at each of its doses, with the verdict."""
    stacks = lines[lines["kind"] == "stack"]
    rows = [
        [
            line["behavior"], line["base"], words.multiplier(line["multiplier"]),
            f"{words.signed(line['shift'])} {_ends(line, 'shift')}",
            words.interval(line, "retention"), str(line["verdict_words"]),
        ]
        for line in stacks.to_dict("records")
    ]  # fmt: skip
    return _markdown(["behavior", "base", "CAA", "shift on top", "retention", "verdict"], rows)


def _ends(line: Mapping[str, Any], name: str) -> str:
    low, high = line[f"{name}_low"], line[f"{name}_high"]
    return "" if math.isnan(low) or math.isnan(high) else f"[{words.signed(low)}, {words.signed(high)}]"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)


def main() -> None:
    """Keep the runs that the command line names, and write the page over all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="finished run folders")
    for run in parser.parse_args().runs:
        print(keep(run))
    write_atomic(ROOT / "README.md", page())


if __name__ == "__main__":
    main()
