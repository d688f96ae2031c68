"""What a page says of the run itself: model, split and n at its top; recipe, versions and model at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from caa_bench.config.recipe_yaml import dump
from caa_bench.report import words
from caa_bench.report.sections.measures import served
from caa_bench.runs.tuning_record import tuning_lines

if TYPE_CHECKING:
    from caa_bench.report.model import Report
    from caa_bench.runs.record import RunRecord

COMMAND = "caa-bench compare --recipe recipe.yaml"
REPORT_COMMAND = "caa-bench report ."
Fact = tuple[str, str, str]
"""What stands at the top: its name, its value, and the section that it leads to."""


def recipe_yaml(report: Report) -> str:
    """The run's exact recipe, every default written out; `caa-bench compare --recipe recipe.yaml` repeats the run."""
    values: dict[str, Any] = {}
    for key, value in report.record.settings.items():
        if value == {}:  # a section without keys
            continue
        *outer, name = key.split(".")
        here = values
        for part in outer:
            here = here.setdefault(part, {})
        here[name] = value
    return f"# {COMMAND}\n{dump(values)}"


def facts(report: Report) -> list[Fact]:
    """n, seeds and what else stands at the top, each with the section that it leads to."""
    record, chosen, (items, clusters) = report.record, report.headline, report.asked
    counted = f"{items} items" + ("" if clusters == items else f" in {clusters} clusters")
    seeds = {"seed": record.seed} | {key: value for key, value in record.settings.items() if key.endswith(".seed")}
    same = len(set(seeds.values())) == 1
    found_in = "tuning" if tuning_lines(record.tuning) else "layers" if len(chosen.layers) > 1 else "repeat"
    seeded = str(record.seed) if same else ", ".join(f"{name.removesuffix('.seed')} {x}" for name, x in seeds.items())
    return [
        ("model", record.model_name, "repeat"),
        ("split", record.split, "repeat"),
        ("n", counted if items else "no A/B test", "samples"),
        *([("orders", "given only", "repeat")] if record.protocol == "caa" else []),
        *([("layer", words.count(chosen.layer), found_in)] if chosen.layer is not None else []),
        *([("fits", str(record.fits), "fits")] if record.fits > 1 else []),
        ("seed", seeded, "repeat"),
        *_served(report),
        *([("status", record.status, "")] if record.status != "success" else []),
    ]


def _served(report: Report) -> list[Fact]:
    """How many answers in words a server generated, where it did."""
    there, every = (0, 0) if report.answers is None else served(report.answers)
    return [("answers by a server", f"{there:,} of {every:,}", "answers")] if there else []


def repeat(report: Report) -> dict[str, Any]:
    """How to run it again, and on what it ran."""
    record = report.record
    tries = report.headline.choices[0].tries if report.headline.choices else 0
    tuned = (
        f"{tries} doses and layers were tried on these items."
        if tries
        else "No dose or layer was tuned on these items."
    )
    opened = (
        f" The test split was evaluated {record.test_opened} time{'s' if record.test_opened != 1 else ''} by this run"
        + (f", which was opening {record.test_opening} of it with this model." if record.test_opening > 1 else ".")
    )
    return {
        "said": tuned + (opened if record.split == "test" else ""),
        "command": COMMAND,
        "report_command": REPORT_COMMAND,
        "recipe": recipe_yaml(report),
        "versions": [(name, version or words.NA) for name, version in record.versions.items()],
        "model": list(_model(record)),
    }


def _model(record: RunRecord) -> list[tuple[str, str]]:
    facts = record.model_facts
    plain = [(name, words.NA if x is None else str(x)) for name, x in facts.items() if name != "files"]
    layers = [(f"layers: {name}", str(value)) for name, value in record.layers.items()]
    files = [(name, str(checksum)[:16]) for name, checksum in facts.get("files", {}).items()]
    return [("name", record.model), *layers, *plain, *files, ("recipe key", record.recipe_key[:16])]
