"""The charts and the viewer of items in a real browser: what is shown is what the files hold."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from answer_runs import add_answers
from browser import Page, chromium
from report_runs import simulate

from caa_bench.report import words, write_report

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
BASES = ("none", "system_prompt_positive")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with item texts, two of them hostile, and answers in words."""
    run = tmp_path_factory.mktemp("viewer") / "runs" / "compare" / "refusal"
    simulate(run, items=30, bases=BASES, vectors=("caa", "random"))
    manifest = json.loads((run / "manifest.json").read_text())
    texts = {
        f"test/{n:04d}": {"question": f"May I ask {n}?", "options": [f"Yes {n}", "No"], "matching": n % 2}
        for n in range(30)
    }
    texts["test/0003"]["question"] = texts["test/0003"]["options"][0] = HOSTILE
    manifest["facts"]["texts"] = texts
    (run / "manifest.json").write_text(json.dumps(manifest))
    questions = [f"Why {n}?" for n in range(24)]
    add_answers(run, lambda cell, n: 0.5 + 0.2 * cell["multiplier"] + 0.001 * n, questions=questions, judge={
        "name": "grammar", "settings": {}
    })  # fmt: skip
    write_report(run)
    return run


def _open(tab: Page, folder: Path, item: str) -> None:
    """The page at an item; by way of an empty one, as a link within a page loads nothing."""
    tab.open("about:blank", width=1366)
    tab.open(f"{(folder / 'report.html').resolve().as_uri()}#item={item}", width=1366)


def _shown(tab: Page) -> list[str]:
    return list(tab.run("[...document.querySelectorAll('.list button:not([hidden])')].map(b => b.title)"))


def test_a_link_opens_an_item_with_its_question_options_and_every_p(tab: Page, folder: Path) -> None:
    """The table of the item holds each condition's p as samples.csv has it."""
    _open(tab, folder, "test%2F0007")
    assert tab.run("document.querySelector('.detail .asked').innerText") == "May I ask 7?"
    options = tab.run("[...document.querySelectorAll('.detail li')].map(o => o.innerText)")
    assert options == ["Yes 7", "No matching"]
    rows = tab.run("[...document.querySelectorAll('.detail tr')].map(r => [...r.cells].map(c => c.innerText))")
    assert rows[0] == ["on", "CAA -1", "CAA -0.5", "alone", "CAA +0.5", "CAA +1"]
    samples = pd.read_csv(folder / "samples.csv")
    own = samples[(samples["item"] == "test/0007") & (samples["vector"] != "random")]
    own = own.set_index(["base", "multiplier"])["p_balanced"]
    assert [row[0] for row in rows[1:]] == [words.human(base) for base in BASES]
    for row, base in zip(rows[1:], BASES, strict=True):
        assert row[1:] == [words.probability(own[base, dose]) for dose in (-1.0, -0.5, 0.0, 0.5, 1.0)]


def test_filters_and_search_keep_what_they_say(tab: Page, folder: Path) -> None:
    """Items that flip, by samples.csv; the search finds a word of a question, an option, an answer."""
    tab.open(folder / "report.html", width=1366)
    assert len(_shown(tab)) == 54
    choose = "s = document.querySelector('.controls select'); s.value = '{}'; s.dispatchEvent(new Event('change'))"
    assert tab.run("[...document.querySelectorAll('.controls option')].map(o => o.value)") == ["all", "flips"]
    tab.run(choose.format("flips"))
    samples = pd.read_csv(folder / "samples.csv")
    samples = samples[samples["vector"] != "random"]
    alone = samples[samples["multiplier"] == 0].set_index(["item", "base"])["p_balanced"]
    before = samples.set_index(["item", "base"]).index.map(alone)
    far = (samples["p_balanced"] - before).abs() >= 0.05
    flips = set(samples.loc[far & ((samples["p_balanced"] - 0.5) * (before - 0.5) < 0), "item"])
    assert set(_shown(tab)) == flips and 0 < len(flips) <= 30
    tab.run(choose.format("all"))
    search = "s = document.querySelector('.controls input'); s.value = '{}'; s.dispatchEvent(new Event('input'))"
    for wanted, found in (("ask 12?", ["test/0012"]), ("yes 21", ["test/0021"]), ("why 5?", ["i05"])):
        tab.run(search.format(wanted))
        assert _shown(tab) == found
    tab.run(search.format("my score is 0.7"))
    assert all(name.startswith("i") for name in _shown(tab)) and len(_shown(tab)) == 24


