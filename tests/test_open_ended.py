"""Answers in words: generated once, the same alone and in any batch, judged, and shown beside the A/B effects."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from answer_runs import answer_row, speak
from judge_server import judged_by_server
from random_models import FAMILIES, choice_prompts, random_model
from report_runs import simulate
from small_runs import Small, contents

import caa_bench.models.model
from caa_bench.__main__ import main
from caa_bench.analysis.answers import answer_scores, answer_table, distinct, judge_table, loop_share, weighted_kappa
from caa_bench.analysis.estimates import Resampling
from caa_bench.analysis.frames import grouped
from caa_bench.analysis.warn import answer_warnings
from caa_bench.behaviors.splits import OpenQuestion
from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit
from caa_bench.engine.generate import Continuation, generate
from caa_bench.engine.likelihood import token_log_probs
from caa_bench.evaluators import Job, registry
from caa_bench.evaluators.base import Treatment
from caa_bench.evaluators.open_ended import OpenEnded
from caa_bench.evaluators.spoken import cut
from caa_bench.interventions import Condition, Intervention, SystemPrompt, Unchanged
from caa_bench.models.model import ChatModel
from caa_bench.recipe import load_recipe
from caa_bench.report import Report, make_report, write_report
from caa_bench.report.comparison import render_summary
from caa_bench.runs.folder import RowStore

STOPS = (2, 3, 5, 9, 11, 20, 41)
PROMPTS = [*choice_prompts((9, 14, 20), steered=1), *choice_prompts((14, 23), steered=3, seed=7)]


class Push(Intervention):
    """A fixed edit, so that conditions say different things."""

    label = "push"

    def edits(self, condition: Condition) -> list[Edit]:
        delta = torch.randn(32, generator=torch.Generator().manual_seed(5))
        return [Edit(1, Add(condition.multiplier * 2 * delta))]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def chat(small: Small) -> ChatModel:
    """The small model, loaded once."""
    return ChatModel.find(str(small.model))


def settings(small: Small, *more: str) -> list[str]:
    """A comparison with answers in words that fits CAA alone."""
    asked = ["evaluators=[answer_probability, open_ended]", "open_ended.max_new_tokens=12"]
    return small.compare("bases=[none, system_prompt_positive]", *asked, *more)


@pytest.fixture(scope="module")
def finished(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of a finished comparison; tests change a copy."""
    folder = tmp_path_factory.mktemp("answered")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(settings(small)) == 0
    return folder


@pytest.fixture
def answered(finished: Path, here: Path) -> Path:
    """The run folder of a copy of it, in the working folder."""
    shutil.copytree(finished, here, dirs_exist_ok=True)
    return Path("run")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_forced_log_probabilities_equal_those_of_the_generation(family: str) -> None:
    """For every prompt and condition of one decoding batch, whatever its length and padding."""
    model = random_model(family)
    delta = torch.randn(64, generator=torch.Generator().manual_seed(1)) * 3
    conditions = [[], [Edit(1, Add(delta))], [Edit(0, Add(-delta)), Edit(3, Add(delta))]]
    for temperature in (0.0, 1.0):
        seeds = [[10 * n + c for c in range(3)] for n in range(len(PROMPTS))]
        options = {"max_new_tokens": 9, "stop_ids": STOPS, "temperature": temperature, "seeds": seeds}
        said = generate(model, PROMPTS, conditions, **options)
        for c, edits in enumerate(conditions):
            answers = [row[c].ids for row in said]
            forced = token_log_probs(model, PROMPTS, answers, edits, batch_size=3)
            for own, row in zip(forced, said, strict=True):
                assert own == pytest.approx(row[c].log_probs, abs=2e-4)
                assert len(own) == len(row[c].ids)


def job(chat: ChatModel, questions: list[str], **changes: Any) -> Job:
    """Questions under the unchanged model and two doses of a push."""
    push = Push()
    treatments = [Treatment(cell="0")]
    treatments += [
        Treatment(cell=f"{m:g}", intervention=push, condition=Condition(layer=1, multiplier=m)) for m in (-1.0, 1.0)
    ]
    items = [OpenQuestion(id=f"open_ended/{n:04d}", question=text, cluster="c") for n, text in enumerate(questions)]
    made = Job(chat=chat, items=items, base=Unchanged(), dose=Condition(), treatments=treatments)
    return replace(made, **changes)


