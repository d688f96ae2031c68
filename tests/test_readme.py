"""README and Makefile never rot: every target, command, recipe, path and example they name is there and works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import fresh, run_code

from caa_bench.__main__ import main
from caa_bench.commands import registry
from caa_bench.models.model import model_names
from caa_bench.recipe import find_recipe, load_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = dict(re.findall(r"^([a-z-]+):.*?## (.+)$", MAKEFILE, flags=re.M))
BLOCKS = [block.replace("\n    ", "\n") for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", README, flags=re.M)]


def section(title: str) -> str:
    """One section of the README."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make install` would leave, but for the installing: this interpreter's own package."""
    home = tmp_path_factory.mktemp("venv")
    (home / "bin").mkdir()
    program = home / "bin" / "caa-bench"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m caa_bench "$@"\n')
    program.chmod(0o755)
    (home / ".installed").touch()
    return home


def make(*words: str, venv: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`make` in the project's folder."""
    given = [] if venv is None else [f"VENV={venv}"]
    env = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}
    call = ["make", "--no-print-directory", "-C", str(ROOT), *given, *words]
    return subprocess.run(call, capture_output=True, text=True, env=env, check=False)


def test_make_alone_prints_a_line_a_target() -> None:
    said = make()
    assert said.returncode == 0, said.stderr
    lines = dict(re.findall(r"^  make ([a-z-]+) +(.+)$", said.stdout, flags=re.M))
    assert lines == TARGETS
    phony = set(re.search(r"^\.PHONY: (.+)$", MAKEFILE, flags=re.M)[1].split())
    assert phony == TARGETS.keys()


def test_every_make_target_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"make ([a-z-]+)\b", " ".join(re.findall(r"`[^`]+`", README) + BLOCKS)))
    assert named >= {"compare", "test"}
    assert named - TARGETS.keys() == set()


def test_every_command_that_the_readme_names_is_there() -> None:
    code = " ".join(re.findall(r"`[^`]+`", README) + BLOCKS)
    named = set(re.findall(r"caa-bench ([a-z-]+)\b", code)) | set(re.findall(r"-m caa_bench ([a-z-]+) ", code))
    assert named - registry().keys() == set()
    models = {model for model in re.findall(r"MODEL=([\w./-]+)", code) if not model.startswith("/")}
    assert models - set(model_names()) == set()
    for recipe in re.findall(r"(?:RECIPE=|`)(recipes/[\w.]+yaml)", code):
        assert find_recipe(recipe).is_file() or recipe == "recipes/my.yaml"


def test_every_shipped_recipe_loads_and_says_how_it_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted((ROOT / "recipes").glob("*.yaml"))
    assert len(files) >= 9
    for file in files:
        load_recipe(file)
        commands = re.findall(r"^#\s+(make [a-z-]+.*)$", file.read_text(), flags=re.M)
        assert commands, f"{file.name}: its first lines name no command"
        assert {command.split()[1] for command in commands} <= TARGETS.keys()


def test_make_passes_everything_on(environment: Path) -> None:
    """The line that it would run, then really run: blanks and brackets of SET arrive whole."""
    words = ["compare", "BEHAVIOR=refusal", "MODEL=tiny", "RECIPE=recipes/smoke.yaml", "SET=caa.layers=[2, 3] seed=1"]
    shown = make("-n", *words, "OUTPUT=out", "DRY_RUN=1", venv=environment).stdout.strip()
    expected = '--set "$SET" --recipe recipes/smoke.yaml --output out --dry-run behavior=refusal model=tiny'
    assert shown == f"{environment}/bin/caa-bench compare {expected}"
    done = make(*words, "DRY_RUN=1", venv=environment)
    assert done.returncode == 0, done.stderr
    assert "layer 2 x" in done.stdout and "layer 3 x" in done.stdout and "layer 1 x" not in done.stdout


@pytest.mark.slow
def test_make_exits_as_the_command_does(environment: Path) -> None:
    done = make("check", "BEHAVIOR=refusl", venv=environment)
    assert done.returncode == 2
    assert "did you mean 'refusal'?" in done.stderr
    assert make("compare-all", "DRY_RUN=1", venv=environment).stdout.count("cells:") >= 3


