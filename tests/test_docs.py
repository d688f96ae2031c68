"""The documentation never rots: every command and Python example is run or checked, every link and name is there."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from report_runs import simulate

import caa_bench
from caa_bench.__main__ import main
from caa_bench.analysis import verdict
from caa_bench.commands import registry
from caa_bench.commands.base import RecipeCommand
from caa_bench.commands.parser import commands_of, parser
from caa_bench.commands.typed import normalized

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
ELSEWHERE = {"my-behavior.md", "tour.md"}
"""Whose own tests run them: test_behavior_import.py, test_tour.py."""
COMMANDS = sorted(
    {
        (page.name, re.sub(r"\s+#.*", "", line))
        for page in PAGES
        for line in re.findall(r"^    ((?:caa-bench|make) .+)$", page.read_text(), flags=re.M)
        if page.name not in ELSEWHERE
    }
)
TARGETS = set(re.findall(r"^([a-z-]+):.*?## ", (ROOT / "Makefile").read_text(), flags=re.M))
SLOW = {"my-intervention.md"}
"""Whose Python measures something."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a run, and published data that is not there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAA_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda text: text[:60])
def test_a_command_of_a_page_is_one(
    page: str, line: str, here: Path, small, capsys: pytest.CaptureFixture[str]
) -> None:
    """What would measure is checked, on a small model in the place of the reader's; what only looks is run."""
    program, *words = shlex.split(line.replace("/path/to/model", str(small.model)).replace("data=caa", "data=own"))
    if program == "make":
        assert words[0] in TARGETS
        return
    name, rest = words[0], words[1:]
    command = registry()[name]
    options = commands_of(parser())[name].parse_args(normalized(rest, commands_of(parser())[name]))
    if isinstance(command, RecipeCommand) and name != "check":
        kept = [word for word in options.overrides if not word.startswith("model=[")]
        assert main(["check", "--recipe", options.recipe, *kept]) == 0, capsys.readouterr().err
    elif name in ("list", "runs", "check", "completion"):
        assert main(words) == 0, capsys.readouterr().err
    elif name == "bake":
        assert options.arm, "test_bake.py runs it"
    elif name == "view":
        simulate(Path("runs/compare/refusal-tiny-1"), items=24, bases=("none",))
        Path("runs/compare/refusal-tiny-1/report.html").write_text("<p>")
        assert main(words) == 0
    else:
        assert name in ("generate", "chat", "serve", "launch", "export"), f"{page}: say how this test runs {name}"


def test_commands_within_sentences_are_there() -> None:
    for page in PAGES:
        for named in re.findall(r"`caa-bench ([a-z-]+)\b", page.read_text()):
            assert named in registry(), f"{page.name}: caa-bench {named}"
        for named in re.findall(r"`make ([a-z-]+)\b", page.read_text()):
            assert named in TARGETS, f"{page.name}: make {named}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ELSEWHERE], ids=lambda page: page.name)
def test_the_python_of_a_page_is_python(page: Path) -> None:
    """And imports only what there is."""
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("caa_bench"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, one.name) for one in node.names)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(SLOW))
def test_the_python_of_a_page_runs(page: str, here: Path) -> None:
    for code in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.S):
        (here / "example.py").write_text(code)
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        call = [sys.executable, "example.py"]
        done = subprocess.run(call, cwd=here, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "first_pairs" in done.stdout


@pytest.mark.slow
def test_the_first_answers_make_sense(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What docs/first-run.md says of them: yes at -2, no at +2."""
    (line,) = {line for page, line in COMMANDS if page == "first-run.md" and " generate " in line}
    assert main(shlex.split(line)[1:]) == 0
    said = dict(re.findall(r"^CAA ([+-]\d)\n    (.+)$", capsys.readouterr().out, flags=re.M))
    assert re.match(r"(Yes|Sure|Gladly|Of course)", said["-2"]), said
    assert re.search(r"cannot|can not|will not|won't|No\b", said["+2"]), said


def test_every_verdict_has_its_word_in_plain_english() -> None:
    """All that the code can say stand in the table of docs/reading-the-report.md."""
    page = (DOCS / "reading-the-report.md").read_text()
    table = dict(
        re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", page.partition("## The words of the verdict")[2], flags=re.M)
    )
    source = Path(verdict.__file__).read_text()
    for word in (
        "adds fully",
        "adds less",
        "adds more",
        "adds nothing",
        "adds only here",
        "works against",
        "not settled",
    ):
        assert word in table and f'"{word}' in source, word
    for tag in ("no room", "log-odds only", "saturated", "opposite in words"):
        assert f"**{tag}**" in page.replace("**log-odds\nonly**", "**log-odds only**"), tag


def test_every_public_name_is_in_the_reference() -> None:
    named = re.findall(r"^::: caa_bench\.(\w+)$", (DOCS / "api.md").read_text(), flags=re.M)
    assert sorted(named) == caa_bench.__all__


def test_every_page_is_in_the_navigation_and_every_link_leads_somewhere() -> None:
    settings = (ROOT / "mkdocs.yml").read_text()
    assert [name for name in re.findall(r"[\w-]+\.md", settings) if not (DOCS / name).is_file()] == []
    assert yaml.safe_load(settings)["strict"] is True
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+\.(?:md|ipynb))[^)]*\)", page.read_text()):
            assert (DOCS / target).is_file(), f"{page.name}: {target}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install caa-bench[docs]")
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(call, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    page = (tmp_path / "site/api/index.html").read_text()
    assert all(f'id="caa_bench.{name}"' in page for name in caa_bench.__all__)