def test_answers_stand_side_by_side_and_the_link_follows(tab: Page, folder: Path) -> None:
    """A click shows a question under every base and dose, and the address names it."""
    tab.open(folder / "report.html", width=1366)
    tab.run("document.querySelector('.list button[title=i04]').click()")
    assert tab.run("location.hash") == "#item=i04"
    said = tab.run("[...document.querySelectorAll('.detail .said')].map(c => c.innerText.split('\\n')[0])")
    answers = pd.read_csv(folder / "answers.csv")
    own = answers[(answers["item"] == "i04") & (answers["vector"] != "random")].set_index(["base", "multiplier"])
    doses = (-1.0, -0.5, 0.0, 0.5, 1.0)
    assert said == [own.loc[(base, dose), "text"] for base in BASES for dose in doses]


def test_text_of_others_is_shown_and_not_run(tab: Page, folder: Path) -> None:
    _open(tab, folder, "test%2F0003")
    assert tab.run("document.querySelector('.asked').innerText") == HOSTILE
    assert tab.run("window.hacked") is None and tab.run("document.images.length") == 0
    assert tab.complaints() == []


def test_a_click_on_a_curve_shows_it_alone_with_its_interval(tab: Page, folder: Path) -> None:
    """The others fade, its band appears; a second click brings all back."""
    tab.open(folder / "report.html", width=1366)
    band = "getComputedStyle(document.querySelector('#dose_curves-band-1')).display"
    faded = "getComputedStyle(document.querySelector('#dose_curves-line-0')).opacity"
    assert (tab.run(band), tab.run(faded)) == ("none", "1")
    click = "document.querySelector('#dose_curves-line-1').dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    tab.run(click)
    assert tab.run(band) != "none" and float(tab.run(faded)) < 0.5
    tab.run(click)
    assert (tab.run(band), tab.run(faded)) == ("none", "1")


def test_the_pointer_reads_every_curve_at_its_dose(tab: Page, folder: Path) -> None:
    """A line follows it, and what is read is each base's p at that multiplier."""
    tab.open(folder / "report.html", width=1366)
    tab.run(
        "m = document.querySelector('#dose_curves-mark-' + [...document.querySelectorAll('#dose .mark')]"
        ".find(m => m.ariaLabel.includes('CAA +1')).id.split('mark-')[1]).getBoundingClientRect();"
        "document.querySelector('#dose svg').dispatchEvent(new PointerEvent('pointermove',"
        "{clientX: m.left + 2, clientY: m.top + 2, bubbles: true}))"
    )
    lines = tab.run("document.querySelector('.tip').textContent").split("\n")
    assert len(lines) == 2 and all("CAA +1: p " in line for line in lines)
    assert tab.run("document.querySelector('.cross').hidden") is False


def test_a_switch_shows_log_odds_without_a_script(tab: Page, folder: Path) -> None:
    tab.open(folder / "report.html", width=1366)
    height = "[...document.querySelectorAll('#hero .view')].map(v => v.offsetHeight > 0)"
    assert tab.run(height) == [True, False]
    tab.run("document.querySelector('#hero input:nth-of-type(2)').checked = true")
    assert tab.run(height) == [False, True]


def test_paper_shows_what_is_folded(tab: Page, folder: Path) -> None:
    tab.open(folder / "report.html", width=703, media="print")
    tab.run("dispatchEvent(new Event('beforeprint'))")
    assert tab.run("document.querySelectorAll('details:not([open])').length") == 0
    tab.run("dispatchEvent(new Event('afterprint'))")
    assert tab.run("document.querySelectorAll('details:not([open])').length") > 5
