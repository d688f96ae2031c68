"""wandb: the offline runs read back from disk, a repeat, and everything that can be wrong with it, without account."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import wandb
from judge_server import judged_by_server
from small_runs import Small, contents, fresh, manifest, offline
from small_runs import run as command
from wandb_files import OfflineRun, offline_runs
from wandb_server import GONE

from caa_bench.__main__ import main
from caa_bench.report import make_report
from caa_bench.runs.folder import RowStore
from caa_bench.storage.safe_text import terminal_safe
from caa_bench.tracking.curves import METRICS
from caa_bench.tracking.pages import log_artifacts

SETTINGS = (
    "bases=[none, lora_sft_positive]",
    "vectors=[caa, random]",
    "caa.layers=[0, 2]",
    "caa.multipliers=[8, -8, 2]",  # not ascending, on purpose
    "evaluators=[answer_probability, open_ended]",
    "open_ended.max_new_tokens=6",
    "report_to=[wandb]",
    "limit=6",
    "random.draws=19",
)


def environment(home: Path, **more: str) -> dict[str, str]:
    """Of a user with a home of their own, no account, and nothing said of wandb but `more`."""
    return {"HOME": str(home), "WANDB_MODE": "", "WANDB_API_KEY": "", "NETRC": str(home / "netrc"), **more}


@pytest.fixture(scope="module")
def tracked(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a comparison in a fresh interpreter, with no network where that can be, and no account."""
    folder = tmp_path_factory.mktemp("tracked")
    done = fresh(small.compare(*SETTINGS), folder=folder, env=environment(folder), prefix=offline())
    assert done.returncode == 0, done.stderr
    assert "wandb" not in done.stderr + done.stdout, "nothing said, nothing asked"
    return folder / "run"


@pytest.fixture(scope="module")
def runs(tracked: Path) -> dict[str, OfflineRun]:
    """What is in its dashboard."""
    return offline_runs(tracked)


SUMMARY, PROGRESS = "small · model · summary", "small · model · progress"


def test_a_run_a_curve_and_a_summary(runs: dict[str, OfflineRun], tracked: Path) -> None:
    """Each curve says in its config what it is of; the placebos of a layer are one."""
    curves = {
        f"{base} + caa, layer {layer}": {"base": base, "vector": "caa", "layer": layer, "kind": "arm"}
        for base in ("none", "lora_sft_positive")
        for layer in (0, 2)
    }
    curves |= {
        f"none + placebos of caa (19 draws), layer {layer}": {
            "base": "none", "vector": "placebos of caa", "layer": layer, "kind": "placebo"
        }
        for layer in (0, 2)
    }  # fmt: skip
    assert runs.keys() == curves.keys() | {SUMMARY, PROGRESS}
    assert Counter(run.job_type for run in runs.values()) == {"curve": 6, "summary": 1, "progress": 1}
    assert {run.project for run in runs.values()} == {"caa_bench"}
    assert {run.group for run in runs.values()} == {"small-model"}
    assert {tuple(run.tags) for run in runs.values()} == {("small", "model", "test")}
    assert all(run.finished for run in runs.values())
    recipe = manifest(tracked)["recipe"]
    for name, run in runs.items():
        assert {key: value for key, value in run.config.items() if key != "_wandb"} == recipe | curves.get(name, {})


def test_losses_and_cells_are_logged_while_the_run_goes_on(runs: dict[str, OfflineRun], tracked: Path) -> None:
    """The training loss falls; each cell's mean ends where the table has it; no placebo is drawn."""
    history = runs[PROGRESS].history
    losses = [step["train/lora_sft_positive/loss"] for step in history if "train/lora_sft_positive/loss" in step]
    pairs = [step["train/lora_sft_positive/pairs"] for step in history if "train/lora_sft_positive/pairs" in step]
    assert len(losses) > 2 and all(0 < loss < 20 for loss in losses)
    assert any("train/lora_sft_positive/held_out_loss" in step for step in history)
    assert pairs == sorted(pairs) and pairs[-1] > 0
    batches = [step["cells/batches"] for step in history if "cells/batches" in step]
    assert batches == list(range(1, len(manifest(tracked)["facts"]["batches"]) + 1))
    last = {key: value for step in history for key, value in step.items() if key.endswith("(answer_probability)")}
    cells = pd.read_csv(tracked / "cells.csv").query("evaluator == 'answer_probability' and vector != 'random'")
    assert len(last) == len(cells) and not any("random" in key for key in last)
    for line in cells.to_dict("records"):
        steered = f" + {line['vector']} L{line['layer']:.0f} x{line['multiplier']:+g}" if line["multiplier"] else ""
        assert last[f"cells/{line['base']}{steered} (answer_probability)"] == pytest.approx(line["p_balanced"])


