"""What is said while a fit goes on, in a terminal and in a file, and `max_pairs`."""

from __future__ import annotations

import io
import os
import re
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
from small_behavior import write_behavior
from small_runs import Small, run

from caa_bench.behaviors.behavior import load_behavior
from caa_bench.behaviors.items import Pair
from caa_bench.behaviors.subset import drawn_pairs
from caa_bench.engine.pace import Scored, listen, tell
from caa_bench.engine.score import score
from caa_bench.evaluators import AnswerProbability
from caa_bench.evaluators.base import Treatment
from caa_bench.interventions import CAA, Condition, Unchanged
from caa_bench.interventions.fitting import Fitting, during
from caa_bench.models.model import ChatModel
from caa_bench.runs.plan import Batch
from caa_bench.tracking.batch_progress import BatchProgress
from caa_bench.tracking.fit_progress import FitProgress, time_left


def test_a_file_hears_of_a_long_fit_once_a_minute(capsys) -> None:
    now = [0.0]
    said = FitProgress(terminal=False, clock=lambda: now[0])
    said.begin("fit caa on 640 pairs")
    for done in range(0, 641, 16):
        said.step(done, 640, "held-out loss 0.500")
        now[0] += 5
    said.end("205.0 s")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "fit caa on 640 pairs ... "
    # 16 pairs take 5 s: after 20 s 64 are done, and 576 more take 180 s
    assert re.fullmatch(r"  64 of 640 pairs, about 3 min left, \d+\.\d GB, held-out loss 0\.500", lines[1])
    assert re.fullmatch(r"  256 of 640 pairs, about 2 min left, \d+\.\d GB, held-out loss 0\.500", lines[2])
    assert re.fullmatch(r"  448 of 640 pairs, about 60 s left, \d+\.\d GB, held-out loss 0\.500", lines[3])
    assert lines[4:] == ["  640 of 640 pairs, about 0 s left, " + lines[4].split(", ", 2)[2], lines[5]]
    assert lines[5] == "fit caa on 640 pairs: 205.0 s"


def test_a_short_fit_is_one_line_and_a_continued_one_counts_its_own_time(capsys) -> None:
    now = [0.0]
    said = FitProgress(terminal=False, clock=lambda: now[0])
    said.begin("fit caa on 64 pairs")
    said.step(64, 64, "")
    said.end("1.0 s")
    assert capsys.readouterr().err == "fit caa on 64 pairs ... 1.0 s\n"
    said.begin("fit caa on 640 pairs")
    said.step(320, 640, "")
    now[0] = 30.0
    said.step(400, 640, "")
    assert "400 of 640 pairs, about 90 s left" in capsys.readouterr().err


def test_a_fit_that_reads_and_then_trains_counts_each_part_s_own_time(capsys) -> None:
    """It said "about -919 s left" of a training behind a reading."""
    now = [0.0]
    said = FitProgress(terminal=False, clock=lambda: now[0])
    said.begin("fit loreft on 20 pairs")
    for done, total, seconds in ((0, 20, 0), (20, 20, 100), (0, 36, 120), (9, 36, 180)):
        now[0] = float(seconds)
        said.step(done, total, "")
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"  20 of 20 pairs, about 0 s left, \d+\.\d GB", lines[1])
    assert re.fullmatch(r"  9 of 36 pairs, about 3 min left, \d+\.\d GB", lines[2])  # 9 pairs took 60 s
    terminal = FitProgress(terminal=True)
    terminal.begin("fit loreft on 20 pairs")
    terminal.step(20, 20, "")
    terminal.step(9, 36, "")
    assert (terminal._bar.total, terminal._bar.n) == (36, 9), "the bar of the reading went"
    terminal.end("2 s")


def test_in_a_terminal_no_line_is_left_open(capsys) -> None:
    """What a library draws while weights are loaded would overwrite it."""
    said = FitProgress(terminal=True)
    said.begin("fit lora_sft_positive on 40 pairs")
    assert capsys.readouterr().err == "fit lora_sft_positive on 40 pairs\n"
    said.end("71.6 s")
    assert capsys.readouterr().err == "fit lora_sft_positive on 40 pairs: 71.6 s\n"


