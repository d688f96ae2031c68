"""Dashboards as views of the results: made from a finished report, repeatable, and never able to harm a run."""

from __future__ import annotations

from caa_bench.callbacks import Callback
from caa_bench.recipe import Recipe


def trackers(recipe: Recipe) -> list[Callback]:
    """The callbacks that `report_to` names.

    Raises:
        UserError: one of them is not installed.
    """
    made: list[Callback] = []
    if "wandb" in recipe.args.report_to:
        from caa_bench.tracking.wandb_runs import WandbTracker

        made.append(WandbTracker(project=recipe.args.project))
    if "trackio" in recipe.args.report_to:
        from caa_bench.tracking.trackio_runs import TrackioTracker

        made.append(TrackioTracker(project=recipe.args.project))
    return made
