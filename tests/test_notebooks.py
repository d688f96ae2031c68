"""The notebooks: without outputs of a machine, every cell runs, and what they print makes sense."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[str]:
    """The code cells, in order."""
    return ["".join(one["source"]) for one in json.loads(path.read_text())["cells"] if one["cell_type"] == "code"]


def run_cells(path: Path) -> tuple[dict[str, Any], list[Any]]:
    """Its variables, and the value that each cell would show."""
    space: dict[str, Any] = {}
    shown = []
    for code in cells(path):
        tree = ast.parse(code)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, path.name, "exec"), space)  # noqa: S102 - the notebook's own cells
        shown.append(eval(compile(ast.Expression(last.value), path.name, "eval"), space) if last else None)  # noqa: S307
    return space, shown


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own; figures are drawn for no screen."""
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["compare", "first_look"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_of_a_machine_is_kept(path: Path) -> None:
    kept = json.loads(path.read_text())
    code = [one for one in kept["cells"] if one["cell_type"] == "code"]
    assert all(one["outputs"] == [] and one["execution_count"] is None for one in code)
    assert not re.search(r"/(home|work|tmp|Users)/", path.read_text())


def test_the_first_look_steers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At -2 it complies, at +2 it refuses; the pairs agree where the vector was planted, in layer 3."""
    space, shown = run_cells(next(path for path in NOTEBOOKS if path.stem == "first_look"))
    said = dict(re.findall(r"^([+-]\d)  (.+)$", capsys.readouterr().out, flags=re.M))
    assert "cannot" in said["+2"] or "will not" in said["+2"] or "can not" in said["+2"], said
    assert said["-2"].startswith(("Yes", "Sure", "Gladly", "Of course")), said
    assert shown[1] is not None and list(space["caa"].fitted().shape) == [6, 128]
    diagnostics = shown[-1].set_index("layer")
    assert diagnostics.loc[3, "agreement"] > 0.2


@pytest.mark.slow
def test_the_comparison_says_what_stacks(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space, _ = run_cells(next(path for path in NOTEBOOKS if path.stem == "compare"))
    stacks = space["report"].stacks.set_index("multiplier")
    assert set(stacks["base"]) == {"system_prompt_positive"} and stacks.loc[1.0, "on_top"] > 0.5
    assert re.search(r"^(severe|caution|note): ", capsys.readouterr().out, flags=re.M)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_jupyter_runs_it(path: Path, here: Path) -> None:
    """In a kernel, as a reader does."""
    if importlib.util.find_spec("nbclient") is None or importlib.util.find_spec("ipykernel") is None:
        pytest.skip("nbclient and ipykernel are not installed: pip install caa-bench[docs]")
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(here)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs and not any(output.output_type == "error" for output in outputs)
    if path.stem == "compare":
        assert any("text/html" in output.get("data", {}) for output in outputs)
