"""`export`: a run's fitted artifacts in a folder of their own, and its vectors in the formats of other tools."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from caa_bench.commands.base import Command, run_named
from caa_bench.errors import UserError

if TYPE_CHECKING:
    from caa_bench.interventions import Intervention
    from caa_bench.report import Report

ELSEWHERE = "for_other_tools"


class Export(Command):
    """Safetensors, JSON and GGUF, every checksum checked, and a card that says what each did in the run."""

    name = "export"
    help = "copy a run's fitted artifacts to a folder of their own, vectors also for llama.cpp, repeng and others"

    def add_options(self, parser: ArgumentParser) -> None:
        """Adds the run, the new folder that artifacts are copied to, and the layer of the vectors."""
        parser.add_argument("folder", metavar="RUN", help="the run's folder or name")
        parser.add_argument("target", metavar="FOLDER", help="a new folder")
        parser.add_argument("--layer", type=int, help="of the vectors for other tools, from 0 (default: the run's own)")

    def run(self, options: Namespace) -> int:
        """Copy each artifact with a card, and print a line for it."""
        from caa_bench.interventions import Intervention
        from caa_bench.interventions.card import write_card
        from caa_bench.report import make_report
        from caa_bench.report.exports import run_effects, run_origin
        from caa_bench.runs.artifacts import kept_at
        from caa_bench.runs.folder import read_manifest
        from caa_bench.runs.tuning_record import dose_unit
        from caa_bench.storage.artifact_folder import read_artifact
        from caa_bench.storage.files import inside

        target = Path(options.target)
        if target.exists():
            raise UserError(f"{target}: exists already; give a new folder")
        run = run_named(options.folder)
        report = make_report(run)
        _refuse_unwritable(target)
        found = {label: kept_at(run, path) for label, path in read_manifest(run)["facts"]["artifacts"].items()}
        for label, folder in found.items():
            read_artifact(folder, expect=None)
            copy = inside(target, label)
            shutil.copytree(folder, copy)
            own = label.partition("@")[0]  # of several fits the run shows the mean
            effects, unit = run_effects(report, own), dose_unit(report.record.tuning, own)
            origin = replace(run_origin(report, own), layer=lead_layer(report, own), multiplier=unit)
            fitted = Intervention.from_pretrained(copy)
            write_card(copy, fitted, origin, effects=effects)
            print(f"{label}: {target / label}")
            if fitted.role == "vector" and own not in report.record.placebos:
                print(f"  {_for_other_tools(report, fitted, target / ELSEWHERE / label, layer=options.layer)}")
        return 0


def _for_other_tools(report: Report, vector: Intervention, folder: Path, *, layer: int | None) -> str:
    """The vector of one layer in other formats, or why there is none; one line."""
    from caa_bench.commands.interchange import write_interchange
    from caa_bench.runs.folder import read_manifest

    chosen = lead_layer(report, vector.label) if layer is None else layer
    if chosen is None:
        return "not measured in this run, so give --layer for a file that other tools read"
    model_key = read_manifest(report.folder)["facts"].get("model", {})
    try:
        written = write_interchange(folder, vector, layer=chosen, model=report.record.model, model_key=model_key)
    except UserError as error:
        return error.lines[0]
    return f"layer {chosen} for other tools: {folder} ({', '.join(written)})"


def lead_layer(report: Report, label: str) -> int | None:
    """The layer of a vector that stands for it: the run's leading one, else its first; None where it has none."""
    layers = report.shifts.loc[report.shifts["vector"] == label, "layer"].dropna()
    if layers.empty:
        return None
    lead = report.headline.layer
    return int(lead if lead in set(layers) else layers.iloc[0])  # type: ignore[arg-type]


def _refuse_unwritable(target: Path) -> None:
    """Before anything is copied.

    Raises:
        UserError: the folder cannot be made.
    """
    try:
        target.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror}); choose another folder") from None
