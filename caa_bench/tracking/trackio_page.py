"""trackio's page of a project on this machine, opened as dose curves: multipliers on the x axis, nothing smoothed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from urllib.parse import urlencode

from caa_bench.errors import UserError
from caa_bench.models.hub import first_line
from caa_bench.tracking.curves import STEP
from caa_bench.tracking.trackio_runs import INSTALL, local

FIRST = "p_balanced|score"
"""The levels with their intervals on the first screen; emptying the page's filter shows the other metrics."""


@contextmanager
def local_dashboard(*, project: str) -> Iterator[str]:
    """Serve the page on 127.0.0.1 for the time of the block; its address.

    trackio's own `show` plots against the number of the step and smooths, which moves every point of a dose curve.

    Raises:
        UserError: trackio is not installed, it holds no run of the project, or no port is free.
    """
    if find_spec("trackio") is None:
        raise UserError(f"dashboard: trackio is not installed; {INSTALL}")
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    if not SQLiteStorage.get_runs(project):
        raise UserError(
            f"dashboard: trackio has no run of project {project!r}; run `caa-bench compare report_to=[trackio]` first"
        )
    try:
        with local():
            app, url, *_ = trackio.show(project, open_browser=False, block_thread=False, host="127.0.0.1", share=False)
    except (OSError, RuntimeError) as error:
        raise UserError(f"dashboard: trackio cannot serve its page ({first_line(error)})") from None
    try:
        shown = {"project": project, "x_axis": STEP, "smoothing": 0, "metric_filter": FIRST}
        yield f"{url}?{urlencode(shown)}"
    finally:
        app.close()
