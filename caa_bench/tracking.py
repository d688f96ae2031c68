"""wandb as a view of the results: probability against multiplier, one run a curve, so that conditions overlay.

Made from the finished tables, never while measuring: it can be repeated, and it can never fail or change a run.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlparse

from caa_bench.callbacks import Callback
from caa_bench.files import content_key
from caa_bench.hub import first_line
from caa_bench.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report

logger = logging.getLogger(__name__)

INIT_TIMEOUT_S = 15
FINISH_TIMEOUT_S = 60
"""Until a run stops waiting for a connection that broke; what is not uploaded stays on the disk for `wandb sync`."""
METRICS = ("p_balanced", "p_balanced_low", "p_balanced_high", "log_odds", "option_mass", "letter_bias")
QUIET = {"console": "off", "silent": True, "disable_git": True, "save_code": False, "x_disable_stats": True}


def trackers(recipe: Recipe) -> list[Callback]:
    """The callbacks that `report_to` names.

    Raises:
        UserError: one of them is not installed.
    """
    made: list[Callback] = []
    if "wandb" in recipe.args.report_to:
        made.append(WandbTracker(project=recipe.args.project))
    if "trackio" in recipe.args.report_to:
        from caa_bench.tracking_trackio import TrackioTracker

        made.append(TrackioTracker(project=recipe.args.project))
    return made


class WandbTracker(Callback):
    """Logs every curve of a finished report; offline without an account, and without a question asked.

    Args:
        project: the project's name.
    """

    def __init__(self, *, project: str) -> None:
        self.project = project
        self.mode = wandb_mode()

    def __str__(self) -> str:
        return "wandb"

    def on_report(self, *, report: Report) -> None:
        """One run a base and vector, then a summary run with the cells as a table and all curves in one chart."""
        os.environ.setdefault("WANDB_SILENT", "true")  # it greets before it reads the settings of a run
        if not os.environ.get("WANDB_MODE"):
            os.environ.pop("WANDB_MODE", None)  # set to nothing it would be refused
        curves = curves_of(report)
        for name, curve in curves.items():
            self._log_curve(report, name=name, curve=curve)
        self._log_summary(report, curves)

    def _log_curve(self, report: Report, *, name: str, curve: pd.DataFrame) -> None:
        from caa_bench.report.conditions import capability_lines, condition_of

        with self._run(report, name=name, job_type="curve") as run:
            run.define_metric("behavior/*", step_metric="multiplier")
            run.define_metric("capability/*", step_metric="multiplier")
            beside = capability_lines(report.cells)
            for line in curve.to_dict("records"):
                known = _known("behavior", line) | _known("capability", beside.get(condition_of(line), {}))
                run.log({"multiplier": line["multiplier"]} | known)

    def _log_summary(self, report: Report, curves: dict[str, pd.DataFrame]) -> None:
        import wandb

        logged: dict[str, Any] = {"cells": wandb.Table(dataframe=report.cells.astype(object))}
        if curves:
            logged["curves"] = wandb.plot.line_series(
                xs=[curve["multiplier"].tolist() for curve in curves.values()],
                ys=[curve["p_balanced"].tolist() for curve in curves.values()],
                keys=[*curves],
                title=f"{report.manifest['facts']['behavior']['title']}: p(matching) against multiplier",
                xname="multiplier",
            )
        with self._run(report, name="summary", job_type="summary") as run:
            run.log(logged)

    @contextmanager
    def _run(self, report: Report, *, name: str, job_type: str) -> Iterator[Any]:
        """A run with an id that follows from what it shows, so that a repeat replaces it, here and online."""
        recipe = report.manifest["recipe"]
        key = content_key([recipe, name])[:16]
        self._forget(report.folder, key)
        settings: dict[str, Any] = {"id": key, "name": name, "project": self.project, "dir": str(report.folder)}
        settings |= {"group": f"{recipe['behavior']}-{recipe['model']}", "job_type": job_type, "config": recipe}
        run = self._init(settings)
        try:  # not `with run`: it prints the traceback of what is reported in one line
            yield run
        finally:
            run.finish()

    @staticmethod
    def _forget(folder: str | Path, key: str) -> None:
        """Delete what an earlier run of this id left."""
        for earlier in (Path(folder) / "wandb").glob(f"*run-*-{key}"):
            shutil.rmtree(earlier)

    def _init(self, settings: dict[str, Any]) -> Any:
        import wandb

        if self.mode == "online":
            try:
                limits = {"init_timeout": INIT_TIMEOUT_S, "finish_timeout": FINISH_TIMEOUT_S}
                limits = {key: value for key, value in limits.items() if hasattr(wandb.Settings(), key)}  # older wandb
                return wandb.init(mode="online", settings=wandb.Settings(**limits, **QUIET), **settings)
            except wandb.errors.Error as error:
                logger.warning("wandb cannot be reached (%s); the curves are kept offline", first_line(error))
                self.mode = "offline"  # for every later run too: each try costs the timeout again
                wandb.teardown()  # its service still holds the id
                self._forget(settings["dir"], settings["id"])
        return wandb.init(mode=self.mode, settings=wandb.Settings(**QUIET), **settings)


def _known(family: str, line: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that have a number, by their name in the dashboard."""
    return {f"{family}/{name}": line[name] for name in METRICS if name in line and line[name] == line[name]}


def curves_of(report: Report) -> dict[str, pd.DataFrame]:
    """`base + vector, layer` -> its cells by ascending multiplier, the base's own unsteered cell among them."""
    import pandas as pd

    from caa_bench.report.headline import measured

    cells = measured(report.cells)
    found = {}
    for (base, dose, vector, layer), part in cells[cells["vector"] != ""].groupby(
        ["base", "base_dose", "vector", "layer"], sort=True
    ):
        alone = cells[(cells["base"] == base) & (cells["base_dose"] == dose) & (cells["vector"] == "")]
        named = base if dose == 1 else f"{base} x{dose:g}"
        found[f"{named} + {vector}, layer {layer:.0f}"] = pd.concat([part, alone]).sort_values("multiplier")
    return found


def wandb_mode() -> Literal["online", "offline", "disabled"]:
    """Online where the user is logged in, unless WANDB_MODE says otherwise; else offline, so that nothing is asked."""
    asked = os.environ.get("WANDB_MODE", "")
    if asked == "disabled":
        return "disabled"
    return "online" if asked != "offline" and _logged_in() else "offline"


def _logged_in() -> bool:
    """Whether there is a key for the server, in the environment or where `wandb login` keeps it."""
    host = urlparse(os.environ.get("WANDB_BASE_URL", "")).hostname or "api.wandb.ai"
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return bool(os.environ.get("WANDB_API_KEY")) or netrc(path).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False