def test_a_curve_is_probability_against_ascending_multipliers(runs: dict[str, OfflineRun], tracked: Path) -> None:
    cells = pd.read_csv(tracked / "cells.csv")
    for run in runs.values():
        if run.config.get("kind") != "arm":
            continue
        assert run.steps == {"behavior/*": "multiplier", "open_ended/*": "multiplier"}
        assert [step["multiplier"] for step in run.history] == [-8, 0, 2, 8]
        for step in run.history:
            own = cells[(cells["base"] == run.config["base"]) & (cells["multiplier"] == step["multiplier"])]
            own = own[own["vector"].isna() if not step["multiplier"] else (own["vector"] == run.config["vector"])]
            own = own[own["layer"].isna() | (own["layer"] == run.config["layer"])]
            lines = {line["evaluator"]: line for line in own.to_dict("records")}
            for family, evaluator in (("behavior", "answer_probability"), ("open_ended", "open_ended")):
                for metric in METRICS[family]:
                    known = lines[evaluator][metric]
                    assert step.get(f"{family}/{metric}", math.nan) == pytest.approx(known, nan_ok=True)
            assert "behavior/p_balanced_low" not in step, "6 items have no interval, and none is shown as 0"
            assert {"behavior/p_balanced", "behavior/n", "open_ended/n"} <= step.keys()
            assert "open_ended/score" not in step, "the classifier abstains on so few texts, and missing is missing"


def test_the_placebos_are_a_band(runs: dict[str, OfflineRun]) -> None:
    """Their mean between the least and the largest of all draws; the unsteered cell at 0."""
    for run in runs.values():
        if run.config.get("kind") != "placebo":
            continue
        assert [step["multiplier"] for step in run.history] == [-8, 0, 2, 8]
        for step in run.history:
            if step["multiplier"]:
                low, high = step["behavior/p_balanced_low"], step["behavior/p_balanced_high"]
                assert low < step["behavior/p_balanced"] < high
                assert step["behavior/n"] == 19


def media_of(run: OfflineRun, tracked: Path) -> Path:
    """Where an offline run keeps its files."""
    return next(tracked.glob(f"wandb/*-{run.id}/files"))


def table_of(run: OfflineRun, tracked: Path, key: str) -> pd.DataFrame:
    """A logged table."""
    table = json.loads((media_of(run, tracked) / run.history[0][f"{key}.path"]).read_text())
    return pd.DataFrame(table["data"], columns=table["columns"])


def test_the_summary_holds_the_cells_as_a_table_and_every_curve_in_one_chart(
    runs: dict[str, OfflineRun], tracked: Path
) -> None:
    shown = table_of(runs[SUMMARY], tracked, "cells")
    cells = pd.read_csv(tracked / "cells.csv")
    assert list(shown) == list(cells)
    for column in ("p_balanced", "score"):
        assert shown[column].astype(float).tolist() == pytest.approx(cells[column].tolist(), nan_ok=True)
    for chart in ("curves_table",):
        lines = table_of(runs[SUMMARY], tracked, chart)
        assert len(lines) == 6 * 4
        assert set(lines["lineKey"]) == runs.keys() - {SUMMARY, PROGRESS}


def test_the_summary_has_the_figures_the_report_and_the_tables_to_take_away(
    runs: dict[str, OfflineRun], tracked: Path
) -> None:
    """The same bytes, in the run's own folder and named for the upload, so that `wandb sync` needs nothing else.

    What is installed is listed once, and not by every curve.
    """
    assert {name for name, one in runs.items() if (media_of(one, tracked) / "requirements.txt").exists()} == {
        SUMMARY, PROGRESS
    }  # fmt: skip
    run, media = runs[SUMMARY], media_of(runs[SUMMARY], tracked)
    shown = {key.removesuffix(".path"): value for key, value in run.history[0].items() if key.endswith(".path")}
    names = ("dose_curves", "dose_curves_log_odds", "layers", "stacking", "stacking_log_odds")
    sources = {f"figures/{name}": f"figures/{name}.png" for name in names}
    for key, source in (sources | {"report": "report.html"}).items():
        assert (media / shown[key]).read_bytes() == (tracked / source).read_bytes()
        assert shown[key] in run.saved
    figures = [path.relative_to(tracked).as_posix() for path in tracked.glob("figures/*.svg")]
    assert {f"figures/{name}.svg" for name in names} <= set(figures)
    for name in ("cells.csv", "stacking.csv", "table.txt", "recipe.yaml", *figures):
        assert not (media / name).is_symlink()
        assert (media / name).read_bytes() == (tracked / name).read_bytes()
        assert name in run.saved


