"""wandb as a view of the results: probability against multiplier, one run a curve, so that conditions overlay,
and a summary run with the tables, the figures and the report.

Made from the finished tables, never while measuring: it can be repeated, and it can never fail or change a run.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from netrc import NetrcParseError, netrc
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlparse

from caa_bench.models.hub import first_line
from caa_bench.storage.files import content_key
from caa_bench.tracking.live import PROGRESS, LiveTracker, progress_name, tags_of

if TYPE_CHECKING:
    from caa_bench.report import Report
    from caa_bench.tracking.curves import Curve

logger = logging.getLogger(__name__)

INIT_TIMEOUT_S = 15
FINISH_TIMEOUT_S = 60
"""Until a run stops waiting for a connection that broke; what is not uploaded stays on the disk for `wandb sync`."""
QUIET = {"console": "off", "silent": True, "disable_git": True, "save_code": False, "x_disable_stats": True}
_SERVICE = re.compile(r"\d+-(\d+)-")
"""How `WANDB_SERVICE` begins: a version, and the process that began the service."""


class WandbTracker(LiveTracker):
    """Logs losses and cells while a run goes on, and every curve of its report; offline without an account.

    Args:
        project: the project's name.
    """

    name = "wandb"

    def __init__(self, *, project: str) -> None:
        super().__init__(project=project)
        self.mode = wandb_mode()

    def open_live(self, settings: Mapping[str, Any], folder: Path) -> Any:
        """The run `refusal · tiny · progress`."""
        quiet_wandb()
        key = content_key([settings, PROGRESS])[:16]
        self._forget(folder, key)
        run = self._init(self._named(settings, folder, key=key, name=progress_name(settings)) | {"job_type": PROGRESS})
        run.define_metric("train/*")
        run.define_metric("cells/*")
        return run

    def log_live(self, live: Any, point: dict[str, float]) -> None:
        """At its next step."""
        live.log(point)

    def close_live(self, live: Any) -> None:
        """Finish the run."""
        live.finish()

    def on_report(self, *, report: Report) -> None:
        """One run a base and vector, then a summary run with what the whole run shows."""
        from caa_bench.tracking.curves import curves

        quiet_wandb()
        found = curves(report)
        for curve in found:
            self._log_curve(report, curve)
        self._log_summary(report, found)

    def _log_curve(self, report: Report, curve: Curve) -> None:
        from caa_bench.tracking.base import STEP

        with self._run(report, name=curve.name, job_type="curve", more=curve.facts()) as run:
            for family in curve.families:
                run.define_metric(f"{family}/*", step_metric=STEP)
            for point in curve.points:
                run.log(point)

    def _log_summary(self, report: Report, found: Sequence[Curve]) -> None:
        """The cells as a table, all curves in one chart, examples, figures, the page; and the headline's numbers."""
        from caa_bench.tracking.pages import attach, log_artifacts, logged_content
        from caa_bench.tracking.summary import headline_numbers

        name = progress_name(report.record.settings, "summary")
        with self._run(report, name=name, job_type="summary") as run:
            run.log(logged_content(report, found))
            run.summary.update(headline_numbers(report))
            attach(run, report.folder)
            log_artifacts(run, report)

    @contextmanager
    def _run(
        self, report: Report, *, name: str, job_type: str, more: Mapping[str, Any] = MappingProxyType({})
    ) -> Iterator[Any]:
        """A run with an id that follows from what it shows, so that a repeat replaces it, here and online."""
        recipe = report.record.settings
        key = content_key([recipe, name])[:16]
        self._forget(report.folder, key)
        settings = self._named(recipe, report.folder, key=key, name=name)
        run = self._init(settings | {"job_type": job_type, "config": {**recipe, **more}})
        try:  # not `with run`: it prints the traceback of what is reported in one line
            yield run
        finally:
            run.finish()

    def _named(self, recipe: Mapping[str, Any], folder: Path, *, key: str, name: str) -> dict[str, Any]:
        """What every run is told: where it stands, and what it is found by."""
        from caa_bench.tracking.curves import group_named

        place = str(folder.absolute())  # its service, begun by an earlier run, may stand in another working folder
        found = {"id": key, "name": name, "project": self.project, "dir": place, "config": dict(recipe)}
        return found | {"group": group_named(recipe), "tags": tags_of(recipe)}

    @staticmethod
    def _forget(folder: str | Path, key: str) -> None:
        """Delete what an earlier run of this id left."""
        for earlier in (Path(folder) / "wandb").glob(f"*run-*-{key}"):
            shutil.rmtree(earlier)

    def _init(self, settings: dict[str, Any]) -> Any:
        import wandb

        # A list of what is installed takes 0.3 s; one a report is enough, and a report has many curves
        quiet = QUIET | {"x_save_requirements": settings["job_type"] != "curve"}
        if self.mode == "online":
            try:
                limits = {"init_timeout": INIT_TIMEOUT_S, "finish_timeout": FINISH_TIMEOUT_S}
                limits = {key: value for key, value in limits.items() if hasattr(wandb.Settings(), key)}  # older wandb
                return wandb.init(mode="online", settings=wandb.Settings(**limits, **quiet), **settings)
            except wandb.errors.Error as error:
                logger.warning("wandb cannot be reached (%s); the curves are kept offline", first_line(error))
                self.mode = "offline"  # for every later run too: each try costs the timeout again
                wandb.teardown()  # its service still holds the id
                self._forget(settings["dir"], settings["id"])
        return wandb.init(mode=self.mode, settings=wandb.Settings(**quiet), **settings)


def wandb_mode() -> Literal["online", "offline", "disabled"]:
    """Online where the user is logged in, unless WANDB_MODE says otherwise; else offline, so that nothing is asked."""
    asked = os.environ.get("WANDB_MODE", "")
    if asked == "disabled":
        return "disabled"
    return "online" if asked != "offline" and _logged_in() else "offline"


def quiet_wandb() -> None:
    """What the environment must say before wandb is imported: it greets before it reads the settings of a run."""
    os.environ.setdefault("WANDB_SILENT", "true")
    if not os.environ.get("WANDB_MODE"):
        os.environ.pop("WANDB_MODE", None)  # set to nothing it would be refused
    began = _SERVICE.match(os.environ.get("WANDB_SERVICE", ""))
    if began and int(began[1]) != os.getpid():  # inherited: it ends with the process that began it, or has already
        del os.environ["WANDB_SERVICE"]


def _logged_in() -> bool:
    """Whether there is a key for the server, in the environment or where `wandb login` keeps it."""
    host = urlparse(os.environ.get("WANDB_BASE_URL", "")).hostname or "api.wandb.ai"
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return bool(os.environ.get("WANDB_API_KEY")) or netrc(path).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False
