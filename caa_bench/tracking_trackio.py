"""trackio as a view of the results: the curves of tracking.py in a local database, no account; `trackio show`."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from caa_bench.callbacks import Callback
from caa_bench.errors import UserError
from caa_bench.files import content_key

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report

REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID", "TRACKIO_WEBHOOK_URL")


class TrackioTracker(Callback):
    """One trackio run a curve, ascending multipliers; a repeat replaces it. Nothing leaves the machine.

    Args:
        project: the project's name.

    Raises:
        UserError: trackio is not installed.
    """

    def __init__(self, *, project: str) -> None:
        if find_spec("trackio") is None:
            raise UserError("report_to: trackio is not installed; pip install trackio, or take it out of report_to")
        self.project = project

    def __str__(self) -> str:
        return "trackio"

    def on_report(self, *, report: Report) -> None:
        """A run for each base and vector; the unsteered cell is the point at 0."""
        from caa_bench.tracking import curves_of

        with _local():
            for name, curve in curves_of(report).items():
                self._log_curve(report, name=name, curve=curve)

    def _log_curve(self, report: Report, *, name: str, curve: pd.DataFrame) -> None:
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        from caa_bench.tracking import METRICS

        recipe = report.manifest["recipe"]
        group = f"{recipe['behavior']}-{recipe['model']}"
        shown = f"{group}: {name} ({content_key([recipe, name])[:6]})"
        if shown in SQLiteStorage.get_runs(self.project):
            SQLiteStorage.delete_run(self.project, shown)
        trackio.init(
            project=self.project,
            name=shown,
            group=group,
            config=dict(recipe),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        try:
            for step, line in enumerate(curve.to_dict("records")):
                known: dict[str, Any] = {metric: line[metric] for metric in METRICS if line[metric] == line[metric]}
                trackio.log({"multiplier": line["multiplier"]} | known, step=step)
        finally:
            trackio.finish()


@contextlib.contextmanager
def _local() -> Iterator[None]:
    """Without trackio's greetings, and without the places on the net that the environment may name."""
    away = {key: os.environ.pop(key) for key in REMOTE if key in os.environ}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.environ.update(away)
