"""The saved wandb workspace of a project: p(matching) and its companions against the multiplier, curves overlaid."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from caa_bench.errors import UserError
from caa_bench.hub import first_line
from caa_bench.tracking import METRICS, wandb_mode

NAME = "caa_bench: CAA on every base"


def save_dashboard(*, project: str, entity: str = "") -> str:
    """Make the workspace and save it with the user's own login; returns its address.

    Args:
        project: the wandb project that the runs are in.
        entity: the user or team; the login's own where not given.

    Raises:
        UserError: not logged in, wandb-workspaces is not installed, or wandb refuses; one line.
    """
    if wandb_mode() != "online":
        raise UserError("dashboard: not logged in to wandb; run `wandb login` first (and unset WANDB_MODE)")
    if find_spec("wandb_workspaces") is None:
        raise UserError("dashboard: wandb-workspaces is not installed; pip install wandb-workspaces")
    import wandb

    try:
        made = workspace(project=project, entity=entity or str(wandb.Api(timeout=15).default_entity))
        return str(made.save().url)
    except Exception as error:  # whatever its client raises: nothing of ours depends on it
        raise UserError(
            f"dashboard: wandb did not save it ({first_line(error)}); check the project and try again"
        ) from None


def workspace(*, project: str, entity: str) -> Any:
    """The workspace as wandb-workspaces knows it, not saved yet: a panel a metric, runs grouped by `group`."""
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as ws

    plots = [
        panels.LinePlot(title=f"{metric} against multiplier", x="multiplier", y=[f"behavior/{metric}"])
        for metric in METRICS
        if not metric.endswith(("_low", "_high"))
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[ws.Section(name="Dose curves", panels=plots, is_open=True)],
        settings=ws.WorkspaceSettings(x_axis="multiplier", smoothing_type="none"),
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("Group")]),
        auto_generate_panels=False,
    )
