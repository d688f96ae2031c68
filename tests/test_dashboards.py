"""trackio and the saved wandb workspace: what they hold, what a reader sees, and one line for everything in the way."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from browser import Page, chromium
from report_runs import simulate
from small_runs import Command, Small, run, start
from wandb_server import KEY, WandbServer, wandb_server

from caa_bench.__main__ import main
from caa_bench.report import make_report
from caa_bench.tracking import trackio_page, trackio_runs, wandb_workspace
from caa_bench.tracking.curves import METRICS, curves

LOG_TWICE = """
import json, sys
from pathlib import Path
from caa_bench.report import make_report
from caa_bench.tracking.trackio_runs import TrackioTracker
from trackio.sqlite_storage import SQLiteStorage
report = make_report(Path(sys.argv[1]))
for _ in range(2):
    TrackioTracker(project="p").on_report(report=report)
print(json.dumps({name: SQLiteStorage.get_logs("p", name) for name in SQLiteStorage.get_runs("p")}))
"""
LIST_ARTIFACTS = """
found = SQLiteStorage.list_artifacts("p")
print(json.dumps({one["name"]: [one["type"], one["latest_version"]] for one in found}))
"""
INSTALL = "pip install caa-bench[dashboards]"
needs_trackio = pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
needs_workspaces = pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None, reason="wandb-workspaces is not installed"
)


def test_a_vector_taken_elsewhere_is_a_curve_of_its_own(tmp_path: Path) -> None:
    """Another model's vector at the same layer and multipliers: neither mixed in nor of the same name."""
    folder = tmp_path / "runs" / "compare" / "refusal"
    report = make_report(simulate(folder, items=24, vectors=("caa",), bases=("none",)))
    taken = report.cells[report.cells["multiplier"] != 0].assign(vector_model="other")
    own, other = curves(replace(report, cells=pd.concat([report.cells, taken])))
    assert (own.name, other.name) == ("none + caa, layer 3", "none + caa~other, layer 3")
    for curve in (own, other):
        assert curve.column("behavior/p_balanced")[0] == [-1, -0.5, 0, 0.5, 1]


@needs_trackio
def test_a_metric_of_its_own_stands_in_the_curves(tmp_path: Path) -> None:
    """Perplexity at every dose that it was measured at, with its interval; the placebo's curve has none."""
    folder = tmp_path / "runs/compare/refusal"
    rise = {("none", 1.0): 0.5}
    report = make_report(simulate(folder, items=24, vectors=("caa", "random"), bases=("none",), rise=rise))
    caa, random = curves(report)
    doses, values = caa.column("perplexity/perplexity")
    table = report.metrics.set_index("multiplier")
    assert doses == sorted(table.index)
    assert values == [table.loc[dose, "value"] for dose in doses]
    assert caa.column("perplexity/perplexity_n") == (doses, [24.0] * len(doses))
    assert caa.column("perplexity/perplexity_low")[1] < values
    assert "perplexity" not in random.families


