"""Sections: found by standing in their folder, one file each; what each shows is in text, page and CSV alike."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
from answer_runs import speak
from report_page import PageReader, check_tables
from report_runs import simulate
from small_runs import start_copy

from caa_bench.report import Report, make_report, write_report
from caa_bench.report.sections import Section, sections

ROOT = Path(__file__).parents[1]
LONGEST = '''"""The longest names."""

from caa_bench.report import words
from caa_bench.report.sections import Column, Section, Table


class Longest(Section):
    """How long the name of each arm is."""

    name = "longest"
    title = "Length of names"
    order = 95
    needs = ("arms",)

    def tables(self, report):
        frame = report.arms[["arm", "cell"]].assign(letters=report.arms["arm"].str.len().astype(float))
        letters = Column(name="letters", form=words.count, definition="of the name")
        return [Table(frame=frame, columns=(Column(name="arm"), letters), caption="Letters a name", file=self.name)]
'''


def test_sections_are_found_in_their_folder() -> None:
    """Each has a name, a title and a place of its own."""
    found = sections()
    names = [section.name for section in found]
    assert names[0] == "arms" and len(names) == len(set(names)) == len(Section.__subclasses__())
    assert [section.order for section in found] == sorted(section.order for section in found)
    assert all(section.name and section.title and type(section).__doc__ for section in found)
    assert len(list((ROOT / "caa_bench/report").rglob("*.py"))) <= 24


def test_a_section_is_one_file(tmp_path: Path) -> None:
    """Put into a copy of the project it stands in the text, on the page and in a CSV, with nothing else changed."""
    root = tmp_path / "copy"
    for name in ("caa_bench", "configs", "recipes"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "caa_bench/report/sections/longest.py").write_text(LONGEST)
    run = simulate(tmp_path / "runs/compare/refusal", items=24, bases=("none", "lora_sft_positive"), vectors=("caa",))
    done = start_copy(root, ["report", str(run)], folder=tmp_path)
    assert done.wait() == 0, done.stderr()
    assert "Length of names: Letters a name" in done.stdout()
    table = pd.read_csv(run / "longest.csv")
    assert dict(zip(table["arm"], table["letters"], strict=True))["lora_sft_positive"] == 17
    page = PageReader((run / "report.html").read_text())
    (shown,) = (one for one in page.tables if one.section == "longest")
    assert shown.column("longest.letters") == {x["cell"]: f"{x['letters']:.0f}" for x in table.to_dict("records")}
    assert check_tables(run)["longest.letters"] == len(table) == 6


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Capability, perplexity and answers in words, each moved by something else."""
    run = tmp_path_factory.mktemp("beside") / "runs/compare/refusal"
    bases = ("none", "system_prompt_positive")
    changes = {"bases": bases, "multipliers": (-1.0, 1.0), "vectors": ("caa", "random")}
    simulate(run, items=40, loss={("none", 1.0): 0.8}, rise={("system_prompt_positive", 0.0): 0.3}, **changes)
    speak(run, lambda cell: 0.2 * cell["multiplier"])
    write_report(run)
    return run


def test_every_section_says_what_it_comes_to(beside: Path) -> None:
    """Folded on the page, each has a finding beside its heading, and no head of a table is a column's raw name."""
    report = make_report(beside)
    shown = [section for section in sections() if section.tables_of(report)]
    assert len(shown) >= 12
    assert [section.name for section in shown if not section.summary(report)] == []
    heads = [column.head for section in shown for table in section.tables_of(report) for column in table.columns]
    assert [head for head in heads if "_" in head] == []
    page = (beside / "report.html").read_text()
    assert "system_prompt_positive" not in page.split('id="repeat"')[0].split("<script", 1)[0].split("</svg>")[-1]


