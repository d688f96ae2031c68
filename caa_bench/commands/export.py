"""`export`: a run's fitted artifacts in a folder of their own."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, Namespace
from pathlib import Path

from caa_bench.commands.base import Command, run_named
from caa_bench.errors import UserError


class Export(Command):
    """Safetensors and JSON, every checksum checked, and a card that says what each did in the run."""

    name = "export"
    help = "copy a run's fitted artifacts to a folder of their own"

    def add_options(self, parser: ArgumentParser) -> None:
        """Adds the run folder, and the new folder that artifacts are copied to."""
        parser.add_argument("folder", help="the run folder")
        parser.add_argument("target", help="a new folder")

    def run(self, options: Namespace) -> int:
        """Copy each artifact with a card, and print a line for it."""
        from caa_bench.interventions import Intervention
        from caa_bench.interventions.card import write_card
        from caa_bench.report import make_report
        from caa_bench.report.exports import run_effects, run_origin
        from caa_bench.runs.artifacts import kept_at
        from caa_bench.runs.folder import read_manifest
        from caa_bench.storage.artifact_folder import read_artifact
        from caa_bench.storage.files import inside

        target = Path(options.target)
        if target.exists():
            raise UserError(f"{target}: exists already; give a new folder")
        run = run_named(options.folder)
        report = make_report(run)
        found = {label: kept_at(run, path) for label, path in read_manifest(run)["facts"]["artifacts"].items()}
        for label, folder in found.items():
            read_artifact(folder, expect=None)
            copy = inside(target, label)
            shutil.copytree(folder, copy)
            own = label.partition("@")[0]  # of several fits the run shows the mean
            origin, effects = run_origin(report, own), run_effects(report, own)
            write_card(copy, Intervention.from_pretrained(copy), origin, effects=effects)
            print(f"{label}: {target / label}")
        return 0