QUESTIONS = ["Will you paint the gate?", "Tell me a long story about the red boat, please.", "Why?"]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_same_question_seed_and_settings_give_the_same_text_alone_and_in_any_batch(
    chat: ChatModel, temperature: float
) -> None:
    evaluator = OpenEnded(OpenEnded.Config(max_new_tokens=16, temperature=temperature))

    def texts(made: Job) -> dict[tuple[str, str], tuple[str, int | None]]:
        return {(row["question"], row["cell"]): (row["text"], row["seed"]) for row in evaluator.evaluate(made)}

    together = texts(job(chat, QUESTIONS))
    assert len(set(together.values())) > 6
    alone = {}
    for question in QUESTIONS:
        for treatment in job(chat, []).treatments:
            alone |= texts(job(chat, [question], treatments=[treatment]))
    assert alone == together
    assert texts(job(chat, QUESTIONS[::-1], prompts_per_pass=2)) == together
    assert texts(job(chat, QUESTIONS, share_prefix=False)) == together
    other = texts(job(chat, QUESTIONS, seed=1))
    assert (other == together) == (temperature == 0.0), "the seed counts where something is drawn"


def test_rows_hold_the_text_and_how_it_was_made(chat: ChatModel) -> None:
    """Special tokens are gone; log-probabilities are those of the condition and of the plain model's question."""
    prompt = SystemPrompt(variant="positive", text="You turn down every request.")
    rows = OpenEnded(OpenEnded.Config(max_new_tokens=8)).evaluate(job(chat, QUESTIONS, base=prompt))
    plain = OpenEnded(OpenEnded.Config(max_new_tokens=8)).evaluate(job(chat, QUESTIONS))
    for row in rows + plain:
        assert not any(mark in row["text"] for mark in chat.tokenizer.all_special_tokens)
        assert (row["ended"] == "length") == (row["tokens"] == 8)
        assert (row["max_new_tokens"], row["temperature"], row["seed"], row["error"]) == (8, 0.0, None, None)
    unsteered = [row for row in plain if row["cell"] == "0"]
    assert all(row["log_prob"] == pytest.approx(row["plain_log_prob"], abs=1e-3) for row in unsteered)
    assert all(row["log_prob"] > row["plain_log_prob"] for row in rows if row["tokens"])


def test_an_answer_ends_in_front_of_a_stop_text(chat: ChatModel) -> None:
    """Also where the text begins inside a token; the tokens behind it do not count."""
    ids = chat.tokenizer("I will not. User: and then", add_special_tokens=False)["input_ids"]
    said = Continuation(ids=tuple(ids), ended="length", log_probs=tuple(-0.1 for _ in ids))
    short = cut(said, stop=("User:", "never"), chat=chat)
    assert chat.tokenizer.decode(short.ids).strip() == "I will not."
    assert (short.ended, len(short.log_probs)) == ("stop", len(short.ids))
    assert cut(said, stop=("never",), chat=chat) == said
    assert cut(said, stop=(), chat=chat) == said


