"""report.html in a real browser: what a reader sees first, on a phone, in print, by keyboard, and without scripts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from answer_runs import speak
from browser import Page, chromium
from report_runs import simulate

from caa_bench.report import words, write_report

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")

HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
WIDTH, HEIGHT = 1366, 768


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default recipe on simulated answers, with text that attacks the reader."""
    run = tmp_path_factory.mktemp("report") / "runs" / "compare" / "refusal"
    warnings = [f"train: {HOSTILE} {number} of 60 items are odd" for number in range(5)]
    write_report(simulate(run, items=40, title="Refusal", matching=HOSTILE, warnings=warnings))
    return run / "report.html"


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Capability and answers in words, where CAA's words go against its letters on the adapters."""
    run = tmp_path_factory.mktemp("spoken") / "runs" / "open_ended" / "refusal"
    simulate(run, items=40, loss={("lora_sft_positive", 0.0): 0.4})
    speak(run, lambda cell: (-0.2 if cell["base"].startswith("lora") else 0.2) * cell["multiplier"])
    write_report(run)
    return run / "report.html"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over six layers of the unchanged model."""
    run = tmp_path_factory.mktemp("sweep") / "runs" / "sweep" / "refusal"
    simulate(run, items=30, bases=("none",), layers=range(6), multipliers=(-1.0, 1.0), recipe="layer_sweep")
    write_report(run)
    return run / "report.html"


def test_the_first_screen_holds_the_answer(tab: Page, folder: Path) -> None:
    """Sentences, verdicts, both charts and the warnings lie whole inside 1366 x 768, and none covers another."""
    tab.open(folder, width=WIDTH, height=HEIGHT)
    parts = ("#facts", "#answer .lead", "#answer .chips", "#hero svg", "#dose svg", "#warnings")
    boxes = {part: tab.box(part) for part in parts}
    for part, box in boxes.items():
        assert 0 <= box["left"] < box["right"] <= WIDTH, part
        assert 0 <= box["top"] < box["bottom"] <= HEIGHT, (part, box)
    for one in parts:
        for two in parts[parts.index(one) + 1 :]:
            assert not _overlap(boxes[one], boxes[two]), (one, two)
    shown = tab.run("document.querySelector('#answer').innerText")
    assert "The positive LoRA raises refusal most" in shown
    assert "CAA still adds on the negative system prompt (1" in shown
    assert "; it adds less on the positive system prompt (8" in shown
    assert "it has no room on the positive LoRA" in shown
    assert "The capability was not measured" in shown
    chips = tab.run("[...document.querySelectorAll('.chips li')].map(c => [c.className, c.innerText])")
    assert [kind for kind, _ in chips] == ["adds-less", "adds", "no-room", "no-room"]
    assert chips[0][1].startswith("adds less Positive system prompt retention 0.69 [0.67, 0.72]")
    assert "31 s to fit, 30 kB stored" in shown


def test_answers_in_words_still_leave_the_first_screen_whole(tab: Page, spoken: Path) -> None:
    """A column more, and verdicts that are longer by the words they need."""
    tab.open(spoken, width=WIDTH, height=HEIGHT)
    for part in ("#facts", "#answer .chips", "#hero svg", "#dose svg"):
        box = tab.box(part)
        assert 0 <= box["top"] < box["bottom"] <= HEIGHT, (part, box)
        assert box["right"] <= WIDTH, (part, box)
    heads = tab.run("[...document.querySelectorAll('.arms thead th')].map(h => h.textContent)")
    assert "words" in heads
    filled = "[...document.querySelectorAll('.arms td[data-head=words]')].filter(c => c.textContent).length"
    assert tab.run(filled) == 17
    for width in (375, 1024):
        tab.open(spoken, width=width)
        assert tab.run("document.documentElement.scrollWidth") <= width


def test_the_first_screen_of_a_sweep_holds_the_layer_curve(tab: Page, sweep: Path) -> None:
    """The best layer in words, and every layer in a chart."""
    tab.open(sweep, width=WIDTH, height=HEIGHT)
    assert tab.box("#hero svg")["bottom"] <= HEIGHT
    assert "Layer 3 leads" in tab.run("document.querySelector('#answer').innerText")
    assert tab.run("document.querySelectorAll('#hero .mark').length") == 12


def test_names_in_charts_do_not_overlap(tab: Page, folder: Path) -> None:
    """Each curve is named beside its end, not in a legend, and each name can be read."""
    tab.open(folder, width=WIDTH)
    boxes = tab.run(
        "[...document.querySelectorAll('#dose .view:first-of-type text')].filter(t => /[a-z]{4}/.test(t.textContent))"
        ".filter(t => !/p.matching|multiplier/.test(t.textContent))"
        ".map(n => n.getBoundingClientRect())"
        ".map(({left,top,right,bottom}) => ({left,top,right,bottom}))"
    )
    assert len(boxes) == 6
    for number, one in enumerate(boxes):
        assert one["right"] <= WIDTH
        assert not any(_overlap(one, two, slack=2.5) for two in boxes[number + 1 :])


def test_marks_lie_where_their_values_are(tab: Page, folder: Path) -> None:
    """The height of every mark is its own value on the axis, to a fraction of a pixel, and it says that value."""
    tab.open(folder, width=WIDTH)
    marks = tab.run(
        "[...document.querySelectorAll('#dose .view:first-of-type .mark')].map(m => [m.id, m.ariaLabel,"
        "m.querySelector('use').y.baseVal.value])"
    )
    drawn = pd.read_csv(folder.parent / "figures" / "dose_curves.csv").set_index("cell")["p_balanced"]
    assert len(marks) == len(drawn) == 30
    values = np.array([drawn[name.removeprefix("dose_curves-mark-")] for name, _, _ in marks])
    heights = np.array([height for _, _, height in marks])
    slope, start = np.polyfit(values, heights, 1)
    assert slope < 0 and np.abs(heights - (start + slope * values)).max() < 0.02
    for (_, title, _), value in zip(marks, values, strict=True):
        assert f": p {words.probability(value)}" in title


def test_ids_are_unique_on_the_page(tab: Page, folder: Path) -> None:
    """matplotlib gives two figures the same names for their clips; here each reference finds its own."""
    tab.open(folder, width=WIDTH)
    ids = tab.run("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids)) > 100
    lost = "[...document.querySelectorAll('use')].filter(u => !document.querySelector(u.getAttribute('href'))).length"
    assert tab.run(lost) == 0


@pytest.mark.parametrize("width", [375, 768, 1024])
def test_no_width_needs_sideways_scrolling(tab: Page, folder: Path, width: int) -> None:
    """The page is never wider than the window; long tables scroll inside their own frame."""
    tab.open(folder, width=width)
    assert tab.run("document.documentElement.scrollWidth") <= width
    outside = (
        f"[...document.querySelectorAll('#answer *, #grave *, #dose *, .viewer > *, .list *, #hero')].filter(e => {{"
        f"const b = e.getBoundingClientRect(); return b.width > 0 && b.right > {width} + 0.5}}).map(e => e.outerHTML)"
    )
    assert tab.run(outside) == []


def test_a_phone_shows_every_arm_with_its_verdict(tab: Page, folder: Path) -> None:
    """Text stays at a readable size, and what a number is stands beside it."""
    tab.open(folder, width=375, height=700)
    tab.run("document.querySelector('#arms details').open = true")
    assert tab.run("[...document.querySelectorAll('.arms tr')].filter(r => r.offsetHeight > 0).length") >= 18
    size = "Number.parseFloat(getComputedStyle(document.querySelector('.arms td')).fontSize)"
    assert tab.run(size) >= 11
    assert "retention" in tab.run(
        "getComputedStyle(document.querySelector('td[data-head=retention]'), '::before').content"
    )


def test_print_keeps_everything_on_the_paper(tab: Page, folder: Path) -> None:
    """At the width of A4 no table is cut off at the right."""
    tab.open(folder, width=703, media="print")
    cut = (
        "[...document.querySelectorAll('table')].filter(t => t.offsetParent && "
        "t.getBoundingClientRect().right > 703.5).map(t => t.innerText.slice(0, 60))"
    )
    assert tab.run(cut) == []


def test_nothing_is_fetched_and_nothing_complains(tab: Page, folder: Path) -> None:
    """One request, for the file itself; no script error, nothing refused by the page's own policy."""
    tab.open(folder, width=WIDTH)
    tab.run("document.fonts.ready.then(() => 1)")
    assert tab.requests() == [folder.resolve().as_uri()]
    assert tab.complaints() == []


