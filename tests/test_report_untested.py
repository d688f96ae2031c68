"""A run without the A/B test: whatever it measured instead has a report, and nothing is claimed of letters."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import Small

from caa_bench.__main__ import main
from caa_bench.report import make_report

SHOWN = {
    "open_ended": ("no A/B test in this run; in words, scored from 0 to 1, CAA -8 ", "Answers in words"),
    "capability": ("no A/B test in this run", "Capability (plain facts, n 24)"),
    "perplexity": ("no A/B test in this run", "Perplexity (n 24, "),
}


@pytest.mark.parametrize("evaluator", SHOWN)
def test_it_has_a_report(evaluator: str, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [f"evaluators=[{evaluator}]", "bases=[none]", "limit=24", "open_ended.max_new_tokens=4"]
    assert main(small.compare(*settings)) == 0
    report = make_report(Path("run"))
    first, section = SHOWN[evaluator]
    text = report.text(detail=True)
    assert first in text.splitlines()[0]
    assert section in text
    assert "arm or stack" not in text
    assert "n 0 " not in text
    page = Path("run/report.html").read_text()
    assert "no A/B test" in page
    assert 'id="arms"' not in page and 'id="letters"' not in page
    methods = Path("run/figures/methods.tex").read_text()
    assert "items of the test split" not in methods and "log-odds with" not in methods
    assert (Path("run") / ("metrics.csv" if evaluator == "perplexity" else "cells.csv")).read_text().count("\n") > 3