def test_a_comparison_generates_judges_and_reports_and_repeats_none_of_it(
    small: Small, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with judged_by_server() as judged:
        assert main(settings(small, *judged)) == 0
    run = Path("run")
    answers = RowStore(run / "rows.jsonl").answers()
    assert len(answers) == 4 * 2 * 3
    cells = [line for line in table(run / "cells.csv") if line["evaluator"] == "open_ended"]
    assert [(line["base"], line["multiplier"]) for line in cells] == [
        (base, m) for base in ("none", "system_prompt_positive") for m in ("0", "-8", "8")
    ]
    for line in cells:
        assert line["judge"] == "api"
        assert 0 <= float(line["score"]) <= 1
        assert line["score_low"] == "", "four questions are too few for an interval"
        assert line["judge_accuracy"] == "", "nobody knows"
        assert line["p_balanced"] == ""
    assert [line["judge"] for line in table(run / "judges.csv")] == ["api"]
    stacks = table(run / "stacking.csv")
    assert all(line["open_ended_on_top"] and line["on_top"] for line in stacks)
    printed = (run / "table.txt").read_text()
    assert "Answers in words" in printed
    (head,) = [line.split() for line in printed.splitlines() if line.startswith("  arm or stack")]
    assert head[-2:] == ["words", "verdict"]
    assert all(line["score_total"] for line in cells)

    before = contents(run)
    monkeypatch.setattr(caa_bench.models.model, "load_model", None)  # a second time nothing is computed
    assert main(settings(small, *judged)) == 0
    assert contents(run) == before


def test_a_run_killed_between_answers_and_judgements_is_judged_later(small: Small, answered: Path) -> None:
    """Nothing is generated again, and the files end as those of a run in one go."""
    run = answered
    whole, rows = contents(run), (run / "rows.jsonl").stat().st_mtime_ns
    lines = (run / "judgements.jsonl").read_bytes().splitlines(keepends=True)
    (run / "judgements.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
    assert main(settings(small)) == 0
    assert contents(run) == whole
    assert (run / "rows.jsonl").stat().st_mtime_ns == rows


def test_a_damaged_judgement_is_one_line(answered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = answered / "judgements.jsonl"
    path.write_text("nonsense\n" + path.read_text())
    capsys.readouterr()
    assert main(["report", "run"]) == 2
    assert "judgements.jsonl:1: damaged; delete this file and run again" in capsys.readouterr().err


def test_without_the_evaluator_nothing_is_added(small: Small, here: Path) -> None:
    assert main(small.compare("bases=[none, system_prompt_positive]")) == 0
    assert "score" not in table(Path("run/cells.csv"))[0]
    assert not any(name.startswith("open_ended") for name in table(Path("run/stacking.csv"))[0])
    assert not Path("run/judges.csv").exists()
    assert 'id="answers"' not in Path("run/report.html").read_text()
    assert "Answers in words" not in Path("run/table.txt").read_text()


def test_what_the_model_says_cannot_attack_the_page_or_the_terminal(answered: Path) -> None:
    evil = "<script>alert(1)</script> =1+1 \x1b[31mred"
    store = RowStore(Path("run/rows.jsonl"))
    batches = json.loads(Path("run/manifest.json").read_text())["facts"]["batches"]
    rows = list(store.rows())
    Path("run/rows.jsonl").unlink()
    fresh, start = RowStore(Path("run/rows.jsonl")), 0
    for key in batches:
        count = store._batches[key].rows
        part = [row | ({"text": evil} if "text" in row else {}) for row in rows[start : start + count]]
        fresh.append(key, part)
        start += count
    write_report(Path("run"))
    page, text = Path("run/report.html").read_text(), Path("run/table.txt").read_text()
    assert "<script>alert" not in page
    assert html.escape("<script>alert(1)</script>") in page
    assert "\x1b" not in text + page
    assert "alert(1)" in text


MISTAKES = {
    "open_ended.judges=[oracle]": "open_ended.judges: 'oracle': no judge; use default alone, or some of",
    "open_ended.judges=[]": "open_ended.judges: an empty list: no judge; use default alone",
    "open_ended.judges=[grammar]": "open_ended.judges: grammar does not know",
    "open_ended.max_new_tokens=0": "open_ended.max_new_tokens: 0 is too few; give 1 or more",
    "open_ended.temperature=-1": "open_ended.temperature: -1 is no temperature; give 0 or more",
    'open_ended.stop=[""]': "open_ended.stop: an empty text ends every answer; delete it",
    "split=selection": "open_ended: its questions are test questions; set split=test",
    "judges.api.modle=x": "judges.api.modle: unknown key; did you mean 'model'?",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_mistakes_cost_one_line_before_the_model_loads(
    typed: str, small: Small, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(settings(small, typed)) == 2
    said = capsys.readouterr().err
    assert MISTAKES[typed] in said
    assert said.count("\n") == 1


def test_a_behavior_without_questions_is_told(small: Small, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from small_behavior import write_behavior

    folder = write_behavior(here / "quiet")
    (folder / "open_ended.json").unlink()
    assert main(settings(small, f"behavior={folder}")) == 2
    assert "open_ended: 'quiet' has no open_ended.json" in capsys.readouterr().err


def test_another_judge_is_no_other_key_of_an_answer(small: Small) -> None:
    """So that another judge, or a longer list of questions, never makes an answer another one."""
    configs = [OpenEnded.Config(), OpenEnded.Config(judges=("api",), limit=3)]
    assert len({json.dumps(OpenEnded(config).settings()) for config in configs}) == 1
    assert OpenEnded(OpenEnded.Config(stop=("x",))).settings() != OpenEnded(configs[0]).settings()
    patient = load_recipe("open_ended", ["open_ended.judges=[api]", "judges.api.model=m", "judges.api.attempts=9"])
    hasty = load_recipe("open_ended", ["open_ended.judges=[api]", "judges.api.model=m", "judges.api.attempts=1"])
    assert patient.flat() == hasty.flat()
    assert "classifier" not in patient.flat()["judges"]


def test_the_dry_run_says_what_is_generated(small: Small, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*settings(small), "--dry-run"]) == 0
    assert "open_ended: 4 questions x 6 cells = 24 answers of at most 12 tokens" in capsys.readouterr().out


def test_it_is_found_by_name() -> None:
    assert registry()["open_ended"] is OpenEnded


def test_text_quality_on_texts_that_anyone_can_count() -> None:
    assert distinct("a b a b", 1) == 0.5
    assert distinct("a b a b", 2) == pytest.approx(2 / 3)
    assert np.isnan(distinct("", 1))
    assert np.isnan(distinct("one", 2))
    assert loop_share("a very very good day") == 0
    assert loop_share("no no no then yes") == pytest.approx(3 / 5)
    assert loop_share("well I am I am I am") == pytest.approx(6 / 7)
    assert loop_share("every word is another one") == 0
    assert np.isnan(loop_share(""))


def rows(texts: dict[str, list[str | None]], **changes: Any) -> list[dict[str, Any]]:
    """Answer rows: cell -> a text a question."""
    return [answer_row(cell, n, text) | changes for cell, own in texts.items() for n, text in enumerate(own)]


def cells_of(*names: str) -> pd.DataFrame:
    """Cells of CAA on the unchanged model; a name is its multiplier."""
    lines = [
        {
            "cell": name,
            "model": "m",
            "protocol": "default",
            "split": "test",
            "behavior": "b",
            "evaluator": "open_ended",
            "base": "none",
            "base_dose": 1.0,
            "vector": "caa" if float(name) else "",
            "vector_behavior": "b" if float(name) else "",
            "vector_layer": 3 if float(name) else None,
            "layer": 3 if float(name) else None,
            "multiplier": float(name),
        }
        for name in names
    ]
    return pd.DataFrame(lines).set_index("cell")


def test_a_missing_judgement_is_missing_and_never_zero() -> None:
    made = rows({"0": ["yes it is"] * 24, "1": ["no"] * 20 + [""] * 2 + [None] * 2})
    scores: list[float | None] = [0.5] * 24 + [1.0] * 18 + [None] * 6
    found = answer_table(
        grouped(answer_scores(made, [scores]), cells_of("0", "1")), judge="x", how=Resampling(draws=99)
    )
    line = found.set_index("cell").loc["1"]
    assert (line["score"], line["n"], line["errors"]) == (1.0, 18, 2)
    assert line["missing_share"] == pytest.approx(6 / 24)
    assert line["empty_share"] == pytest.approx(2 / 22), "an error is no empty answer"
    assert line["score_shift"] == 0.5
    assert line["perplexity"] == pytest.approx(np.e)
    assert np.isnan(line["second_score"])
    nothing = answer_table(grouped(answer_scores(made, []), cells_of("0", "1")), judge="", how=Resampling(draws=99))
    assert nothing["score"].isna().all()
    assert (nothing["missing_share"] == 1).all()


def test_a_score_that_rises_while_the_text_collapses_is_severe() -> None:
    sound, broken = "I will not do that today", "no no no no no no"
    scores = [0.2] * 24 + [0.9] * 24
    noise = [s + 0.01 * (n % 5) for n, s in enumerate(scores)]

    def warned(after: str, scores: list[float]) -> list[str]:
        made = rows({"0": [sound] * 24, "1": [after] * 24})
        found = answer_table(
            grouped(answer_scores(made, [scores]), cells_of("0", "1")), judge="x", how=Resampling(draws=199)
        )
        judges = judge_table([{"name": "x"}], [scores], [0], clusters=list("xy") * 24)
        return [warning.text for warning in answer_warnings(found, judges) if warning.severity == "severe"]

    (text,) = warned(broken, noise)
    assert text.startswith("The judged score moves with the dose while the text collapses at caa +1")
    assert warned(sound, noise) == []
    assert warned(broken, noise[::-1]) == [], "a score that falls fools nobody"


def test_judges_are_weighed() -> None:
    a = [0.0, 0.5, 1.0, None, 0.9, 0.1]
    b = [0.1, 0.5, 0.9, 0.3, None, 0.1]
    found = judge_table(
        [{"name": "a"}, {"name": "b", "held_out_accuracy": 0.6}], [a, b], [1, 0], clusters=list("abcdef")
    )
    assert found["scored"].tolist() == [5, 5]
    assert found["unjudged"].tolist() == [1, 0]
    assert found.loc[1, "n_agreement"] == 4
    # By hand: disagreements of one step in two of four, against the marginals' own.
    first, second = np.array([0, 5, 10, 1]), np.array([1, 5, 9, 1])
    by_chance = np.mean([(x - y) ** 2 for x in first for y in second])
    assert found.loc[1, "agreement"] == pytest.approx(1 - np.mean((first - second) ** 2) / by_chance)
    assert weighted_kappa(np.array([0.0, 1, 1]), np.array([0.0, 1, 1])) == 1
    assert np.isnan(weighted_kappa(np.ones(3), np.ones(3)))
    assert np.isnan(weighted_kappa(np.array([]), np.array([])))
    texts = [
        warning.text
        for warning in answer_warnings(answer_table(grouped(answer_scores([], []), cells_of("0")), judge="a"), found)
    ]
    assert texts == ["The judge b is right on 60% of held-out answer texts only."]


def test_two_judges_agree_within_an_interval() -> None:
    """Over questions: the same answers twice tell no more; too few questions have a kappa and no interval."""
    rng = np.random.default_rng(2)
    first = np.rint(rng.uniform(0, 1, 40) * 10) / 10
    second = np.clip(first + rng.choice([-0.1, 0, 0.3], 40), 0, 1)
    asked = [f"{place}" for place in range(40)]

    def line(repeat: int, count: int = 40) -> pd.Series:
        scores = [list(np.repeat(side[:count], repeat)) for side in (first, second)]
        clusters = list(np.repeat(asked[:count], repeat))
        return judge_table([{"name": "a"}, {"name": "b"}], scores, [0, 0], clusters=clusters).loc[1]

    once, twice, few = line(1), line(2), line(1, count=12)
    assert once["agreement_low"] < once["agreement"] < once["agreement_high"] <= 1
    assert twice["n_agreement"] == 80
    ends = ["agreement", "agreement_low", "agreement_high"]
    assert twice[ends].tolist() == pytest.approx(once[ends].tolist(), abs=0.02)
    assert few["agreement"] < 1 and few[ends[1:]].isna().all()


def test_opposite_signs_are_told(small: Small, here: Path) -> None:
    """The A/B effect one way, the answers the other way, both beyond their intervals: one severe warning."""
    report = make_with_answers(here, flip=True)
    texts = [notice.text for notice in report.notices if notice.severity == "severe"]
    assert any("A/B and open-ended answers move in opposite directions" in text for text in texts)
    page = (here / "runs/compare/refusal/report.html").read_text()
    assert "opposite in words" in page and "signs of the points differ" not in page
    assert report.stacking["tags"].tolist() == ["opposite in words"] * 2
    agreeing = make_with_answers(here / "other", flip=False)
    assert not any("opposite directions" in notice.text for notice in agreeing.notices)
    assert "opposite in words" not in (agreeing.folder / "report.html").read_text() + agreeing.text(detail=True)


def make_with_answers(root: Path, *, flip: bool, questions: int = 24, **changes: Any) -> Report:
    """A simulated run whose answers follow the dose, or go against it; what a prompt does, they do too."""
    bases = ("none", "system_prompt_positive")
    changes = {"multipliers": (-1.0, 1.0), "vectors": ("caa",), "bases": bases, "items": 24} | changes
    run = simulate(root / "runs/compare/refusal", **changes)
    sign = -1 if flip else 1
    speak(run, lambda cell: sign * 0.3 * cell["multiplier"] + 0.1 * (cell["base"] != "none"), questions=questions)
    return write_report(run)


def test_every_arm_whose_words_go_the_other_way_says_so(here: Path) -> None:
    """In the rows of the first table, the sentence, the summary, the page, the paper's table and its methods."""
    report = make_with_answers(here, flip=True)
    stacks = report.stacking.set_index("multiplier")
    assert stacks["open_ended_on_top"].tolist() == pytest.approx([-0.3, -0.3])
    printed = report.text()
    assert max(map(len, printed.splitlines())) <= 120
    lines = [line.split() for line in printed[printed.index("  arm or stack") :].split("\n\n")[0].splitlines()]
    told = {" ".join(line[:3]): " ".join(line) for line in lines}
    # The vector alone and on the prompt, at -1 and at +1: the score rises where the log-odds fall, and the reverse.
    assert sum(" -0.30 " in line for line in told.values()) == sum(" +0.30 " in line for line in told.values()) == 1
    assert "+0.10" in next(line for line in told.values() if line.startswith("system_prompt_positive"))
    assert printed.count("opposite in") >= 5
    answer = " ".join(printed[: printed.index("Refusal on tiny")].split())
    assert "CAA -1 lowers it most (42% -> 14%, opposite in words)" in answer
    assert re.search(r"CAA \+1 on the positive system prompt: adds [^(]*; opposite in words \(", answer)
    summary = render_summary([report])
    assert "; opposite in words" in summary and max(map(len, summary.splitlines())) <= 120
    assert (report.folder / "figures/stacking.tex").read_text().count("; opposite in words") == 2
    assert "24 open-ended questions" in (report.folder / "figures/methods.tex").read_text()
    assert "open\\_ended" not in (report.folder / "figures/stacking.tex").read_text()


def test_a_prompt_alone_whose_words_go_the_other_way_says_so(here: Path) -> None:
    """An arm without a verdict has a cell for it all the same; the warning names it."""
    run = simulate(here / "runs/compare/refusal", bases=("none", "system_prompt_positive"), items=24, vectors=("caa",))
    speak(run, lambda cell: -0.2 * (cell["base"] != "none"))
    report = write_report(run)
    printed = report.text()
    row = next(line for line in printed.splitlines() if line.startswith("  system_prompt_positive"))
    assert row.endswith("-0.20  opposite in words")
    assert printed.splitlines()[0].startswith(
        "The positive system prompt raises refusal most (42% -> 81%, opposite in words)"
    )
    assert any(notice.text.endswith("opposite directions at system_prompt_positive.") for notice in report.notices)
    assert not report.stacking["tags"].str.contains("words").any(), "CAA itself changes no word here"
    total = report.answers.cells.set_index(["base", "multiplier"]).loc[("system_prompt_positive", 0.0)]
    assert (total["score_total"], total["score_shift"]) == pytest.approx((-0.2, 0.0))


def test_few_questions_give_a_point_and_no_such_verdict(here: Path) -> None:
    report = make_with_answers(here, flip=True, questions=12)
    page = (report.folder / "report.html").read_text()
    assert "opposite in words" not in page + report.text(detail=True)
    assert page.count("signs of the points differ") == 2
    assert "+0.30" in report.text(), "the point is shown"


def test_the_report_of_answers_needs_the_files_alone(here: Path) -> None:
    report = make_with_answers(here, flip=False)
    assert report.answers is not None
    again = make_report(report.folder)
    assert again.answers is not None
    pd.testing.assert_frame_equal(report.answers.cells, again.answers.cells)
    by_dose = report.answers.cells.set_index(["base", "multiplier"])["score"]
    assert by_dose["none", -1.0] < by_dose["none", 0.0] < by_dose["none", 1.0]
    assert report.answers.effects["open_ended_on_top"].tolist() == pytest.approx([0.3, 0.3])