def test_the_summary_has_answers_side_by_side(runs: dict[str, OfflineRun], tracked: Path) -> None:
    """A line a question and base, a column a dose at the headline's layer, with the texts of the rows."""
    shown = table_of(runs[SUMMARY], tracked, "answers")
    doses = {"CAA -8": -8, "alone": 0, "CAA +2": 2, "CAA +8": 8}
    heads = [head for dose in doses for head in (dose, f"{dose}: score")]
    assert list(shown) == ["question", "base", *heads]
    assert shown["base"].tolist() == ["none", "lora_sft_positive"] * 2
    assert shown["question"].nunique() == 2
    cells = pd.read_csv(tracked / "cells.csv")
    layer = runs[SUMMARY].summary["headline/layer"]
    cells = cells[(cells["evaluator"] == "open_ended") & (cells["layer"].isna() | (cells["layer"] == layer))]
    texts = {(row["cell"], row["question"]): row["text"] for row in RowStore(tracked / "rows.jsonl").answers()}
    for line in shown.to_dict("records"):
        for head, dose in doses.items():
            own = cells[(cells["base"] == line["base"]) & (cells["multiplier"] == dose) & (cells["vector"] != "random")]
            said = terminal_safe(texts[(own["cell"].item(), line["question"])])
            assert line[head].removesuffix(" ...") == (said or "(empty)")


def test_the_table_of_runs_shows_the_headline(runs: dict[str, OfflineRun], tracked: Path) -> None:
    """A dozen columns, each known elsewhere too, and no key for what is not known; the rest is a table."""
    shown = {key: value for key, value in runs[SUMMARY].summary.items() if key.startswith("headline/")}
    layer = shown["headline/layer"]
    assert 8 <= len(shown) <= 16
    assert not any(key.startswith(("none/", "system_prompt")) for key in runs[SUMMARY].summary)
    shifts = pd.read_csv(tracked / "shifts.csv")
    line = shifts[(shifts["base"] == "none") & (shifts["vector"] == "caa") & (shifts["layer"] == layer)]
    line = line[(line["multiplier"] == shown["headline/dose"]) & (line["evaluator"] == "answer_probability")].iloc[0]
    assert shown["headline/shift"] == pytest.approx(line["shift"])
    assert shown["headline/p_after"] == pytest.approx(line["p_balanced"])
    assert "headline/shift_low" not in shown, "6 items have no interval"
    assert shown["headline/n"] == 6
    assert "no verdict (n < 20)" in shown["headline/verdicts"]
    assert shown["headline/answer"] in " ".join((tracked / "table.txt").read_text().split())
    assert not any(isinstance(value, float) and math.isnan(value) for value in shown.values())
    assert "verdict" in table_of(runs[SUMMARY], tracked, "arms")