def batches(*treatments: int, characters: int = 250) -> list[Batch]:
    """Batches of four items with so many conditions each, whose prompts are of the usual length."""
    items = tuple(SimpleNamespace(question="q" * characters) for _ in range(4))
    return [
        Batch(
            key=str(number), evaluator=AnswerProbability(), items=items, base=Unchanged(), dose=Condition(),
            treatments=(Treatment(cell=""),) * count,
        )
        for number, count in enumerate(treatments)
    ]  # fmt: skip


def test_a_file_hears_of_the_time_left_of_the_batches_from_the_first_minute_on(capsys) -> None:
    """The first batch has 100 conditions, each .03 of a prompt: four prompts an item. Those after it have one."""
    now = [0.0]
    every = batches(100, 1, 1, 1, characters=180)
    said = BatchProgress(every, every, terminal=False, clock=lambda: now[0])
    for seconds, batch in zip((40.0, 60.0, 100.0, 120.0), every, strict=True):
        now[0] = seconds
        said.finished(batch)
    said.close()
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"  1 of 4 batches, about 31 s left, \d+\.\d GB", lines[0])  # 40 s x 3.09 / 4
    assert re.fullmatch(r"  3 of 4 batches, about 17 s left, \d+\.\d GB", lines[1])  # 100 s x 1.03 / 6.06
    assert len(lines) == 2


def test_batches_of_short_questions_take_less_time(capsys: pytest.CaptureFixture[str]) -> None:
    """180 characters and the template's 220 are a usual prompt; the 220 alone are .55 of one. A condition is .03."""
    now = [0.0]
    every = [*batches(1, characters=180), *batches(1, characters=0)]
    said = BatchProgress(every, every, terminal=False, clock=lambda: now[0])
    now[0] = 90.0
    said.finished(every[0])
    said.close()
    assert "1 of 2 batches, about 51 s left" in capsys.readouterr().err  # 90 s x .58 / 1.03


def test_the_time_left_follows_what_reading_and_what_conditions_took(capsys) -> None:
    """A model whose conditions cost a tenth of a prompt each is not taken for one where they cost .03."""
    now = [0.0]
    every = batches(100, 10, characters=180)
    said = BatchProgress(every, every, terminal=False, clock=lambda: now[0])
    for seconds in (22.0, 44.0):  # half of the first batch each: 2 s for two prompts, 20 s for 200 conditions
        now[0] = seconds
        tell(Scored(share=0.5, conditions=100, read_s=2.0, conditions_s=20.0))
    said.finished(every[0])
    said.close()
    now[0] = 200.0
    tell(Scored(share=0.5, conditions=10, read_s=2.0, conditions_s=20.0))  # nobody listens any more
    lines = capsys.readouterr().err.splitlines()
    # the other half takes 22 s, and the next batch 4 s for its prompts and 4 s for its conditions
    assert re.fullmatch(r"  0 of 2 batches and 50% of the next, about 30 s left, \d+\.\d GB", lines[0])
    assert len(lines) == 1 and said.left() == pytest.approx(8.0)


def test_scoring_tells_what_it_took(small: Small) -> None:
    """Every prompt once, under both conditions."""
    chat, behavior = ChatModel.find(str(small.model)), load_behavior(small.behavior)
    prompts = [
        chat.choice_prompt([{"role": "user", "content": one.question}], ("(A", "(B")) for one in behavior.test[:5]
    ]
    heard: list[Scored] = []
    end = listen(heard.append)
    score(chat.model, prompts, [[], []], batch_size=2)
    end()
    score(chat.model, prompts, [[], []], batch_size=2)
    assert sum(one.share for one in heard) == pytest.approx(1.0) and len(heard) >= 3
    assert {one.conditions for one in heard} == {2} and all(one.conditions_s > 0 for one in heard)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "about 0 s left"),
        (99.0, "about 99 s left"),
        (104.0, "about 1 min 40 s left"),
        (118.0, "about 2 min left"),
        (594.0, "about 9 min 50 s left"),
        (3599.0, "about 60 min left"),
    ],
)
def test_time_left_in_usual_words(seconds: float, said: str) -> None:
    assert time_left(seconds) == said


def test_a_continued_run_counts_its_own_time_and_a_short_one_says_nothing(capsys) -> None:
    now = [0.0]
    every = batches(1, 1, 1, 1)
    said = BatchProgress(every, every[2:], terminal=False, clock=lambda: now[0])
    now[0] = 30.0
    said.finished(every[2])
    assert "3 of 4 batches, about 30 s left" in capsys.readouterr().err
    short = BatchProgress(every, every, terminal=False, clock=lambda: now[0])
    for batch in every:
        short.finished(batch)
    assert capsys.readouterr().err == ""


