"""The folders of the package have one order, and imports follow it; nothing lies loose at the top."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "caa_bench"
TOP = {"__init__.py", "__main__.py", "benchmark.py", "callbacks.py", "errors.py", "recipe.py"}
ORDER = [
    "errors", "callbacks", "storage", "config", "models", "behaviors", "engine", "tiny", "analysis", "interventions",
    "judges", "evaluators", "recipe", "runs", "report", "tracking", "geometry", "benchmark", "commands", "providers",
    "__init__", "__main__",
]  # fmt: skip
"""Each may import itself and what stands before it."""


def _modules() -> dict[str, Path]:
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


MODULES = _modules()


def _imports(path: Path) -> set[str]:
    """Modules of the package that are imported when the code runs, also inside functions; not those for types alone."""
    tree = ast.parse(path.read_text())
    typed = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("caa_bench") and id(node) not in typed:
            for name in node.names:
                full = f"{node.module}.{name.name}"
                found.add(full if full in MODULES else str(node.module))
    return found


@cache
def _arrows() -> dict[str, set[str]]:
    return {name: _imports(path) - {name} for name, path in MODULES.items()}


def _folder(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_six_files_stand_at_the_top() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == TOP


def test_every_folder_has_a_place_in_the_order() -> None:
    assert {_folder(name) for name in MODULES} == set(ORDER)


def test_imports_go_downwards() -> None:
    place = {name: number for number, name in enumerate(ORDER)}
    upwards = [
        f"{one} imports {other}"
        for one, others in _arrows().items()
        for other in others
        if place[_folder(other)] > place[_folder(one)]
    ]
    assert upwards == []


def test_no_module_reaches_itself() -> None:
    assert _circles(_arrows()) == []


def test_every_folder_says_what_goes_in_and_out() -> None:
    for folder in (path for path in PACKAGE.iterdir() if (path / "__init__.py").exists()):
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        assert len(text.split()) >= 6, folder.name


def test_the_readme_names_every_folder() -> None:
    layout = (ROOT / "README.md").read_text().split("\n## Layout", 1)[1].split("\n## ", 1)[0]
    named = set(re.findall(r"^ +([\w./]+?)/? {2,}\S", layout, re.MULTILINE))
    expected = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert expected - named == set()
    assert {name for name in TOP if not name.startswith("__")} - named == set()


def test_no_function_of_a_module_is_named_as_two_others_are() -> None:
    """A name says what a function does; what `_lines` or `_text` are, only their module knows. Methods are exempt."""
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                places.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 2} == {}


def _circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Modules that can reach each other (Tarjan's strongly connected components of two or more)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in sorted(arrows.get(name, ())):
            if other not in number:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], number[other])
        if low[name] == number[name]:
            ring = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(ring) > 1:
                found.append(sorted(ring))

    for name in arrows:
        if name not in number:
            visit(name)
    return found
