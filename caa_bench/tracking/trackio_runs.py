"""trackio as a view of the results: the curves of wandb in a local database; `dashboard --local` shows them."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.storage.files import content_key
from caa_bench.tracking.base import STEP
from caa_bench.tracking.live import PROGRESS, LiveTracker, progress_name

if TYPE_CHECKING:
    from caa_bench.report import Report
    from caa_bench.tracking.artifacts import Logged

REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID", "TRACKIO_WEBHOOK_URL")
INSTALL = "pip install caa-bench[dashboards]"


class TrackioTracker(LiveTracker):
    """One trackio run a curve, ascending multipliers, and one while the comparison goes on; a repeat replaces it.

    Nothing leaves the machine.

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

    def open_live(self, settings: Mapping[str, Any], folder: Path) -> Any:
        """The run `refusal · tiny · progress`."""
        with local():
            return self._begin(settings, name=progress_name(settings), config={"kind": PROGRESS})

    def log_live(self, live: Any, point: dict[str, float]) -> None:
        """With the page's x axis, without which no chart is drawn at all."""
        with local():
            live.log({STEP: 0.0, **point})

    def close_live(self, live: Any) -> None:
        """Finish the run."""
        import trackio

        with local():
            trackio.finish()

    def on_report(self, *, report: Report) -> None:
        """A run for each base and vector, the unsteered cell its point at 0; then some answers in words, if any."""
        import trackio

        from caa_bench.tracking.artifacts import artifacts_asked, logged_artifacts
        from caa_bench.tracking.curves import curves
        from caa_bench.tracking.summary import example_answers

        with local():
            for curve in curves(report):
                self._log_points(report, name=curve.name, points=curve.points, config=curve.facts())
            artifacts = list(logged_artifacts(report)) if artifacts_asked("TRACKIO_LOG_MODEL") else []
            # A run without the x axis that is asked for sends trackio's page into a loop: no chart is drawn at all.
            point: dict[str, Any] = {STEP: 0.0}
            if (examples := example_answers(report)) is not None:
                point["answers"] = trackio.Table(columns=examples.heads, data=examples.lines)
            if examples is not None or artifacts:
                config = {"kind": "summary"}
                self._log_points(report, name="summary", points=[point], config=config, artifacts=artifacts)

    def _log_points(
        self,
        report: Report,
        *,
        name: str,
        points: Sequence[Mapping[str, Any]],
        config: Mapping[str, Any],
        artifacts: Sequence[Logged] = (),
    ) -> None:
        import trackio

        self._begin(report.record.settings, name=name, config=config)
        try:
            for step, point in enumerate(points):
                trackio.log(dict(point), step=step)
            for one in artifacts:
                trackio.log_artifact(one.path, name=one.name, type=one.kind)
        finally:
            trackio.finish()

    def _begin(self, recipe: Mapping[str, Any], *, name: str, config: Mapping[str, Any]) -> Any:
        """A run of this name, in the place of an earlier one; the name first, for the sidebar cuts it short."""
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        from caa_bench.tracking.curves import group_named

        group = group_named(recipe)
        shown = f"{name} ({group} {content_key([recipe, name])[:6]})"
        if shown in SQLiteStorage.get_runs(self.project):
            SQLiteStorage.delete_run(self.project, shown)
        return trackio.init(
            project=self.project,
            name=shown,
            group=group,
            config={**recipe, **config},
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )


@contextlib.contextmanager
def local() -> Iterator[None]:
    """Without trackio's greetings, and without the places on the net that the environment may name."""
    away = {key: os.environ.pop(key) for key in REMOTE if key in os.environ}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.environ.update(away)
