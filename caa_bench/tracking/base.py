"""What a tracker is: a callback with a name, which a recipe lists under `report_to`."""

from __future__ import annotations

from typing import ClassVar

from caa_bench.callbacks import Callback

STEP = "multiplier"
"""What curves are drawn against."""


class Tracker(Callback):
    """Shows the results elsewhere; it can be repeated, and it can never fail or change a run.

    Args:
        project: the recipe's `project`.

    Raises:
        UserError: it cannot start on this machine (`report_to: ... is not installed; ...`).

    Example:
        from caa_bench import Tracker

        class Notebook(Tracker):
            name = "notebook"

            def on_report(self, *, report):
                print(report.text())
    """

    name: ClassVar[str] = ""

    def __init__(self, *, project: str) -> None:
        self.project = project

    def __str__(self) -> str:
        return self.name
