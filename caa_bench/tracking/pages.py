"""What wandb's summary run of a report holds: tables, charts, figures and the page, and files to take away."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wandb

from caa_bench.report import tables
from caa_bench.tracking.artifacts import artifacts_asked, logged_artifacts
from caa_bench.tracking.curves import STEP, Curve
from caa_bench.tracking.summary import example_answers

if TYPE_CHECKING:
    from caa_bench.report import Report

CHARTS = {"curves": "behavior/p_balanced", "curves_in_words": "open_ended/score"}
ATTACHED = ("*.csv", "table.txt", "recipe.yaml", "figures/*.svg")


def logged_content(report: Report, found: Sequence[Curve]) -> dict[str, Any]:
    """What is logged, by its key in the dashboard; what the run folder does not hold is left out."""
    return _tables(report) | _charts(report, found) | _pages(report.folder)


def _tables(report: Report) -> dict[str, Any]:
    """Every CSV of the report, and some answers side by side."""
    every = {name: table.astype(object) for name, table in tables(report).items() if len(table)}
    found = {name: wandb.Table(dataframe=table.where(table.notna(), None)) for name, table in every.items()}
    if (examples := example_answers(report)) is not None:
        found["answers"] = wandb.Table(columns=examples.heads, data=examples.lines)
    return found


def _charts(report: Report, found: Sequence[Curve]) -> dict[str, Any]:
    """Every curve in one chart: the probability, and the score in words where there is one."""
    title, charts = report.record.behavior.title, {}
    for key, metric in CHARTS.items():
        lines = {curve.name: curve.column(metric) for curve in found if curve.column(metric)[0]}
        if lines:
            charts[key] = wandb.plot.line_series(
                xs=[x for x, _ in lines.values()],
                ys=[y for _, y in lines.values()],
                keys=[*lines],
                title=f"{title}: {metric} against multiplier",
                xname=STEP,
            )
    return charts


def _pages(folder: Path) -> dict[str, Any]:
    """The figures and report.html to look at in the dashboard, with the bytes that they have in the run folder."""
    found: dict[str, Any] = {f"figures/{path.stem}": wandb.Image(str(path)) for path in _files(folder, "figures/*.png")}
    found |= {path.stem: wandb.Html(str(path), inject=False) for path in _files(folder, "report.html")}
    return found


def attach(run: Any, folder: Path) -> None:
    """Files of the run, to download: copies in its own folder, so that an offline run is whole wherever it is moved.

    No artifact: each change would be another version beside it. What is an artifact, and when, `log_artifacts` says.
    """
    for path in _files(folder, *ATTACHED):
        copy = Path(run.dir) / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        run.save(escape(str(copy)), base_path=run.dir, policy="now")


def log_artifacts(run: Any, report: Report) -> None:
    """Fits and the page as artifacts, where WANDB_LOG_MODEL asks for them; wandb uploads no content twice.

    Fits lie where they are kept, which never changes, and are not copied; an offline run needs them there when it is
    synced. The page is written anew by each report, so that a copy in the run's own folder is logged.
    """
    if not artifacts_asked("WANDB_LOG_MODEL"):
        return
    for one in logged_artifacts(report):
        artifact = wandb.Artifact(one.name, type=one.kind, metadata=one.facts)
        if one.path.is_dir():
            artifact.add_dir(str(one.path), policy="immutable")
        else:
            copy = Path(run.dir).absolute() / one.path.name
            shutil.copyfile(one.path, copy)
            artifact.add_file(str(copy), policy="immutable")
        run.log_artifact(artifact)


def _files(folder: Path, *patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]
