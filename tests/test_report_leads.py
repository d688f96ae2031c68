"""Every number of report.html leads to its items in two clicks, in a real browser: none is a dead end."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pandas as pd
import pytest
from answer_runs import speak
from browser import Page, chromium
from report_runs import simulate
from small_runs import manifest

from caa_bench.report import make_report, write_report
from caa_bench.report.comparison import write_comparison

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")

NUMBERS = r"""(() => {
  document.querySelectorAll('details').forEach((one) => { one.open = true; });
  const leads = [], dead = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const axes = ['xtick_', 'ytick_', 'matplotlib.axis_', 'legend_'].map((id) => `svg [id*="${id}"]`);
  const label = ['thead', 'h1', 'h2', 'figure .caption', ...axes];
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent.trim(), at = walk.currentNode.parentElement;
    if (!/\d/.test(text) || at.closest(`script, style, .viewer, .tip, ${label}`)) continue;
    const row = at.closest('tbody tr'), mark = at.closest('.mark'), section = at.closest('section');
    const link = at.closest('a') || (row && (at.closest('td, th').querySelector('a') || row.querySelector('th a')));
    if (link) leads.push([text, link.getAttribute('href')]);
    else if (mark) leads.push([text, `#cell=${mark.id.split('-').pop()}`]);
    else if (section && section.id !== 'answer' && (!row || section.id === 'repeat')) {
      leads.push([text, `#${section.id}`]);
    } else dead.push([text, at.outerHTML.slice(0, 200)]);
  }
  for (const mark of document.querySelectorAll('.mark')) {
    leads.push([mark.getAttribute('aria-label'), `#cell=${mark.id.split('-').pop()}`]);
  }
  return {leads, dead};
})()"""
"""Each number with where a click on it, its line or its mark leads; in a section's own words it leads to its lines."""
FOLLOW = r"""(async (hrefs) => {
  const found = [];
  for (const href of hrefs) {
    const turned = new Promise((done) => addEventListener('hashchange', done, {once: true}));
    location.hash = href;
    await turned;
    const shown = [...document.querySelectorAll('.list button:not([hidden])')];
    found.push({
      href, bar: document.querySelector('.led-by').textContent, item: document.querySelector('.detail h3').innerText,
      open: document.querySelector('#samples details').open, ids: shown.map((one) => one.title),
      readings: shown.map((one) => one.querySelector('.reading').textContent),
    });
  }
  return found;
})"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all there is: two layers, placebos, capability, perplexity, answers in words."""
    run = tmp_path_factory.mktemp("leads") / "runs" / "compare" / "refusal"
    simulate(
        run, items=24, bases=("none", "system_prompt_positive"), multipliers=(-1.0, 1.0),
        overrides=["caa.layers=[2,3]"], layers=(2, 3), loss={("none", 1.0): 0.4}, rise={("none", 1.0): 0.6},
        vectors=("caa", "random", "shuffled"),
    )  # fmt: skip
    speak(run, lambda cell: 0.1 * cell["multiplier"])
    write_report(run)
    return run


@pytest.fixture(scope="module")
def numbers(tab: Page, folder: Path) -> dict[str, list[list[str]]]:
    tab.open(folder / "report.html", width=1366)
    return dict(tab.run(NUMBERS))


def _followed(tab: Page, folder: Path, hrefs: list[str]) -> list[dict[str, Any]]:
    """What the viewer shows after a click on each link. Chromium lets a page go to 200 addresses in 10 seconds."""
    assert len(hrefs) < 200
    tab.open("about:blank", width=1366)
    tab.open(folder / "report.html", width=1366)
    asked = f"{FOLLOW}({json.dumps(hrefs)})"
    found = tab.call("Runtime.evaluate", expression=asked, awaitPromise=True, returnByValue=True)
    assert "exceptionDetails" not in found, found
    assert tab.complaints() == []
    return list(found["result"]["value"])


def _of_items(numbers: dict[str, list[list[str]]]) -> list[str]:
    return sorted({href for _, href in numbers["leads"] if href.startswith(("#cell=", "#item="))})


def test_no_number_is_a_dead_end(numbers: dict[str, list[list[str]]], folder: Path) -> None:
    """Each leads to items, to a file that is there, or to a section that holds lines which do: two clicks at most."""
    assert numbers["dead"] == []
    assert len(numbers["leads"]) > 1000
    html = (folder / "report.html").read_text()
    for text, href in numbers["leads"]:
        if not href.startswith("#"):
            assert (folder / href).is_file(), (text, href)
        elif not href.startswith(("#cell=", "#item=")):
            own = html.partition(f'<section id="{href[1:]}"')[2].partition("</section>")[0]
            assert own, (text, href)
            second = ('href="#cell=', 'href="#item=', '.csv"', 'class="viewer"', 'manifest.json"')
            assert any(link in own for link in second) or href == "#all-warnings", (text, href)


