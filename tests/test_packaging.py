"""The wheel: it holds everything that runs and nothing else, and it works from an empty folder without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ("caa_bench", "configs", "recipes")
EXTRAS = (
    "bitsandbytes",
    "wandb",
    "wandb_workspaces",
    "trackio",
    "lm_eval",
    "gguf",
    "submitit",
    "inspect_ai",
    "fastapi",
    "openai",
)
"""What a core install does not bring."""


def run(*command: str | Path, folder: Path) -> str:
    """What a command prints; it must succeed. Nothing of the checkout is on its path."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked() -> set[str]:
    """The files of the checkout that a user needs, by their name in the wheel."""
    files = subprocess.run(
        ["git", "ls-files", "-z", *SHIPPED], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    names = {name for name in files if name and (ROOT / name).is_file()}
    if not names:
        pytest.skip("not a git checkout: which files belong to the project is not known")
    return {name if name.startswith("caa_bench/") else f"caa_bench/{name}" for name in names}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tracked files alone, as a release is."""
    if find_spec("setuptools") is None or find_spec("pip") is None:
        pytest.skip("building without the package index needs pip and setuptools in this environment")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    extra = {"setup.cfg", "pyproject.toml", "README.md", "LICENSE"}
    for name in extra | {name.removeprefix("caa_bench/") if _beside(name) else name for name in tracked()}:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "wheel", *options, "-w", target, source, folder=source)
    (built,) = target.glob("*.whl")
    return built


def _beside(name: str) -> bool:
    return name.startswith(("caa_bench/configs/", "caa_bench/recipes/"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a fresh environment with the wheel in it; its dependencies are this environment's."""
    home = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", home, folder=home)
    (packages,) = home.glob("lib/python*/site-packages")
    here = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    blocked = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r}))"  # as where no extra is installed
    (packages / "dependencies.pth").write_text("\n".join([*here, blocked]) + "\n")
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    python = home / "bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, folder=home)
    return home / "bin"


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    """Configs, recipes, the embedded model and templates too; no tests, no data of others."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        meta = "".join(archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    assert names == tracked()
    assert "\nRequires-Dist: torch" in meta
    for needed in ("tiny/model/model.safetensors", "configs/behaviors/refusal/test.json", "recipes/compare.yaml"):
        assert f"caa_bench/{needed}" in names
    assert any(name.endswith(".jinja") for name in names)


def test_the_extras_are_the_ones_that_the_core_does_without() -> None:
    """Each of them is named by an extra and by no requirement of the core."""
    setup = (ROOT / "setup.cfg").read_text()
    core = setup.partition("install_requires =")[2].partition("[options.extras_require]")[0]
    extras = setup.partition("[options.extras_require]")[2]
    for name in EXTRAS:
        package = name.replace("_", "-")
        assert package not in core, package
        assert package in extras or package in ("fastapi", "openai"), package  # those are of transformers[serving]


def test_what_an_extra_brings_is_asked_for_by_name(installed: Path, tmp_path: Path) -> None:
    """One line with the command that installs it, before any weights load."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for words, extra in {
        ("check", "loading.quantization=4bit"): "quantization",
        ("check", "report_to=[trackio]"): "dashboards",
        ("dashboard", "--local"): "dashboards",
        ("check", "evaluators=[lm_eval]", "lm_eval.tasks=[arc_easy]"): "lm-eval",
    }.items():
        call = [str(installed / "caa-bench"), *words]
        done = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        lines = [line for line in done.stderr.splitlines() if "wandb is not installed" not in line]
        assert done.returncode == 2 and len(lines) == 1, done.stderr
        assert f"caa-bench[{extra}]" in lines[0]


def test_the_installed_command_works_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "python", "-c", "import caa_bench; print(caa_bench.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent), "the checkout's own package was taken"
    kinds = json.loads(run(installed / "caa-bench", "list", "--json", folder=tmp_path))
    assert {"refusal", "sycophancy", "survival-instinct"} <= kinds["behaviors"].keys()
    assert {"compare", "smoke", "layer_sweep"} <= kinds["recipes"].keys()
    assert "tiny" in kinds["models"]
    assert "refusal on tiny is fine" in run(installed / "caa-bench", "check", folder=tmp_path)
    assert "cells:" in run(installed / "caa-bench", "sweep", "--dry-run", folder=tmp_path)
    assert "usage: caa-bench" in run(installed / "python", "-m", "caa_bench", "--help", folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_installed_command_compares(installed: Path, tmp_path: Path) -> None:
    """With what a core install brings, and with the default dashboard, which then is not there."""
    settings = ["behavior=refusal", "limit=4", "bases=[none,lora_sft_positive]", "vectors=[caa]", "draws=9"]
    said = run(
        installed / "caa-bench", "compare", "--output", "run", *settings, "lora_sft.max_pairs=8", folder=tmp_path
    )
    assert "p(matching)" in said
    assert not (tmp_path / "run/wandb").exists()
    assert {"cells.csv", "stacking.csv", "report.html"} <= {path.name for path in (tmp_path / "run").iterdir()}
