"""A new file in interventions/ and a new folder in configs/behaviors/ of a copy of the project: no other edit.

The commands, the recipe keys, the error lines and the project's own contract tests take both as they are.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_behavior import write_behavior
from small_runs import TIMEOUT_S, Small, manifest

ROOT = Path(__file__).parents[1]

FIRST_PAIR = '''
"""The difference of the first few pairs alone: an intervention with edits, fitted and kept."""

from dataclasses import dataclass
from typing import Literal

from caa_bench.models.layers import Layers
from caa_bench.interventions.base import Condition
from caa_bench.interventions.vectors import SteeringVector, letter_differences


class FirstPairs(SteeringVector):
    """Few pairs instead of all."""

    name = "first_pairs"
    grid = ("doses",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Recipe section `first_pairs`."""

        count: int = 2
        doses: tuple[float, ...] = (8.0,)

    def conditions(self, layers: Layers) -> list[Condition]:
        """The default layer."""
        return [Condition(layer=layers.default, multiplier=dose) for dose in self.config.doses]

    def fit(self, model, tokenizer, pairs):
        """Average them."""
        self.vectors = letter_differences(model, tokenizer, list(pairs)[: self.config.count]).mean(dim=0)
'''

REMINDER = '''
"""A sentence after the user's words: an intervention that changes the conversation and learns nothing."""

from caa_bench.interventions.base import Intervention

SAYS = {"kind": "Please be kind.", "stern": "Please be stern."}


class Reminder(Intervention):
    """Rewrites the last message."""

    name = "reminder"
    variants = tuple(SAYS)

    def rewrite(self, messages):
        """In front of it."""
        *earlier, last = messages
        return [*earlier, {**last, "content": f"{SAYS[self.variant]}\\n\\n{last['content']}"}]
'''

RECIPE = """
extends: compare.yaml
behavior: politeness
bases: [none, reminder_kind, reminder_stern+lora_sft_positive]
vectors: [first_pairs, caa]
evaluators: [answer_probability]
caa:
  multipliers: [8]
first_pairs:
  count: 3
  doses: [-8, 8]
lora_sft:
  max_pairs: 4
report_to: []
draws: 99
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with two new files and one new folder, nothing else changed."""
    root = tmp_path_factory.mktemp("copy")
    for name in ("caa_bench", "configs", "recipes", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "test_tiny*"))
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "caa_bench/interventions/first_pairs.py").write_text(FIRST_PAIR)
    (root / "caa_bench/interventions/reminder.py").write_text(REMINDER)
    write_behavior(root / "configs/behaviors/politeness")
    (root / "recipes/polite.yaml").write_text(RECIPE)
    return root


def python(copy: Path, *args: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that takes the copy's package."""
    return subprocess.run(
        [sys.executable, *args],
        cwd=folder or copy,
        env=os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_both_are_listed_and_checked_by_name(copy: Path, tmp_path: Path) -> None:
    kinds = json.loads(python(copy, "-m", "caa_bench", "list", "--json", folder=tmp_path).stdout)
    assert "politeness" in kinds["behaviors"]
    assert {"first_pairs", "reminder"} <= kinds["interventions"].keys()
    assert "polite" in kinds["recipes"]
    checked = python(copy, "-m", "caa_bench", "check", "behavior=politeness", folder=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "politeness on tiny is fine" in checked.stdout


def test_their_mistakes_are_told_like_any_other(copy: Path, tmp_path: Path) -> None:
    wrong = {
        "behavior=politenes": "did you mean 'politeness'?",
        "first_pairs.cuont=1": "first_pairs.cuont: unknown key; did you mean 'count'?",
        "first_pairs.count=few": "first_pairs.count: expected an integer, found the text 'few'; write an integer",
        "bases=[reminder_loud]": "reminder_loud is unknown; use reminder_kind, reminder_stern",
        "vectors=[reminder_kind]": "reminder_kind changes the conversation",
    }
    for typed, says in wrong.items():
        done = python(copy, "-m", "caa_bench", "check", "--recipe", "polite", typed, folder=tmp_path)
        assert done.returncode == 2
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_recipe_runs_them_with_everything_else(copy: Path, small: Small, tmp_path: Path) -> None:
    """As bases, in stacks, on top of others, fitted, kept, reported."""
    command = ["compare", "--recipe", "polite", "--output", "run", f"model={small.model}", "data=own"]
    done = python(copy, "-m", "caa_bench", *command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "run/cells.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    bases = {"none", "reminder_kind", "reminder_stern+lora_sft_positive"}
    assert {cell["base"] for cell in cells} == bases
    assert {(cell["vector"], cell["multiplier"]) for cell in cells} == {
        ("", "0"),
        ("first_pairs", "-8"),
        ("first_pairs", "8"),
        ("caa", "8"),
    }
    assert {cell["behavior"] for cell in cells} == {"politeness"}
    assert len({cell["log_odds"] for cell in cells}) == len(cells) == 12, "each of them does something of its own"
    artifacts = manifest(tmp_path / "run")["facts"]["artifacts"]
    assert artifacts.keys() == {"lora_sft_positive", "first_pairs", "caa"}
    with (tmp_path / "run/stacking.csv").open(newline="") as file:
        assert {line["vector"] for line in csv.DictReader(file)} >= {"first_pairs", "caa"}


@pytest.mark.slow
def test_the_project_s_own_tests_take_both(copy: Path) -> None:
    """The same test files, unedited: the interventions are in the matrix of the contract, the folder is checked too."""
    chosen = ["tests/test_contract.py", "tests/test_behavior.py", "-k", "first_pairs or reminder or builtin"]
    done = python(copy, "-m", "pytest", *chosen, "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(done.stdout.splitlines()[-1].split(" passed")[0]) > 50


PLANS = """
import sys
from caa_bench import Benchmark, load_recipe
for behavior in ("politeness", "mine/politeness"):
    chosen = [f"behavior={behavior}", "data=own", "bases=[none, reminder_kind]", "vectors=[]", *sys.argv[1:]]
    recipe = load_recipe(None, chosen)
    print(*(batch.key for batch in Benchmark.from_recipe(recipe).plan().batches))
"""


def test_a_behavior_folder_anywhere_is_the_same_by_its_path(copy: Path, small: Small, tmp_path: Path) -> None:
    """Same keys as by name: where the folder is has no part in what is measured."""
    shutil.copytree(copy / "configs/behaviors/politeness", tmp_path / "mine/politeness")
    done = python(copy, "-c", PLANS, f"model={small.model}", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    by_name, by_path = done.stdout.splitlines()
    assert by_name == by_path != ""
