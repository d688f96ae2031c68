"""wandb as a view of the results: probability against multiplier, one run a curve, so that conditions overlay.

Made from the finished tables, never while measuring: it can be repeated, and it can never fail or change a run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.callbacks import Callback
from caa_bench.files import content_key
from caa_bench.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report

METRICS = ("p_balanced", "p_balanced_low", "p_balanced_high", "log_odds", "option_mass", "letter_bias")
QUIET = {"console": "off", "silent": True, "disable_git": True, "save_code": False, "x_disable_stats": True}


def trackers(recipe: Recipe) -> list[Callback]:
    """The callbacks that `report_to` names."""
    made: list[Callback] = []
    if "wandb" in recipe.args.report_to:
        made.append(WandbTracker(project=recipe.args.project))
    return made


class WandbTracker(Callback):
    """Logs every curve of a finished report; offline without an account, and without a question asked.

    Args:
        project: the project's name.
    """

    def __init__(self, *, project: str) -> None:
        self.project = project

    def __str__(self) -> str:
        return "wandb"

    def on_report(self, **event: Any) -> None:
        """One run a base and vector, then a summary run with the cells as a table and all curves in one chart."""
        report: Report = event["report"]
        curves = _curves(report)
        for name, curve in curves.items():
            self._log_curve(report, name=name, curve=curve)
        self._log_summary(report, curves)

    def _log_curve(self, report: Report, *, name: str, curve: pd.DataFrame) -> None:
        with self._run(report, name=name, job_type="curve") as run:
            run.define_metric("behavior/*", step_metric="multiplier")
            for line in curve.to_dict("records"):
                known = {f"behavior/{metric}": line[metric] for metric in METRICS if line[metric] == line[metric]}
                run.log({"multiplier": line["multiplier"]} | known)

    def _log_summary(self, report: Report, curves: dict[str, pd.DataFrame]) -> None:
        import wandb

        with self._run(report, name="summary", job_type="summary") as run:
            chart = wandb.plot.line_series(
                xs=[curve["multiplier"].tolist() for curve in curves.values()],
                ys=[curve["p_balanced"].tolist() for curve in curves.values()],
                keys=[*curves],
                title=f"{report.manifest['facts']['behavior']['title']}: p(matching) against multiplier",
                xname="multiplier",
            )
            run.log({"curves": chart, "cells": wandb.Table(dataframe=report.cells.astype(object))})

    def _run(self, report: Report, *, name: str, job_type: str) -> Any:
        """A run with an id that follows from what it shows, so that a repeat replaces it."""
        import wandb

        recipe = report.manifest["recipe"]
        key = content_key([recipe, name])[:16]
        folder = Path(report.folder)
        for earlier in (folder / "wandb").glob(f"*run-*-{key}"):
            shutil.rmtree(earlier)
        settings: dict[str, Any] = {
            "id": key,
            "resume": "allow",
            "project": self.project,
            "dir": str(folder),
            "name": name,
        }
        settings |= {"group": f"{recipe['behavior']}-{recipe['model']}", "job_type": job_type, "config": recipe}
        for mode in _modes():
            try:
                return wandb.init(mode=mode, settings=wandb.Settings(init_timeout=30, **QUIET), **settings)
            except wandb.errors.Error:
                if mode == "offline":
                    raise
        raise AssertionError("offline is always tried")


def _curves(report: Report) -> dict[str, pd.DataFrame]:
    """`base + vector, layer` -> its cells by ascending multiplier, the base's own unsteered cell among them."""
    import pandas as pd

    cells = report.cells
    found = {}
    for (base, dose, vector, layer), part in cells[cells["vector"] != ""].groupby(
        ["base", "base_dose", "vector", "layer"], sort=True
    ):
        alone = cells[(cells["base"] == base) & (cells["base_dose"] == dose) & (cells["vector"] == "")]
        named = base if dose == 1 else f"{base} x{dose:g}"
        found[f"{named} + {vector}, layer {layer:.0f}"] = pd.concat([part, alone]).sort_values("multiplier")
    return found


def _modes() -> Sequence[Any]:
    """Online where the user is logged in or says so, with offline to fall back to; else offline."""
    asked = os.environ.get("WANDB_MODE")
    if asked:
        return [asked, "offline"]
    logged_in = bool(os.environ.get("WANDB_API_KEY")) or _in_netrc()
    return ["online", "offline"] if logged_in else ["offline"]


def _in_netrc() -> bool:
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return path.is_file() and "wandb" in path.read_text(errors="replace")
