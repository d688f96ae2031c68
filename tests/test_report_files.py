"""What a report leaves in the run folder: the same bytes again, an exact recipe, figures and a table for a paper."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from report_runs import simulate

from caa_bench.config.recipe_yaml import flatten
from caa_bench.recipe import load_recipe
from caa_bench.report import make_report, words, write_report
from caa_bench.report.exports import escape
from caa_bench.report.figures import stacking
from caa_bench.runs.folder import read_manifest
from caa_bench.storage.drawing import drawing_svg, in_style, spread, thinned

TIMING = re.compile(r"<span data-timing>[^<]*</span>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, so that every figure is drawn."""
    run = tmp_path_factory.mktemp("files") / "runs" / "compare" / "refusal"
    changes = {"layers": (2, 3), "multipliers": (-1.0, 1.0), "vectors": ("caa", "random")}
    write_report(simulate(run, items=24, overrides=["caa.layers=[2,3]"], **changes))
    return run


def test_another_process_in_another_place_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Everything but the rows and the manifest is removed, and comes back byte for byte, without torch."""
    root = tmp_path / "elsewhere"
    shutil.copytree(folder.parent.parent, root)
    copy = root / "compare" / "refusal"
    shutil.rmtree(copy / "figures")
    for path in copy.iterdir():
        if path.name not in ("manifest.json", "rows.jsonl"):
            path.unlink()
    code = "import sys; from caa_bench.__main__ import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "report", str(copy)], capture_output=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr.decode()
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    after = {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert sorted(before.keys() - {Path(".lock")}) == sorted(after)
    assert [name for name in after if after[name] != before[name]] == []
    assert {path.suffix for path in after} >= {".html", ".svg", ".png", ".csv", ".tex", ".yaml", ".txt"}


def test_only_marked_seconds_depend_on_the_clock(folder: Path, tmp_path: Path) -> None:
    """Another machine's fit took longer: report.html differs in its timings alone, every other file not at all."""
    shutil.copytree(folder.parent.parent, tmp_path / "runs")
    copy = tmp_path / "runs" / "compare" / "refusal"
    for timing in (tmp_path / "runs" / "artifacts").glob("*.timing.json"):
        timing.write_text('{"fit_s": 999.0}')
    write_report(copy)
    changed = [
        p.name for p in copy.rglob("*") if p.is_file() and p.read_bytes() != (folder / p.relative_to(copy)).read_bytes()
    ]
    assert changed == ["report.html"]
    pages = [TIMING.sub("", (place / "report.html").read_text()) for place in (folder, copy)]
    assert pages[0] == pages[1]
    assert "16.6 min" in (copy / "report.html").read_text()


