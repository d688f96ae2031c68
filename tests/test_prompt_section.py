"""The report says what the chat template adds by itself, in words that act on no reader."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from report_runs import simulate
from small_runs import manifest

from caa_bench.__main__ import main
from caa_bench.models.template_notes import TemplateNotes
from caa_bench.runs.folder import RunFolder

HOSTILE = "You are <script>alert(1)</script>\x1b[31m Qwen."
NOTES = TemplateNotes(
    key="0" * 64,
    clock="2024-07-26",
    plain=f"<|im_start|>system\n{HOSTILE}<|im_end|>\n{{question}}",
    default_system=HOSTILE,
    system_place="system",
    header="<think>\n\n</think>\n\n",
)


def reported(tmp_path: Path, notes: TemplateNotes | None) -> Path:
    run = simulate(tmp_path / "runs/compare/refusal", items=24, bases=("none",), vectors=("caa",))
    if notes is not None:
        with RunFolder(run, recipe=manifest(run)["recipe"]) as folder:
            folder.record(model=folder.manifest["facts"].get("model", {}) | {"prompt": asdict(notes)})
            folder.set_status("success")
    assert main(["report", str(run)]) == 0
    return run


def test_the_report_says_what_the_template_adds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = reported(tmp_path, NOTES)
    said = " ".join(capsys.readouterr().out.split())
    assert "The chat template says by itself: 'You are <script>alert(1)</script>" in said
    assert "it was told 2024-07-26 in every prompt" in said
    assert "In front of every answer stands '<think>\\n\\n</think>', which is steered and not measured." in said
    text, page = (run / "table.txt").read_text(), (run / "report.html").read_text()
    assert "What the template adds" in text and "{question}" in text and "\x1b" not in text
    assert '<section id="prompt">' in page and "What the template adds" in page
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page and "\x1b" not in page


def test_a_run_that_recorded_nothing_says_nothing(tmp_path: Path) -> None:
    run = reported(tmp_path, None)
    assert "What the template adds" not in (run / "table.txt").read_text()
    assert "What the template adds" not in (run / "report.html").read_text()
