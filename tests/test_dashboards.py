"""trackio and the saved wandb workspace: read back where they are installed, one line where they are not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from report_runs import simulate

from caa_bench import dashboard, tracking_trackio
from caa_bench.__main__ import main
from caa_bench.tracking import METRICS

LOG_TWICE = """
import json, sys
from pathlib import Path
from caa_bench.report import make_report
from caa_bench.tracking_trackio import TrackioTracker
from trackio.sqlite_storage import SQLiteStorage
report = make_report(Path(sys.argv[1]))
for _ in range(2):
    TrackioTracker(project="p").on_report(report=report)
print(json.dumps({name: SQLiteStorage.get_logs("p", name) for name in SQLiteStorage.get_runs("p")}))
"""
needs_trackio = pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
needs_workspaces = pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None, reason="wandb-workspaces is not installed"
)


@needs_trackio
def test_trackio_holds_every_curve_once(tmp_path: Path) -> None:
    """Ascending multipliers, the base's own point at 0, nothing twice after a repeat, nothing but ours printed."""
    import json
    import os

    run = simulate(tmp_path / "runs" / "compare" / "refusal", items=24, vectors=("caa",), bases=("none",))
    env = os.environ | {"TRACKIO_DIR": str(tmp_path / "db"), "PYTHONPATH": str(Path(__file__).parents[1])}
    call = [sys.executable, "-c", LOG_TWICE, str(run)]
    done = subprocess.run(call, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ((name, logs),) = json.loads(done.stdout).items()
    assert name.startswith("refusal-tiny: none + caa, layer 3 (")
    assert [line["multiplier"] for line in logs] == [-1, -0.5, 0, 0.5, 1]
    assert all(set(METRICS) <= line.keys() for line in logs)


def test_trackio_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before anything is loaded, not after the run."""
    monkeypatch.setattr(tracking_trackio, "find_spec", lambda _: None)
    assert main(["check", "behavior=refusal", "report_to=[trackio]"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "report_to: trackio is not installed; pip install trackio" in line


def test_a_dashboard_needs_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert main(["dashboard"]) == 2
    assert capsys.readouterr().err == (
        "caa-bench: dashboard: not logged in to wandb; run `wandb login` first (and unset WANDB_MODE)\n"
    )


def test_a_dashboard_needs_its_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(dashboard, "wandb_mode", lambda: "online")
    monkeypatch.setattr(dashboard, "find_spec", lambda _: None)
    assert main(["dashboard"]) == 2
    assert "wandb-workspaces is not installed; pip install wandb-workspaces" in capsys.readouterr().err


@needs_workspaces
def test_the_workspace_has_a_panel_a_metric() -> None:
    made = dashboard.workspace(project="p", entity="e")
    (section,) = made.sections
    assert [panel.y for panel in section.panels] == [
        [f"behavior/{name}"] for name in ("p_balanced", "log_odds", "option_mass", "letter_bias")
    ]
    assert {panel.x for panel in section.panels} == {"multiplier"}
