"""RELIABILITY.md: every test that it names is there, and it says of the simulation what the simulation found."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "RELIABILITY.md").read_text(encoding="utf-8")
LINES = [line for line in TEXT.splitlines() if re.match(r"\| \d+ \|", line)]


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_named_test_is_there() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", TEXT)
    assert len(named) > 60
    lost = [f"{file}::{name}" for file, name in named if name not in functions(ROOT / "tests" / file)]
    assert not lost


def test_every_promise_has_a_number_a_test_a_figure_and_a_command() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    for number, line in enumerate(LINES, 1):
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        assert cells[0] == str(number) and len(cells) == 5 and all(cells), line
        assert "::" in cells[2], line
        assert set(re.findall(r"`make ([a-z-]+)`", cells[4])) <= targets and "`make " in cells[4], line
    assert len(LINES) == 30


def test_what_make_simulate_found_is_said() -> None:
    """The kept figures, the table of docs/numbers.md and the promise are of one run, and the failures are counted."""
    kept = json.loads((ROOT / "benchmarks" / "simulated.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "numbers.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- simulated: begin -->")[2].partition("<!-- simulated: end -->")[0]
    lines = [line for line in shown.splitlines() if line.startswith("| ")][1:]
    assert len(lines) == len(kept["results"]) > 60
    for line, one in zip(lines, kept["results"], strict=True):
        assert f"| {one['figure']:.3f} |" in line and one["holds"] in line and one["setting"] in line
    failed = [one for one in kept["results"] if one["holds"].startswith("**")]
    assert f"{len(kept['results']) - len(failed)} of {len(kept['results'])} lines hold" in LINES[28]
    assert not failed, "a claim that does not hold is mended, or not made (n/a)"
