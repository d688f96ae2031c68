"""trackio as a view of the results: the curves of wandb in a local database; `dashboard --local` shows them."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.storage.files import content_key
from caa_bench.tracking.base import Tracker

if TYPE_CHECKING:
    from caa_bench.report import Report

REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID", "TRACKIO_WEBHOOK_URL")
INSTALL = "pip install caa-bench[dashboards]"


class TrackioTracker(Tracker):
    """One trackio run a curve, ascending multipliers; a repeat replaces it. Nothing leaves the machine.

    Args:
        project: the project's name.

    Raises:
        UserError: trackio is not installed.
    """

    name = "trackio"

    def __init__(self, *, project: str) -> None:
        if find_spec("trackio") is None:
            raise UserError(f"report_to: trackio is not installed; {INSTALL}, or take it out of report_to")
        super().__init__(project=project)

    def on_report(self, *, report: Report) -> None:
        """A run for each base and vector, the unsteered cell its point at 0; then some answers in words, if any."""
        import trackio

        from caa_bench.tracking.curves import STEP, curves
        from caa_bench.tracking.summary import example_answers

        with local():
            for curve in curves(report):
                self._log(report, name=curve.name, points=curve.points)
            if (examples := example_answers(report)) is not None:
                table = trackio.Table(columns=examples.heads, data=examples.lines)
                # A run without the x axis that is asked for sends trackio's page into a loop: no chart is drawn at all.
                self._log(report, name="summary", points=[{STEP: 0.0, "answers": table}])

    def _log(self, report: Report, *, name: str, points: Sequence[Mapping[str, Any]]) -> None:
        """A run of this name, in the place of an earlier one; the name first, for the sidebar cuts it short."""
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        from caa_bench.tracking.curves import group_of

        recipe, group = report.record.settings, group_of(report)
        shown = f"{name} ({group} {content_key([recipe, name])[:6]})"
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
            for step, point in enumerate(points):
                trackio.log(dict(point), step=step)
        finally:
            trackio.finish()


@contextlib.contextmanager
def local() -> Iterator[None]:
    """Without trackio's greetings, and without the places on the net that the environment may name."""
    away = {key: os.environ.pop(key) for key in REMOTE if key in os.environ}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.environ.update(away)