def test_hostile_text_is_shown_and_not_run(tab: Page, folder: Path) -> None:
    """What a behavior's card or the data say is text."""
    tab.open(folder, width=WIDTH)
    assert tab.run("window.hacked") is None
    assert HOSTILE in tab.run("document.querySelector('h1').innerText")
    assert tab.run("document.querySelectorAll('img').length") == 0
    assert tab.run("[...document.scripts].map(s => s.type)") == ["application/json", ""]


def test_columns_sort_by_keyboard(tab: Page, folder: Path) -> None:
    """Tab to a head, Enter: ascending; Enter again: descending. Sorted by the value, not by the text."""
    tab.open(folder, width=WIDTH)
    tab.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    column = "#items table[data-sortable]"
    tab.run(f"document.querySelector('{column} th:nth-child(1) button').focus()")
    tab.press("Tab", code=9)
    values = (
        f"[...document.querySelectorAll('{column} tbody tr')].map(r => Number(r.cells[1].innerText.replace('−', '-')))"
    )
    for direction, reverse in (("ascending", False), ("descending", True)):
        tab.press("Enter", code=13)
        assert tab.run(f"document.querySelector('{column} th:nth-child(2)').ariaSort") == direction
        found = tab.run(values)
        assert len(found) == 40
        assert found == sorted(found, reverse=reverse)


