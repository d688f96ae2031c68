"""`results/`: what is kept of a finished run holds its numbers and nothing of the machine; the page is never stale."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from report_runs import simulate

from benchmarks.results import ROOT, keep, page

KEPT = sorted(ROOT.glob("*/*/summary.csv"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one run in it."""
    folder = tmp_path_factory.mktemp("results")
    keep(simulate(folder / "runs" / "one", items=24, overrides=("data_dir=/somewhere/else",)), folder / "kept")
    return folder / "kept"


def test_a_run_is_kept_without_the_machine_s_paths(kept: Path) -> None:
    folder = kept / "tiny" / "refusal"
    assert {"recipe.yaml", "cells.csv", "stacking.csv", "table.txt", "summary.csv", "stacking.svg"} <= {
        file.name for file in folder.iterdir()
    }
    for file in folder.iterdir():
        assert "/somewhere" not in file.read_text() and str(kept) not in file.read_text(), file.name
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["model"] == "tiny" and "data_dir" not in recipe


def test_the_page_s_numbers_are_the_tables(kept: Path) -> None:
    folder, text = kept / "tiny" / "refusal", page(kept)
    lines = pd.read_csv(folder / "summary.csv")
    stack = lines[lines["kind"] == "stack"].iloc[0]
    cells = pd.read_csv(folder / "stacking.csv")
    told = cells[(cells["base"] == stack["base"]) & (cells["multiplier"] == stack["multiplier"])].iloc[0]
    assert stack["shift"] == pytest.approx(told["on_top"] * (1 if stack["multiplier"] > 0 else -1), abs=1e-5)
    assert f"| {stack['base']} |" in text and f"{stack['shift']:+.2f} [" in text


@pytest.mark.skipif(not KEPT, reason="no results are kept in this checkout")
def test_the_shipped_page_is_what_its_files_say() -> None:
    assert (ROOT / "README.md").read_text() == page(ROOT)
    for file in filter(Path.is_file, ROOT.rglob("*")):
        assert not re.search(r"(?<![\w.])/(tmp|home|root|work)/", file.read_text()), f"{file} names a path of a machine"