def test_what_is_of_items_leads_to_them_and_not_to_a_file(numbers: dict[str, list[list[str]]]) -> None:
    """Only training pairs, draws of placebos, and budgets that no dose keeps to are read in files."""
    files = {href for _, href in numbers["leads"] if not href.startswith("#")}
    assert files <= {"vectors.csv", "placebo_draws.csv", "equal_loss.csv"}, files
    kept = {text for text, href in numbers["leads"] if href == "equal_loss.csv"}
    assert kept <= {"0", ".01", ".03", ".05"}, kept
    assert len(_of_items(numbers)) > 60


def test_each_link_shows_the_items_of_its_condition(
    tab: Page, folder: Path, numbers: dict[str, list[list[str]]]
) -> None:
    """The viewer holds exactly the items that the condition's rows have, and says which condition it is."""
    rows: dict[str, set[str]] = {}
    for line in (folder / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "cell" in row:
            rows.setdefault(row["cell"], set()).add(row["item"])
    for shown in _followed(tab, folder, _of_items(numbers)):
        asked = {name: values[0] for name, values in parse_qs(shown["href"][1:]).items()}
        assert shown["open"], shown["href"]
        if "cell" in asked:
            assert shown["bar"].startswith("Only "), shown
            assert set(shown["ids"]) == rows[asked["cell"].split("|")[0]], shown["href"]
            assert all(shown["readings"]), shown["href"]
        if "item" in asked:
            assert shown["item"].removesuffix(" flips") == asked["item"]


def test_the_readings_are_the_lines_of_the_files(tab: Page, folder: Path) -> None:
    """p of the base alone and in the condition, of leading and other conditions, as samples.csv has them."""
    samples = pd.read_csv(folder / "samples.csv", keep_default_na=False, na_values=[""])
    cells = samples.drop_duplicates("cell")
    hrefs = [f"#cell={cell}" for cell in cells["cell"]]
    assert len(hrefs) > 20
    p = samples.set_index(["cell", "item"])["p_balanced"]
    for shown, line in zip(_followed(tab, folder, hrefs), cells.to_dict("records"), strict=True):
        place = ["evaluator", "base", "base_dose"]
        base = cells[(cells[place] == pd.Series(line)[place]).all(axis=1) & (cells["multiplier"] == 0)]["cell"].item()
        for item, reading in zip(shown["ids"], shown["readings"], strict=True):
            *before, own = [float(x.strip("<>")) for x in reading.split("→")]
            assert own == pytest.approx(p[line["cell"], item], abs=0.0056)
            assert before == ([] if base == line["cell"] else pytest.approx([p[base, item]], abs=0.0056))


def test_a_click_on_a_number_a_mark_and_a_chip_goes_there(tab: Page, folder: Path) -> None:
    """Also where the number itself is no link; `all conditions` brings the others back."""
    tab.open(folder / "report.html", width=1366)
    arms = pd.read_csv(folder / "arms.csv")
    stack = arms[arms["kind"] == "stack"].iloc[-1]
    row = f"document.querySelector('#arms tr[data-key=\"{stack['cell']}\"]')"
    for place in (
        f"{row}.querySelector('td.num')",
        f"document.getElementById('stacking-after-{stack['cell']}').querySelector('use')",
        "document.querySelector('.chips a')",
    ):
        tab.run(f"{place}.dispatchEvent(new MouseEvent('click', {{bubbles: true, cancelable: true}}))")
        assert tab.run("location.hash") == f"#cell={stack['cell']}", place
        tab.run("location.hash = 'samples'")
    capability = f"{row}.querySelector('td[data-head=\"cap.\"] a').getAttribute('href')"
    assert tab.run(capability) not in ("", f"#cell={stack['cell']}")


def test_an_unknown_condition_names_its_rows(tab: Page, folder: Path) -> None:
    (shown,) = _followed(tab, folder, ["#cell=0123456789abcdef"])
    assert "the lines with cell 0123456789abcdef in rows.jsonl" in shown["bar"]


def test_a_comparison_leads_into_the_pages_of_its_runs(folder: Path, tmp_path: Path) -> None:
    """Each row at its own items of its own run."""
    other = simulate(
        tmp_path / "runs" / "compare" / "other", items=24, bases=("none", "system_prompt_positive"), seed=1,
        vectors=("caa",), multipliers=(-1.0, 1.0),
    )  # fmt: skip
    runs = {run: {x["key"] for x in manifest(run)["facts"]["cells"]} for run in (folder, other)}
    write_comparison([make_report(run) for run in runs], tmp_path / "all.html")
    html = (tmp_path / "all.html").read_text()
    found = {run.resolve(): set[str]() for run in runs}
    for place, cell in re.findall(r'<a class="quiet" href="([^"#]+)/report\.html#cell=(\w+)"', html):
        found[(tmp_path / unquote(place)).resolve()].add(cell)
    assert all(cells and cells <= runs[run] for run, cells in zip(runs, found.values(), strict=True))
    rows = re.findall(r"<tr[^>]*>\s*<th scope=\"row\">(.*?)</th>", html)
    assert len(rows) > 10 and all(row.startswith("<a class") for row in rows)