def test_everything_is_there_without_scripts(tab: Page, folder: Path) -> None:
    """The tables, the charts and the folded parts need none; the viewer says where its lines are."""
    tab.open(folder, width=WIDTH, scripts=False)
    root = tab.call("DOM.getDocument")["root"]["nodeId"]

    def count(selector: str) -> int:
        return len(tab.call("DOM.querySelectorAll", nodeId=root, selector=selector)["nodeIds"])

    assert count("#items table[data-sortable] tbody tr") == 40
    assert count("#cells tbody tr") == 78
    assert count("#dose .mark") == count("#dose .mark title") == 60
    assert count("th button") == 0


def test_tables_and_figures_say_what_they_are(tab: Page, folder: Path) -> None:
    """Headings in order, a caption or label for every table and chart, a scope for every head."""
    tab.open(folder, width=WIDTH)
    assert tab.run("document.querySelectorAll('h1').length") == 1
    assert tab.run("document.documentElement.lang") == "en"
    assert tab.run("[...document.querySelectorAll('svg')].every(s => s.getAttribute('aria-label').length > 10)")
    assert tab.run("[...document.querySelectorAll('th')].every(t => t.scope === 'col' || t.scope === 'row')")
    assert tab.run("[...document.querySelectorAll('.scroll')].every(s => s.tabIndex === 0 && s.ariaLabel)")


def _overlap(one: dict[str, float], two: dict[str, float], *, slack: float = 0.5) -> bool:
    return (
        one["left"] < two["right"] - slack
        and two["left"] < one["right"] - slack
        and one["top"] < two["bottom"] - slack
        and two["top"] < one["bottom"] - slack
    )