@pytest.mark.slow
def test_a_report_takes_less_than_ten_seconds(tmp_path: Path) -> None:
    """The default recipe on 100 items, all figures, in a process of its own: seconds of one core, imports included."""
    run = simulate(tmp_path / "runs" / "compare" / "refusal", items=100, overrides=["draws=9999"])
    code = (
        f"import time; from caa_bench.__main__ import main; main(['report', {str(run)!r}]); print(time.process_time())"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    used = float(done.stdout.splitlines()[-1])
    assert min(used, time.monotonic() - started) < 10


def test_the_recipe_beside_the_page_is_the_run_s(folder: Path) -> None:
    """`--recipe recipe.yaml` gives every setting that the run folder is bound to."""
    again = flatten(load_recipe(folder / "recipe.yaml").flat())
    recipe = read_manifest(folder)["recipe"]
    assert {key: value for key, value in again.items() if recipe.get(key, ...) != value} == {}
    assert {key for key in recipe if recipe[key] != {}} <= again.keys()


def test_missing_artifacts_are_not_known_and_not_free(folder: Path, tmp_path: Path) -> None:
    """A run folder that was moved away from its artifacts has no cost: n/a, nowhere 0 B."""
    copy = tmp_path / "alone" / "deeper" / "refusal"
    shutil.copytree(folder, copy)
    manifest = (copy / "manifest.json").read_text().replace(str(folder.parent.parent), "/nowhere")
    (copy / "manifest.json").write_text(manifest)
    page = (copy / "report.html").read_text() if write_report(copy) else ""
    assert " stored" not in page.split('id="costs"')[0]
    assert " 0 B" not in page
    assert "data-timing" not in page


def test_the_figures_hold_what_they_draw(folder: Path) -> None:
    """Each CSV beside a figure has the cells' own numbers, and the SVG names every base as text."""
    cells = make_report(folder).cells.set_index("cell")
    drawn = pd.read_csv(folder / "figures" / "dose_curves.csv").set_index("cell")
    assert len(drawn) == 18
    assert (drawn["p_balanced"] - cells.loc[drawn.index, "p_balanced"]).abs().max() < 1e-8
    assert drawn["placebo_low"].notna().all()
    svg = (folder / "figures" / "dose_curves.svg").read_text()
    assert all(words.human(base) in svg for base in drawn["base"].unique())
    assert {path.stem for path in (folder / "figures").glob("*.png")} == {
        "dose_curves", "dose_curves_log_odds", "stacking", "stacking_log_odds", "layers"
    }  # fmt: skip


def test_the_latex_table_has_a_line_a_stack(folder: Path) -> None:
    """Ten stacks at the leading layer, eight columns each, balanced braces, no bare special character."""
    text = (folder / "figures" / "stacking.tex").read_text()
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    assert len(body) == 10
    assert all(len(re.findall(r"(?<!\\)&", line)) == 7 for line in body)
    assert text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")
    assert not re.search(r"(?<!\\)[%#_]", text)
    assert escape("50% of a_b & {c}^~\\") == r"50\% of a\_b \& \{c\}\textasciicircum{}\textasciitilde{}\textbackslash{}"


def test_the_methods_paragraph_is_the_run_s(folder: Path) -> None:
    """Items, split, layers, doses and seed as they were; its citations are in the BibTeX file beside it."""
    text = (folder / "figures" / "methods.tex").read_text()
    for said in ("Refusal on tiny", "24 items of the test split", "both option orders", "layer 2, 3", "-1, 0, 1"):
        assert said in text
    assert "(999 draws, seed 0)" in text and r"system\_prompt\_positive" in text
    (cited,) = re.findall(r"\\cite\{([^}]+)\}", text)
    entries = (folder / "figures" / "references.bib").read_text()
    assert re.findall(r"^@\w+\{(\w+),", entries, flags=re.M) == cited.split(",")
    assert read_manifest(folder)["recipe_key"][:16] in entries
    assert entries.count("{") == entries.count("}")


def test_names_keep_their_gap_and_their_order() -> None:
    """Crowded at either end or in the middle, labels are a gap apart, in order, and no further than they must."""
    for wanted in ([5.0, 6, 7], [280.0, 281, 282], [100.0, 100, 100, 100], [10.0, 200, 90]):
        placed = spread(wanted, low=4, high=282, gap=13)
        order = sorted(range(len(wanted)), key=lambda place: wanted[place])
        gaps = [placed[b] - placed[a] for a, b in pairwise(order)]
        assert all(gap >= 12.99 for gap in gaps), wanted
        assert all(4 <= height <= 282 for height in placed), wanted
    assert spread([10.0, 200, 90], low=4, high=282, gap=13) == [10, 200, 90]


def test_labels_of_an_axis_leave_each_other_room() -> None:
    """Of many doses those that do not touch are labelled, the ends and 0 among them."""
    assert thinned([-1.0, -0.5, 0.0, 0.5, 1.0], most=9) == [-1.0, -0.5, 0.0, 0.5, 1.0]
    crowded = thinned([-1.0, -0.2, -0.1, 0.0, 0.1, 0.2, 1.0], most=6)
    assert crowded == [-1.0, 0.0, 1.0]
    assert len(thinned(list(map(float, range(80))), most=13)) <= 13
    assert thinned([3.0], most=6) == [3.0]


def test_nothing_beside_the_chart_of_stacks_is_cut_off(tmp_path: Path) -> None:
    """As the page shows it: verdicts and capability end inside the figure."""
    report = make_report(simulate(tmp_path / "runs/compare/refusal", items=24, loss={("none", 1.0): 0.3}))
    with in_style():
        drawings = list(stacking(report))
        for drawing in drawings:
            drawing_svg(drawing)
            beside = drawing.figure.axes[0].texts
            assert {"verdict", "capability"} <= {text.get_text() for text in beside}
            assert max(text.get_window_extent().x1 for text in beside) <= drawing.figure.bbox.x1
    assert len(drawings) == 2