def test_the_mistake_that_the_readme_shows_is_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (shown,) = re.findall(r"^    (caa-bench: recipes/my\.yaml.+)$", README, flags=re.M)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/my.yaml").write_text("extends: compare\n\n\n\n\ncaa:\n  layer: 3\n")
    assert main(["check", "--recipe", "recipes/my.yaml"]) == 2
    assert capsys.readouterr().err == f"{shown}\n"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the Python example ran, shortened by its own `limit`, and what it then printed."""
    folder = tmp_path_factory.mktemp("example")
    (code,) = [block for block in BLOCKS if "benchmark.compare()" in block]
    assert "limit=" in code
    shortened = re.sub(r"limit=\d+", "limit=4", re.sub(r"^    ", "", code, flags=re.M))
    effect = "report.shifts.query(\"base == 'system_prompt_mine' and vector == ''\")['total'].iloc[0]"
    more = f"print(list(report.stacking['base'].unique()), report.folder, {effect})"
    return folder, run_code(f"{shortened}\n{more}", folder=folder)


def test_the_python_example_runs_and_leaves_what_the_readme_lists(example: tuple[Path, str]) -> None:
    """Its prompt does something, and every file that the section on results names is in the run folder."""
    bases, folder, effect = example[1].strip().splitlines()[-1].rsplit(" ", 2)
    assert bases == "['none', 'system_prompt_mine']" or bases == "['system_prompt_mine']"
    assert float(effect) > 1, "a prompt that the embedded model does not know would do nothing"
    named = set(re.findall(r"`(\w+\.(?:jsonl|json|csv|txt|html))`", section("Results")))
    assert {"rows.jsonl", "cells.csv", "stacking.csv"} <= named
    assert named - {path.name for path in (example[0] / folder).iterdir()} == set()


@pytest.mark.parametrize("page", ["README.md", "docs/my-model.md"])
def test_the_fitted_vector_steers_as_written(page: str, example: tuple[Path, str]) -> None:
    """The README's lines as they stand, from a checkout; those of the docs with the reader's own two folders."""
    block = r"(?:```python\n|^    )(from transformers import AutoModel.+?skip_special_tokens=True\)\))"
    (code,) = re.findall(block, (ROOT / page).read_text(), flags=re.M | re.S)
    code = re.sub(r"^    ", "", code, flags=re.M) if page == "README.md" else code
    (kept,) = (path for path in (example[0] / "runs/artifacts").glob("caa-*") if path.is_dir())
    tiny = str(ROOT / "caa_bench/tiny/model")
    code = code.replace("caa_bench/tiny/model", tiny).replace("/path/to/model", tiny).replace("caa-...", kept.name)
    said = run_code(code, folder=example[0]).strip().splitlines()[-1]
    if page == "README.md":
        assert re.search(r"cannot|can not|will not|won't|No\b", said), said
        turned = run_code(code.replace("multiplier=1.5", "multiplier=-2"), folder=example[0])
        assert re.match(r"\s*(Yes|Sure|Gladly|Of course)", turned.strip().splitlines()[-1]), turned


def test_the_layout_is_the_real_one() -> None:
    folder, missing = ROOT, []
    for line in section("Layout").splitlines():
        if not line.strip():
            continue
        names = re.split(r"\s{2,}", line.strip())[0]
        for name in re.split(r",? ", names.split(";")[0]) if "," in names else [names]:
            place = (folder if line.startswith("      ") else ROOT) / name
            if not place.exists():
                missing.append(line)
        if not line.startswith("      ") and line.startswith("    "):
            folder = ROOT / names
    assert missing == []


def _arms(text: str) -> dict[str, tuple[float, ...]]:
    """The lines of a printed table of arms and stacks, each with its shift and interval; () for the unchanged model."""
    shift = re.compile(r"(?<=  )([+-]\d\.\d\d) \[([+-]\d\.\d\d), ([+-]\d\.\d\d)\]")
    arms = re.findall(r"^ +(?:  \+ CAA [+-][\d.]+|none|system_prompt_\w+|lora_sft_\w+)  .*$", text, flags=re.M)
    return {line.strip(): tuple(map(float, found[0])) if (found := shift.findall(line)) else () for line in arms}


def test_the_first_table_is_that_of_a_real_model() -> None:
    """Line by line the table of the kept run; each shift lies in its interval, on its dose's side."""
    first = README.partition("## A check in a minute")[0]
    kept = (ROOT / "results/qwen2.5-coder-0.5b-instruct-q4/refusal/table.txt").read_text()
    shown, there = _arms(first), _arms(kept.partition("How the layer and the doses")[0])
    assert shown == there and len(shown) == 18
    shifts = {line: values for line, values in shown.items() if values}
    assert set(shown) - set(shifts) == {next(iter(shown))}, "the unchanged model has no shift"
    assert all(low <= point <= high for point, low, high in shifts.values())
    assert all((values[0] > 0) == ("CAA +" in line) for line, values in shifts.items() if "+ CAA" in line)


def test_the_table_of_the_embedded_model_comes_second() -> None:
    shown = _arms(section("A check in a minute"))
    assert len(shown) == 9
    assert all(low <= point <= high for point, low, high in filter(None, shown.values()))


def test_a_fresh_interpreter_finds_the_package_by_name(tmp_path: Path) -> None:
    done = fresh(["--help"], folder=tmp_path)
    assert done.returncode == 0
    assert "caa-bench compare behavior=refusal" in done.stdout
