"""Each kind of thing is added by ONE new file in a copy of the package, or named in a recipe; nothing else changes."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from small_runs import Command, Small, manifest, start_copy
from test_extension import FIRST_PAIR

from caa_bench import Benchmark, BenchmarkArguments, load_recipe
from caa_bench.__main__ import main
from caa_bench.errors import UserError
from caa_bench.interventions import registry

ROOT = Path(__file__).parents[1]

EVALUATOR = '''
"""How many words a question has."""

from caa_bench.evaluators.base import Evaluator


class Words(Evaluator):
    """Counts; a row of its own for each item and treatment."""

    name = "words"
    of_behavior = False

    def items(self, behavior, *, split):
        """The A/B items."""
        return behavior.test

    def evaluate(self, job):
        """One metric row each."""
        return [
            {
                "cell": treatment.cell, "item": item.id, "cluster": item.cluster, "task": "", "metric": "words",
                "aggregation": "mean", "value": len(item.question.split()), "weight": 1, "error": None,
            }
            for item in job.items
            for treatment in job.treatments
        ]
'''

JUDGE = '''
"""A judge of length."""

from caa_bench.judges.base import Judge, Judgement


class Brevity(Judge):
    """1 for an answer of under three words, else 0."""

    name = "brevity"

    def judge(self, asked, *, behavior, chat):
        """At once."""
        for place, one in enumerate(asked):
            yield place, Judgement(score=float(len(one.text.split()) < 3))
'''

TRACKER = '''
"""A text file as a dashboard."""

from caa_bench.tracking.base import Tracker


class Lines(Tracker):
    """Writes how many cells there are."""

    name = "lines"

    def on_report(self, *, report):
        """One line."""
        (report.folder / "lines.txt").write_text(f"{self.project} {len(report.cells)}")
'''

COMMAND = '''
"""`hello`: a greeting."""

from caa_bench.commands.base import Command


class Hello(Command):
    """Greets."""

    name = "hello"
    help = "say hello"

    def run(self, options):
        """To whoever is there."""
        print("hello")
        return 0
'''


@pytest.fixture
def run_with(tmp_path: Path, small: Small):
    """Runs a command with one more file in a copy of the package; `compare` on the small model, into `run`."""

    def call(file: str, text: str, *argv: str) -> Command:
        copy = tmp_path / "copy"
        for name in ("caa_bench", "configs", "recipes"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        assert not (copy / "caa_bench" / file).exists()
        (copy / "caa_bench" / file).write_text(text)
        done = start_copy(copy, argv, folder=tmp_path)
        assert done.wait() == 0, done.stderr()
        return done

    return call


def table(path: Path) -> list[dict[str, str]]:
    """A CSV file's lines."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_vector_is_one_file_with_placebos_and_a_line_in_every_table(run_with, small: Small, tmp_path: Path) -> None:
    settings = small.settings(
        "vectors=[first_pairs, caa, random, shuffled]", "bases=[none, system_prompt_positive]", "first_pairs.count=16"
    )
    run_with("interventions/first_pairs.py", FIRST_PAIR, "compare", "--output", "run", *settings)
    facts = manifest(tmp_path / "run")["facts"]
    assert {label: one["placebo_of"] for label, one in facts["interventions"].items() if one["placebo_of"]} == {
        "random": "caa",
        "random_first_pairs": "first_pairs",
        "shuffled": "caa",
        "shuffled_first_pairs": "first_pairs",
    }
    for name in ("cells.csv", "shifts.csv", "reliability.csv"):
        named = {line["vector"] for line in table(tmp_path / "run" / name)}
        assert {"first_pairs", "random_first_pairs", "shuffled_first_pairs"} <= named, name
    assert {line["vector"] for line in table(tmp_path / "run" / "stacking.csv")} == {"first_pairs", "caa"}
    ranked = {(line["vector"], line["placebo"], line["draws"]) for line in table(tmp_path / "run" / "placebos.csv")}
    assert {("first_pairs", "random_first_pairs", "3"), ("first_pairs", "shuffled_first_pairs", "3")} <= ranked


def test_an_evaluator_with_rows_of_its_own_is_one_file(run_with, small: Small, tmp_path: Path) -> None:
    settings = small.settings("evaluators=[answer_probability, words]", "bases=[none]", "vectors=[]")
    run_with("evaluators/words.py", EVALUATOR, "compare", "--output", "run", *settings)
    (line,) = [one for one in table(tmp_path / "run/metrics.csv") if one["metric"] == "words"]
    assert float(line["value"]) == pytest.approx(12.0, abs=3) and line["n"] == "24"


def test_a_judge_is_one_file(run_with, small: Small, tmp_path: Path) -> None:
    settings = small.settings("evaluators=[open_ended]", "open_ended.judges=[brevity]", "bases=[none]", "vectors=[]")
    run_with("judges/brevity.py", JUDGE, "compare", "--output", "run", *settings, "open_ended.max_new_tokens=6")
    text = (tmp_path / "run/judgements.jsonl").read_text()
    assert text.count("\n") >= 1 and '"brevity"' in text


def test_a_tracker_is_one_file(run_with, small: Small, tmp_path: Path) -> None:
    settings = small.settings("report_to=[lines]", "project=mine", "bases=[none]", "vectors=[]")
    run_with("tracking/lines.py", TRACKER, "compare", "--output", "run", *settings)
    assert (tmp_path / "run/lines.txt").read_text() == "mine 1"


def test_a_command_is_one_file(run_with) -> None:
    assert run_with("commands/hello.py", COMMAND, "hello").stdout() == "hello\n"


def test_a_file_named_in_a_recipe_is_part_of_what_the_run_is(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    method = FIRST_PAIR.replace("FirstPairs", "Plugged").replace("first_pairs", "plugged")
    (tmp_path / "my_method.py").write_text(method)
    asked = [*small.settings("vectors=[plugged, random]", "bases=[none]"), "plugins=[my_method.py]"]
    assert main(["compare", *asked]) == 0
    (run,) = (tmp_path / "runs/compare").iterdir()
    (kept,) = manifest(run)["recipe"]["plugins"]
    assert kept.startswith("my_method.py#")
    assert load_recipe(run / "recipe.yaml").args.plugins == (kept,)
    recipe = load_recipe(run / "recipe.yaml")
    given = registry()["plugged"](doses=[8])
    args = BenchmarkArguments(draws=99, batch_size=8, bases=("none",), vectors=("plugged", "random"), report_to=())
    in_python = Benchmark(str(small.model), behavior=str(small.behavior), args=args, interventions=[given])
    assert in_python.args.plugins == (kept,), "a class of a module brings its file"
    assert in_python.settings["plugged"] == recipe.flat()["plugged"]
    (tmp_path / "my_method.py").write_text(method + "\n# edited\n")
    with pytest.raises(UserError, match=r"my_method\.py is not the file that the recipe names by #"):
        load_recipe(run / "recipe.yaml")
    for wrong in ("nowhere.py", "my_method.txt", "https://host/x.py"):
        assert main(["check", *asked[:-1], f"plugins=[{wrong!r}]"]) == 2
        assert f"override: plugins: there is no Python file {wrong!r}" in capsys.readouterr().err
    (tmp_path / "broken.py").write_text("1 / 0")
    assert main(["check", *asked[:-1], "plugins=[broken.py]"]) == 2
    assert "plugins: broken.py cannot be run (ZeroDivisionError: division by zero)" in capsys.readouterr().err