def test_judged_answers_stand_in_the_curves_and_beside_the_texts(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a judge that scores every answer: the score of each dose, and of each text."""
    monkeypatch.chdir(tmp_path)
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    settings = ["bases=[none]", "vectors=[caa]", "evaluators=[answer_probability, open_ended]", "report_to=[wandb]"]
    with judged_by_server() as judged:
        assert main(small.compare(*settings, "open_ended.max_new_tokens=6", "limit=6", *judged)) == 0
    runs = offline_runs(tmp_path / "run")
    cells = pd.read_csv("run/cells.csv").query("evaluator == 'open_ended'").set_index("multiplier")
    (curve,) = (run for run in runs.values() if run.config.get("kind") == "arm")
    scores = {step["multiplier"]: step["open_ended/score"] for step in curve.history}
    assert scores == pytest.approx(cells["score"].to_dict())
    assert len(set(scores.values())) > 1, "the server rates an answer by its length"
    shown = table_of(runs[SUMMARY], tmp_path / "run", "answers")
    of_doses = [head for head in shown if head.endswith(": score")]
    assert len(of_doses) == 3 and shown[of_doses].notna().all(axis=None)


@pytest.mark.slow
def test_a_repeat_replaces_its_runs(small: Small, runs: dict[str, OfflineRun], tracked: Path) -> None:
    """Begun by a process whose own wandb service has ended since."""
    folder = tracked.parent
    before = contents(folder)
    env = environment(folder, WANDB_SERVICE=GONE)
    assert command(small.compare(*SETTINGS), folder=folder, env=env) == 0
    again = offline_runs(tracked)
    assert {name: run.id for name, run in again.items()} == {name: run.id for name, run in runs.items()}
    results = {name for name in before if "wandb" not in name and not name.startswith(".c")}
    assert {name: contents(folder)[name] for name in results} == {name: before[name] for name in results}


@pytest.mark.slow
def test_another_run_has_other_ids(small: Small, runs: dict[str, OfflineRun], tmp_path: Path) -> None:
    assert command(small.compare(*SETTINGS, "seed=1"), folder=tmp_path, env=environment(tmp_path)) == 0
    assert not {run.id for run in offline_runs(tmp_path / "run").values()} & {run.id for run in runs.values()}


FAULTY = {
    "absent": "raise ImportError('No module named wandb')",
    "broken on import": "raise RuntimeError('broken\\nover two lines')",
    "broken on init": """
class Settings:
    def __init__(self, **settings): pass
def init(**settings): raise RuntimeError('no\\ninit')
""",
    "broken on log": """
class Settings:
    def __init__(self, **settings): pass
class Run:
    def define_metric(self, *args, **more): pass
    def log(self, values): raise ConnectionError('log is down')
    def finish(self): raise ConnectionError('finish is down')
def init(**settings): return Run()
""",
}


@pytest.fixture
def finished(tracked: Path, tmp_path: Path) -> Path:
    """A copy of the working folder with everything measured and no dashboard yet: what follows costs no forward."""
    shutil.copytree(tracked.parent, tmp_path / "copy", symlinks=True)
    shutil.rmtree(tmp_path / "copy/run/wandb")
    return tmp_path / "copy"


@dataclass(frozen=True, kw_only=True)
class Again:
    """The same command once more, in this process."""

    small: Small
    folder: Path
    patch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    logged: pytest.LogCaptureFixture

    def __call__(self, **env: str) -> list[str]:
        """Run it; its results are complete. Returns our own warnings: libraries add theirs on a busy machine."""
        before = contents(self.folder / "run")
        self.patch.chdir(self.folder)
        for name, value in environment(self.folder, **env).items():
            self.patch.setenv(name, value)
        assert main(self.small.compare(*SETTINGS)) == 0
        after = contents(self.folder / "run")
        assert all(after[name] == before[name] for name in ("rows.jsonl", "cells.csv", "stacking.csv"))
        assert manifest(self.folder / "run")["status"] == "success"
        said = self.capsys.readouterr()
        assert "p(matching)" in said.out
        assert "Traceback" not in said.err
        own = [record for record in self.logged.records if record.name.startswith("caa_bench")]
        return [record.getMessage() for record in own if record.levelname == "WARNING"]


@pytest.fixture
def again(
    small: Small,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Again:
    """In a folder where all is measured."""
    return Again(small=small, folder=finished, patch=monkeypatch, capsys=capsys, logged=caplog)


@pytest.mark.parametrize(
    "fault", [name if name == "broken on log" else pytest.param(name, marks=pytest.mark.slow) for name in FAULTY]
)
def test_a_faulty_wandb_costs_one_line_that_the_report_repeats(fault: str, again: Again, finished: Path) -> None:
    package = finished / "faulty"
    package.mkdir()
    (package / "wandb.py").write_text(FAULTY[fault])
    again.patch.syspath_prepend(package)
    again.patch.delitem(sys.modules, "wandb", raising=False)
    (line,) = again()
    assert line.startswith("wandb failed in on_report (")
    assert line.endswith("); the results are complete without it")
    assert line in manifest(finished / "run")["facts"]["warnings"]
    assert "wandb failed in on_report" in (finished / "run/report.html").read_text()


@pytest.mark.slow
def test_a_place_that_wandb_cannot_write_costs_nothing_but_its_runs(again: Again, finished: Path) -> None:
    (finished / "run/wandb").write_text("a file is in the way")
    assert len(again()) <= 1


def test_an_unreachable_server_is_one_line_and_the_curves_are_kept(
    again: Again, runs: dict[str, OfflineRun], finished: Path
) -> None:
    """Logged in, but nobody answers: offline after one timeout, with the same ids for a later `wandb sync`.

    Nothing is left to measure, so there is no `progress`.
    """
    again.patch.setattr("caa_bench.tracking.wandb_runs.INIT_TIMEOUT_S", 2)
    (line,) = again(WANDB_API_KEY="a" * 40, WANDB_BASE_URL="http://127.0.0.1:9")
    assert line.startswith("wandb cannot be reached (")
    assert line.endswith("); the curves are kept offline")
    kept = offline_runs(finished / "run")
    assert {name: run.id for name, run in kept.items()} == {
        name: run.id for name, run in runs.items() if name != PROGRESS
    }
    assert not list((finished / "run/wandb").glob("run-*"))


@pytest.mark.slow
def test_the_runs_stand_in_the_run_folder_wherever_wandbs_service_was_begun(
    again: Again, runs: dict[str, OfflineRun], finished: Path, tmp_path: Path
) -> None:
    """A notebook that changes its working folder has the service of the one before."""
    again.patch.chdir(tmp_path)
    again.patch.setenv("WANDB_MODE", "offline")
    wandb.setup()
    assert again() == []
    kept = {name: run.id for name, run in offline_runs(finished / "run").items()}
    assert kept == {name: run.id for name, run in runs.items() if name != PROGRESS}


def test_wandb_mode_disabled_is_obeyed(again: Again, finished: Path) -> None:
    assert again(WANDB_MODE="disabled") == []
    assert not list(finished.glob("run/wandb/*run-*"))


def artifacts_of(run: OfflineRun) -> dict[str, tuple[str, dict[str, str]]]:
    """Those that the user asks for: wandb makes one of each table by itself."""
    return {name: found for name, found in run.artifacts.items() if found[0] in ("model", "report")}


def test_fits_and_the_page_are_artifacts_where_the_user_asks(
    again: Again, runs: dict[str, OfflineRun], finished: Path
) -> None:
    """As transformers' Trainer has it: nothing without WANDB_LOG_MODEL. Each fit once, where it is kept, no placebo."""
    assert not any(map(artifacts_of, runs.values()))
    assert again(WANDB_LOG_MODEL="end") == []
    logged = offline_runs(finished / "run")
    assert {name for name, run in logged.items() if artifacts_of(run)} == {SUMMARY}
    found = artifacts_of(logged[SUMMARY])
    kept = {path.name: path for path in (finished / "runs/artifacts").iterdir() if path.is_dir()}
    fits = {name for name in kept if name.startswith(("caa-", "lora_sft_positive-"))}
    assert {name: kind for name, (kind, _) in found.items()} == {
        **dict.fromkeys(fits, "model"),
        "small-model-report": "report",
    }
    for name in fits:
        own = {path.relative_to(kept[name]).as_posix(): str(path.resolve()) for path in kept[name].rglob("*")}
        assert found[name][1] == own and "artifact.json" in own
    ((page, copy),) = found["small-model-report"][1].items()
    assert page == "report.html" and Path(copy).is_relative_to(finished / "run/wandb")
    assert Path(copy).read_bytes() == (finished / "run/report.html").read_bytes()
    again.patch.setenv("WANDB_LOG_MODEL", "false")
    log_artifacts(None, make_report(finished / "run"))  # with nothing to log to


def test_a_fit_that_is_gone_costs_a_line_and_no_artifact(again: Again, finished: Path) -> None:
    from caa_bench.tracking.artifacts import logged_artifacts

    report = make_report(finished / "run")
    (gone,) = [path for path in (finished / "runs/artifacts").glob("caa-*") if path.is_dir()]
    shutil.rmtree(gone)
    again.patch.chdir(finished)
    names = [one.name for one in logged_artifacts(report)]
    assert len(names) == 2 and names[0].startswith("lora_sft_positive-") and names[1] == "small-model-report"
    (line,) = [record.getMessage() for record in again.logged.records if record.levelname == "WARNING"]
    assert "is gone" in line and line.endswith("it is no artifact of the dashboard")


@pytest.mark.slow
def test_artifacts_that_fail_leave_everything_else(again: Again, finished: Path, runs: dict[str, OfflineRun]) -> None:
    def broken(*args: object, **more: object) -> None:
        raise ConnectionError("no room")

    again.patch.setattr(wandb.Artifact, "add_dir", broken)
    (line,) = again(WANDB_LOG_MODEL="end")
    assert line.startswith("wandb failed in on_report (ConnectionError: no room)")
    kept = offline_runs(finished / "run")[SUMMARY]
    assert kept.finished and not artifacts_of(kept)
    assert kept.history[0].keys() == runs[SUMMARY].history[0].keys() and "report.path" in kept.history[0]
    assert sorted(name for name in kept.saved if name.endswith(".csv")) == sorted(
        name for name in runs[SUMMARY].saved if name.endswith(".csv")
    )
    assert kept.summary["headline/answer"] == runs[SUMMARY].summary["headline/answer"]


def test_report_to_nothing_needs_no_wandb(small: Small, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(small.compare(*SETTINGS, "report_to=[]")) == 0
    assert manifest(finished / "run")["facts"]["warnings"] == []
    assert not (finished / "run/wandb").exists()
