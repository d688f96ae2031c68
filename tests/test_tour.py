"""docs/tour.md names files, classes and functions that are there, and its number can be computed as it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from report_runs import simulate

ROOT = Path(__file__).parents[1]
TOUR = (ROOT / "docs" / "tour.md").read_text()
README = (ROOT / "README.md").read_text()
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
FILE = re.compile(r"[\w./]+\.(?:py|yaml|md)|[\w/]+/")
SPOKEN = {"rows.jsonl", "behavior=refusal", "make compare BEHAVIOR=refusal"}
"""What is named beside code: a run's own file, and what a user types."""


def _quoted(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", CODE.sub("", text))


def _defined(path: Path) -> set[str]:
    """Functions, classes and methods of a file, or of all files of a folder."""
    files = [path] if path.is_file() else list(path.rglob("*.py"))
    trees = [ast.parse(file.read_text()) for file in files if file.suffix == ".py"]
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)}


def test_every_file_of_the_tour_is_there() -> None:
    files = [name for name in _quoted(TOUR) if FILE.fullmatch(name) and name not in SPOKEN]
    assert len(files) >= 10
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_every_name_of_the_tour_is_defined_in_a_file_that_its_section_names() -> None:
    wrong = []
    for section in TOUR.split("\n## ")[1:]:
        quoted = [name for name in _quoted(section) if name not in SPOKEN]
        files = [name for name in quoted if FILE.fullmatch(name)]
        known = set().union(*(_defined(ROOT / name) for name in files))
        parts = {part for name in quoted if name not in files for part in name.split(".")}
        wrong += sorted(parts - known)
    assert wrong == []


def test_the_number_of_the_tour_stands_in_the_readme() -> None:
    (line,) = re.findall(r"^ +(\+ CAA \+1 .+)$", TOUR, re.MULTILINE)
    assert line.strip() in README
    point, low, high = re.findall(r"[+-]\d\.\d\d", line)
    assert f"**{point}**" in TOUR and f"**[{low}, {high}]**" in TOUR


def test_the_number_is_computed_as_the_tour_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its code, run on another run: the mean of the rows' own differences is what the table has."""
    (code,) = CODE.findall(TOUR)
    folder = simulate(tmp_path / "run")
    exec(code, {"folder": folder})  # noqa: S102 - the page's own example
    by_hand, table, low, high = capsys.readouterr().out.replace("[", "").replace("]", "").replace(",", "").split()
    assert by_hand == table
    assert float(low) < float(table) < float(high)


def test_the_tour_fits_a_page() -> None:
    assert len(TOUR.splitlines()) <= 80