def test_every_batch_of_a_fit_is_told(small: Small) -> None:
    chat, pairs = ChatModel.find(str(small.model)), load_behavior(small.behavior).pairs()
    told = []
    with during(Fitting(tell=lambda done, total, note: told.append((done, total)))):
        CAA().fit(chat.model, chat.tokenizer, pairs)
    assert told[0] == (0, len(pairs)) and told[-1] == (len(pairs), len(pairs))
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def one_order(count: int) -> list[Pair]:
    """Pairs that are asked in one order, three of four with (A) matching."""
    made = []
    for number in range(count):
        matching, other = ("(A)", "(B)") if number % 4 else ("(B)", "(A)")
        made.append(
            Pair(
                id=f"{number}", item=f"{number}", question="?", matching=matching, other=other,
                matching_text="yes", other_text="no",
            )
        )  # fmt: skip
    return made


def test_max_pairs_keeps_items_whole_and_letters_even(tmp_path) -> None:
    folder = write_behavior(tmp_path / "small", train=24)
    every = load_behavior(folder).pairs()
    for count in (2, 7, 20):
        some = load_behavior(folder, max_pairs=count).pairs()
        assert len(some) == count - count % 2
        assert set(Counter(pair.item for pair in some).values()) == {2}
        assert Counter(pair.matching for pair in some) == {"(A)": len(some) // 2, "(B)": len(some) // 2}
        assert [pair for pair in every if pair in set(some)] == list(some), "in their own order"
        assert some.key != every.key
    assert load_behavior(folder, max_pairs=48).pairs().key == every.key
    assert load_behavior(folder, max_pairs=20, seed=1).pairs().key != some.key
    assert load_behavior(folder, max_pairs=20).pairs().of("small").key == some.key


@pytest.mark.parametrize(("count", "letters"), [(10, (5, 5)), (20, (10, 10)), (30, (20, 10)), (39, (29, 10))])
def test_max_pairs_takes_the_letters_in_turns_while_there_are_both(count: int, letters: tuple[int, int]) -> None:
    some = drawn_pairs(one_order(40), count, seed="0")
    found = Counter(pair.matching for pair in some)
    assert (found["(A)"], found["(B)"]) == letters
    assert set(drawn_pairs(one_order(40), count - 1, seed="0")) < set(some)


def test_few_pairs_are_warned_of(tmp_path) -> None:
    folder = write_behavior(tmp_path / "small", train=24)
    (said,) = set(load_behavior(folder, max_pairs=20).warnings) - set(load_behavior(folder).warnings)
    assert said.startswith("max_pairs: 20 training pairs are 10 items; with fewer than 20 it is hardly known")
    assert load_behavior(folder, max_pairs=40).warnings == load_behavior(folder).warnings


def test_max_pairs_from_a_recipe_reaches_every_fit(small: Small, tmp_path, capfd) -> None:
    settings = small.settings("max_pairs=10", "bases=[none, lora_sft_positive]", "vectors=[caa]")
    assert run(["fit", *settings], folder=tmp_path) == 0
    fits = [line for line in (tmp_path / "stderr.txt").read_text().splitlines() if line.startswith("fit ")]
    assert [line.split(" ... ")[0] for line in fits] == ["fit lora_sft_positive on 10 pairs", "fit caa on 10 pairs"]
    assert run(["fit", *small.settings("max_pairs=1")], folder=tmp_path) == 2
    assert "max_pairs: 1 is too small; give 2 or more" in (tmp_path / "stderr.txt").read_text()


def test_a_terminal_that_says_it_has_no_width_gets_a_bar_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.get_terminal_size", lambda _file: os.terminal_size((0, 0)))
    monkeypatch.setattr("sys.stderr", Terminal())
    every = batches(100, 1)
    said = BatchProgress(every, every, terminal=True)
    said.finished(every[0])
    said.close()
    drawn = sys.stderr.getvalue()
    assert "1/2 batches" in drawn and " left, " in drawn and "batch/s" not in drawn
    assert max(map(len, re.split(r"[\r\n]", drawn))) <= 80


class Terminal(io.StringIO):
    """Where a bar is drawn."""

    def fileno(self) -> int:
        return 2

    def isatty(self) -> bool:
        return True
