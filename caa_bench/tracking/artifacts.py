"""What a run fitted and its report, as artifacts of a dashboard: off unless the user asks, as in Trainer.

`WANDB_LOG_MODEL=end` (`TRACKIO_LOG_MODEL=end`) asks. A fit is called by what it learned from, so that runs that share
it name one artifact, whose equal content is stored once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.runs.artifacts import kept_at
from caa_bench.tracking.curves import group_named

if TYPE_CHECKING:
    from caa_bench.report import Report

logger = logging.getLogger(__name__)

ASKED = ("end", "checkpoint", "true", "1")
"""What the variable says where artifacts are wanted; Trainer's `checkpoint` is the end here: a fit has no others."""
REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class Logged:
    """One artifact.

    Args:
        name: in the dashboard.
        kind: `model` or `report`.
        path: a folder that never changes, or report.html.
        facts: what it is of.
    """

    name: str
    kind: str
    path: Path
    facts: dict[str, Any]


def artifacts_asked(variable: str) -> bool:
    """Whether the environment asks for them."""
    return os.environ.get(variable, "").strip().lower() in ASKED


def logged_artifacts(report: Report) -> Iterator[Logged]:
    """Every vector and finetune of the run but placebos, then the page; one that is gone costs a line and no more."""
    record = report.record
    facts = {"behavior": record.behavior.id, "model": record.model_name, "recipe_key": record.recipe_key[:16]}
    for label, recorded in record.artifacts.items():
        if label.partition("@")[0] in record.placebos:
            continue
        try:
            folder = kept_at(report.folder, recorded)
        except UserError as error:
            logger.warning("%s; it is no artifact of the dashboard", error.lines[0])
            continue
        yield Logged(name=folder.name, kind="model", path=folder.resolve(), facts={"label": label, **facts})
    if (page := report.folder / REPORT).is_file():
        yield Logged(name=f"{group_named(record.settings)}-report", kind="report", path=page, facts=facts)
