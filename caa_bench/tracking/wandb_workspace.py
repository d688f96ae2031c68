"""The saved wandb workspace of a project: every metric of the dose curves against the multiplier, curves overlaid."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from caa_bench.errors import UserError
from caa_bench.models.hub import first_line
from caa_bench.storage.files import content_key
from caa_bench.tracking.curves import METRICS, STEP
from caa_bench.tracking.trackio_runs import INSTALL
from caa_bench.tracking.wandb_runs import quiet_wandb, wandb_mode

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

NAME = "caa_bench: CAA on every base"
TITLES = {"behavior": "Behavior", "capability": "Capability", "open_ended": "Answers in words"}
MEDIA = ("figures/dose_curves", "figures/stacking", "figures/layers")
LINES = 100
"""Curves a panel; wandb shows 10 if not told."""


def save_dashboard(*, project: str, entity: str = "") -> str:
    """Make the workspace and save it with the user's own login, in the place of an earlier one; returns its address.

    Args:
        project: the wandb project that the runs are in.
        entity: the user or team; the login's own where not given.

    Raises:
        UserError: not logged in, wandb-workspaces is not installed, or wandb refuses; one line.
    """
    if wandb_mode() != "online":
        raise UserError("dashboard: not logged in to wandb; run `wandb login` first (and unset WANDB_MODE)")
    if find_spec("wandb_workspaces") is None:
        raise UserError(f"dashboard: wandb-workspaces is not installed; {INSTALL}")
    quiet_wandb()
    import wandb

    try:
        found = entity or wandb.Api().default_entity
        if found:
            return _save(workspace(project=project, entity=found))
    except Exception as error:  # whatever its client raises: nothing of ours depends on it
        raise UserError(
            f"dashboard: {_server()} did not save it ({first_line(error)}); check --project and --entity, "
            "or run `wandb login` again"
        ) from None
    raise UserError(f"dashboard: {_server()} names no user or team of this login; give one with --entity")


def workspace(*, project: str, entity: str) -> Workspace:
    """The workspace as wandb-workspaces knows it, not saved yet: a panel a metric, runs grouped."""
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as ws

    shown = [panels.MediaBrowser(title=key, media_keys=[key]) for key in MEDIA]
    tables = [panels.WeavePanelSummaryTable(table_name=name) for name in ("answers", "cells")]
    sections = [_family_section(family, metrics) for family, metrics in METRICS.items()]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[*sections, ws.Section(name="Summary of each run", panels=[*shown, *tables])],
        settings=ws.WorkspaceSettings(x_axis=STEP, smoothing_type="none", max_runs=LINES),
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("Group")]),
        auto_generate_panels=False,
    )


def _family_section(family: str, metrics: tuple[str, ...]) -> Section:
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as ws

    plots = [
        panels.LinePlot(
            title=f"{family}/{metric} against {STEP}",
            x=STEP,
            y=[f"{family}/{metric}"],
            max_runs_to_show=LINES,
            smoothing_type="none",
            legend_template="${run:displayName} (${config:behavior}, ${config:model})",
        )
        for metric in metrics
        if metric != "n" and not metric.endswith(("_low", "_high"))
    ]
    return ws.Section(
        name=TITLES[family], panels=plots, is_open=True, panel_settings=ws.SectionPanelSettings(x_axis=STEP)
    )


def _save(made: Workspace) -> str:
    """Save under a name that follows from the project, so that a repeat replaces the workspace instead of adding one.

    Below wandb-workspaces' own `save`, which gives every workspace a new name, and which leaves no choice but to draw
    the mean of a group of runs where its curves are to be overlaid.
    """
    from wandb_workspaces.workspaces import internal

    view = made._to_model()
    view.name = f"nw-{content_key([made.entity, made.project])[:11]}-v"
    sections = view.spec.section.panel_bank_config.sections
    for settings in (view.spec.section.settings, *(section.local_panel_settings for section in sections)):
        settings.use_runs_table_grouping_in_panels = False
    try:
        view.id = internal.get_view_dict(
            made.entity, made.project, internal._internal_name_to_url_query_str(view.name)
        )["id"]
    except ValueError as error:  # its only word for "no such project" and for "not saved yet"
        if "Project" in str(error):
            raise
    made._internal_name = internal.upsert_view2(view)["upsertView"]["view"]["name"]
    return str(made.url)


def _server() -> str:
    return urlparse(os.environ.get("WANDB_BASE_URL", "")).netloc or "wandb"