def test_trackio_holds_every_curve_once(tmp_path: Path) -> None:
    """Ascending multipliers, the base's own point at 0, nothing twice after a repeat, nothing but ours printed."""
    folder = tmp_path / "runs" / "compare" / "refusal"
    simulate(folder, items=24, vectors=("caa", "random"), bases=("none",), loss={})
    env = os.environ | {"TRACKIO_DIR": str(tmp_path / "db"), "PYTHONPATH": str(Path(__file__).parents[1])}
    call = [sys.executable, "-c", LOG_TWICE, str(folder)]
    done = subprocess.run(call, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    logs = json.loads(done.stdout)
    names = [name.partition(" (refusal-tiny ")[0] for name in logs]
    assert names == ["none + caa, layer 3", "none + placebos of caa (1 draws), layer 3"]
    levels = {f"behavior/{name}" for name in METRICS["behavior"]}
    costs = {f"capability/{name}" for name in METRICS["capability"]}
    band = {f"behavior/{name}" for name in ("p_balanced", "p_balanced_low", "p_balanced_high", "n")}
    for (_, lines), known in zip(logs.items(), (levels | costs, band), strict=True):
        assert [line["multiplier"] for line in lines] == [-1, -0.5, 0, 0.5, 1]
        for line in lines:
            here = {"behavior/p_balanced"} if known is band and not line["multiplier"] else known
            assert {name for name in line if "/" in name} == here, "a placebo's capability is not measured"


@needs_trackio
def test_trackio_keeps_each_fit_once_where_the_user_asks(tmp_path: Path) -> None:
    """The vector and the page, no placebo; a repeat with the same content makes no other version."""
    folder, kept = tmp_path / "runs" / "compare" / "refusal", tmp_path / "runs" / "artifacts" / "caa-1234"
    simulate(folder, items=24, vectors=("caa", "random"), bases=("none",), loss={})
    kept.mkdir(parents=True)
    (kept / "artifact.json").write_text("{}")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["facts"]["artifacts"] = {"caa": str(kept), "random": str(kept)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "report.html").write_text("<p>page</p>")
    env = os.environ | {"TRACKIO_DIR": str(tmp_path / "db"), "PYTHONPATH": str(Path(__file__).parents[1])}
    call = [sys.executable, "-c", LOG_TWICE + LIST_ARTIFACTS, str(folder)]
    done = subprocess.run(call, env=env | {"TRACKIO_LOG_MODEL": "end"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    runs, found = map(json.loads, done.stdout.splitlines())
    assert found == {"caa-1234": ["model", 0], "refusal-tiny-report": ["report", 0]}
    (summary,) = [lines for name, lines in runs.items() if name.startswith("summary")]
    assert [line["multiplier"] for line in summary] == [0.0], "the page draws nothing without its x axis"


@pytest.fixture(scope="module")
def shown(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder whose `db` holds a finished comparison with answers in words."""
    folder = tmp_path_factory.mktemp("trackio")
    settings = ["bases=[none, system_prompt_positive]", "evaluators=[answer_probability, open_ended]", "limit=6"]
    settings += ["open_ended.max_new_tokens=6", "report_to=[trackio]"]
    assert run(small.compare(*settings), folder=folder, env=_environment(folder)) == 0
    return folder


@pytest.fixture(scope="module")
def served(shown: Path) -> Iterator[str]:
    """The address that `dashboard --local` prints; Ctrl-C ends it, and the port is free again."""
    command = start(["dashboard", "--local"], folder=shown / "page", env=_environment(shown))
    command.until(lambda: "Ctrl-C" in command.stdout())
    address = command.stdout().partition("\n")[0]
    assert address.startswith("http://127.0.0.1:"), command.stderr()
    yield address
    command.send(signal.SIGINT)
    assert command.wait() == 0
    assert command.stderr() == ""


@needs_trackio
@pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")
def test_trackios_page_overlays_the_curves_against_the_multiplier(tab: Page, served: str) -> None:
    """Drawn, unsmoothed, from nowhere but this machine. A run without multipliers once made it draw nothing at all."""
    tab.open(served, width=1366)
    _until(lambda: len(tab.run(COLORS)) == 2 and all(tab.run(DRAWN)))
    view = tab.run("window.trackio.getViewState()")
    assert (view["x_axis"], view["smoothing"], view["latest_x"]) == ("multiplier", 0, 8)
    assert view["metrics"] == ["behavior/p_balanced"]
    assert "behavior/p_balanced" in view["metrics_on_screen"]
    names = tab.run("document.querySelector('.plot-container').innerText")
    assert "none + caa, layer " in names
    assert "system_prompt_positive + caa, layer " in names
    assert not tab.complaints()
    assert all(address.startswith(("http://127.0.0.1:", "data:")) for address in tab.requests())


@needs_trackio
@pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")
def test_trackios_page_has_the_answers_side_by_side(tab: Page, served: str) -> None:
    tab.open(served.replace("/?", "/media?"), width=1366)
    _until(lambda: tab.run("document.querySelectorAll('table tbody tr').length") == 4)
    heads = tab.run("[...document.querySelectorAll('table th')].map(head => head.textContent.trim())")
    assert heads == ["question", "base", *(x for n in ("CAA -8", "alone", "CAA +8") for x in (n, f"{n}: score"))]


COLORS = """[...new Set([...document.querySelectorAll('.plot-container .legend-dot')].map(
    dot => getComputedStyle(dot).backgroundColor))]"""
DRAWN = f"""(() => {{
    const canvas = document.querySelector('.plot-container canvas');
    if (!canvas || !canvas.width) return [false];
    const seen = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    return {COLORS}.map(color => {{
        const [r, g, b] = color.match(/\\d+/g).map(Number);
        let count = 0;
        for (let i = 0; i < seen.length; i += 4)
            count += Math.abs(seen[i] - r) + Math.abs(seen[i + 1] - g) + Math.abs(seen[i + 2] - b) < 12;
        return count > 50;
    }});
}})()"""
"""Whether each color of the legend is the color of a line in the first chart."""


def _until(condition: Callable[[], Any], *, limit_s: float = 30) -> None:
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, "the page does not come to it"
        time.sleep(0.1)


def _environment(folder: Path) -> dict[str, str]:
    return {"TRACKIO_DIR": str(folder / "db"), "HOME": str(folder)}


def test_trackio_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before anything is loaded, not after the run."""
    for module in (trackio_runs, trackio_page):
        monkeypatch.setattr(module, "find_spec", lambda _: None)
    assert main(["check", "behavior=refusal", "report_to=[trackio]"]) == 2
    assert main(["dashboard", "--local"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert f"report_to: trackio is not installed; {INSTALL}" in first
    assert second == f"caa-bench: dashboard: trackio is not installed; {INSTALL}"


@needs_trackio
def test_a_page_of_nothing_is_one_line(tmp_path: Path) -> None:
    command = start(["dashboard", "--local", "--project", "none"], folder=tmp_path, env=_environment(tmp_path))
    assert command.wait() == 2
    assert command.stderr() == (
        "caa-bench: dashboard: trackio has no run of project 'none'; "
        "run `caa-bench compare report_to=[trackio]` first\n"
    )


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
    monkeypatch.setattr(wandb_workspace, "wandb_mode", lambda: "online")
    monkeypatch.setattr(wandb_workspace, "find_spec", lambda _: None)
    assert main(["dashboard"]) == 2
    assert f"wandb-workspaces is not installed; {INSTALL}" in capsys.readouterr().err


def save(server: WandbServer, folder: Path, *more: str) -> Command:
    """`caa-bench dashboard` of a user who is logged in to this server, ended."""
    command = start(["dashboard", "--project", "p", *more], folder=folder, env=server.environment())
    command.wait()
    return command


@needs_workspaces
def test_a_saved_workspace_overlays_every_metric_and_a_repeat_replaces_it(tmp_path: Path) -> None:
    """Through the login's check, its default entity and the saving, as wandb's own server would hear it."""
    with wandb_server() as server:
        first, again = (save(server, tmp_path / name) for name in ("first", "again"))
    assert (first.wait(), first.stderr()) == (0, "")
    ((name, spec),) = server.views.items()
    assert first.stdout() == again.stdout() == f"{server.url}/ann/p?nw={name[3:-2]}\n"
    assert server.inserted == [True, False]
    assert {user for _, _, user in server.asked} == {f"Basic {base64.b64encode(f'api:{KEY}'.encode()).decode()}"}
    (saved, _) = (variables for operation, variables, _ in server.asked if operation == "UpsertView2")
    assert (saved["entityName"], saved["projectName"], saved["type"]) == ("ann", "p", "project-view")
    section = spec["section"]
    assert section["runSets"][0]["grouping"] == [{"section": "run", "name": "group"}]
    panels = {part["name"]: part["panels"] for part in section["panelBankConfig"]["sections"]}
    plotted = [panel["config"] for name in ("Behavior", "Capability", "Answers in words") for panel in panels[name]]
    expected = [f"{family}/{metric}" for family, names in METRICS.items() for metric in names if metric != "n"]
    expected = [metric for metric in expected if not metric.endswith(("_low", "_high"))]
    assert [metric for plot in plotted for metric in plot["metrics"]] == expected
    assert {(plot["xAxis"], plot["limit"]) for plot in plotted} == {("multiplier", 100)}
    shown = json.dumps(panels["Summary of each run"])
    assert all(f'"{key}"' in shown for key in ("figures/dose_curves", "answers", "cells"))
    local = [part["localPanelSettings"] for part in section["panelBankConfig"]["sections"][:3]]
    for settings in (section["settings"], *local):
        assert settings["xAxis"] == "multiplier"
        assert settings["useRunsTableGroupingInPanels"] is False, "a group would be drawn as the mean of its curves"


@needs_workspaces
@pytest.mark.parametrize(
    ("operation", "status"),
    [
        pytest.param("Viewer", 401, id="401"),
        pytest.param("View", 500, id="500", marks=pytest.mark.slow),
        pytest.param("UpsertView2", 0, id="closed", marks=pytest.mark.slow),
    ],
)
def test_a_server_that_fails_is_one_line(operation: str, status: int, tmp_path: Path) -> None:
    with wandb_server(WandbServer(failing={operation: status})) as server:
        command = save(server, tmp_path)
    assert server.asked[-1][0] == operation
    assert command.wait() == 2
    (line,) = command.stderr().splitlines()
    assert line.startswith(f"caa-bench: dashboard: {server.url.removeprefix('http://')} did not save it (")
    assert line.endswith("); check --project and --entity, or run `wandb login` again")
    assert not server.views


@needs_workspaces
def test_a_project_or_a_user_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with wandb_server(WandbServer(entity=None)) as server:
        command = save(server, tmp_path / "entity")
        assert command.wait() == 2
        assert command.stderr().endswith(" names no user or team of this login; give one with --entity\n")
        server.projects = ()
        command = save(server, tmp_path / "project", "--entity", "team")
        assert command.wait() == 2
        assert "(Project `team/p` not found." in command.stderr()
        assert not server.views