def test_side_effects_hold_every_measure_of_every_arm(beside: Path) -> None:
    """One line an arm and measure; points by hand from the tables of each evaluator, n and interval beside them."""
    table = pd.read_csv(beside / "side_effects.csv")
    measures = ["p(correct), plain facts", "perplexity", "score in words, 0-1"]
    assert sorted(table["measure"].unique()) == measures
    assert len(table) == 3 * 5, "CAA at both doses alone, the prompt, and both on it; never a placebo"
    assert set(table["vector"].dropna()) == {"caa"}
    own = table.set_index(["base", "multiplier", "measure"])
    cells = json.loads((beside / "manifest.json").read_text())["facts"]["cells"]
    asked = {(x["base"], x["multiplier"], x["evaluator"]): x["key"] for x in cells if x["vector"] != "random"}
    right, lines = {}, [json.loads(line) for line in (beside / "rows.jsonl").read_text().splitlines()]
    for row in (x for x in lines if x.get("item", "").startswith("own/")):
        odds = row["logits"][row["matching"]] - row["logits"][1 - row["matching"]]
        right.setdefault(row["cell"], []).append(1 / (1 + math.exp(-odds)))
    levels = {cell: sum(each) / len(each) for cell, each in right.items()}
    change = levels[asked["none", 1.0, "capability"]] - levels[asked["none", 0.0, "capability"]]
    assert own.loc[("none", 1.0, measures[0]), "change"] == pytest.approx(change)
    assert change < -0.05
    assert own.loc[("system_prompt_positive", 0.0, "perplexity"), "change"] == pytest.approx(1.35, abs=0.03)
    assert own.loc[("none", 1.0, "perplexity"), "change"] == pytest.approx(1.0)
    assert own.loc[("none", -1.0, measures[2]), "change"] == pytest.approx(-0.2)
    assert own["n"].groupby("measure").first().to_dict() == {measures[0]: 40, "perplexity": 40, measures[2]: 24}
    low, high = own.loc[("none", 1.0, measures[0]), ["change_low", "change_high"]]
    assert low < change < high < 0


def test_side_effects_are_on_page_and_terminal(beside: Path) -> None:
    assert check_tables(beside)["side_effects.change"] == 15
    text = make_report(beside).text()
    section = text[text.index("Side effects.") :].split("\n\n")[0]
    assert "p(correct), plain facts" in section and "perplexity" in section
    assert max(map(len, section.splitlines())) <= 120
    told = PageReader((beside / "report.html").read_text()).loose["side_effects"]
    assert "changes have an interval that leaves out no change" in told


def test_a_run_that_measured_nothing_beside_has_no_side_effects(tmp_path: Path) -> None:
    run = simulate(tmp_path / "runs/compare/refusal", items=24, bases=("none",), vectors=("caa",))
    write_report(run)
    assert not (run / "side_effects.csv").exists()
    assert 'id="side_effects"' not in (run / "report.html").read_text()


def _renamed(run: Path, vector: str) -> Report:
    """The report of a run whose vector and placebos have other names, and which says what each is."""
    manifest = json.loads((run / "manifest.json").read_text())
    names = {"caa": vector, "random": "noise", "shuffled": "mixed"}
    for cell in manifest["facts"]["cells"]:
        cell["vector"] = names.get(cell["vector"], cell["vector"])
    for place in (manifest["facts"]["artifacts"], manifest["facts"]["diagnostics"]):
        for old, new in names.items():
            if old in place:
                place[new] = place.pop(old)
    manifest["recipe"]["vectors"] = [names[name] for name in manifest["recipe"]["vectors"]]
    manifest["facts"]["interventions"] = {
        vector: {"name": vector, "role": "vector", "placebo_of": None},
        "noise": {"name": "random", "role": "vector", "placebo_of": vector},
        "mixed": {"name": "shuffled", "role": "vector", "placebo_of": vector},
    }
    (run / "manifest.json").write_text(json.dumps(manifest))
    return write_report(run)


def test_another_vector_method_gets_the_same_report(tmp_path: Path) -> None:
    """Same rows, other names: the same headline, arms, bands, placebo words and sentences, name by name."""
    run = simulate(tmp_path / "runs/compare/refusal", items=40, vectors=("caa", "random", "shuffled"), draws=19)
    own = write_report(run)
    other = _renamed(run, "mean_difference")
    assert other.headline.vector == "mean_difference"
    assert other.headline.doses == own.headline.doses
    numbers = ["p_balanced", "shift", "retention", "room"]
    pd.testing.assert_frame_equal(other.arms[numbers], own.arms[numbers])
    assert (
        own.arms.loc[own.arms["kind"] == "vector", "verdict_words"].tolist()
        == ["beyond all 19 random and all 19 shuffled placebos, p = .05"] * 2
    )
    told = "beyond all 19 mixed and all 19 noise placebos, p = .05"
    assert other.arms["verdict_words"].tolist()[1:3] == [told] * 2
    assert len(other.band) == len(own.band) > 0
    pages = [report.text().split("\n\n")[0].replace("mean_difference", "CAA") for report in (own, other)]
    assert pages[0].split() == pages[1].split()
    assert tuple(other.record.placebos) == ("noise", "mixed")
