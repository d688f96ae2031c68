"""The printed tables: the answer first, 120 columns, and honest about what is not there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_runs import simulate

from caa_bench.report import Report, make_report, words
from caa_bench.report.comparison import render_summary
from caa_bench.report.page import render_page
from caa_bench.runs.folder import RunFolder


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The default recipe; what CAA keeps on each base is known."""
    kept = {"system_prompt_positive": 0.6, "system_prompt_negative": 1.0, "lora_sft_negative": 1.0}
    return _report(tmp_path_factory.mktemp("compared"), items=60, kept=kept)


def test_the_answer_leads(compared: Report) -> None:
    """What moves the behavior most, then CAA alone and on each base, then what it costs."""
    lines = compared.text().splitlines()
    assert lines[0].startswith("The positive LoRA raises refusal most (43% -> 98.")
    assert "; the negative LoRA lowers it most (43% -> 0." in lines[0]
    assert lines[1] == "CAA alone: 43% -> 16% at -1, 43% -> 73% at +1"
    assert lines[2].startswith("CAA +1 on the positive system prompt: adds less (retention 0.7")
    assert lines[3].startswith("CAA -1 on the negative system prompt: adds fully (retention ")
    assert lines[4].startswith("CAA +1 on the positive LoRA: no room; ")
    assert "LoRA: 31 s to fit, 30 kB stored. CAA: 1.5 s to fit, 3.1 kB stored" in lines
    assert "LoRA: 30 kB stored. CAA: 3.1 kB stored" in compared.text(timings=False)
    assert "The answer letters hold at least 99.0% of the probability in every row" in lines


def test_a_row_per_arm_and_stack(compared: Report) -> None:
    """Six bases, each with the vector at -1 and +1, with shift, retention, room and verdict."""
    lines = compared.text().splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("  arm or stack"))
    table = lines[start + 1 : lines.index("", start)]
    assert sum(line.startswith("    + CAA") for line in table) == 12
    prompt = next(place for place, line in enumerate(table) if line.startswith("  system_prompt_positive"))
    assert table[prompt].split()[1:4] == [".43", "->", ".82"]
    assert table[prompt + 2].endswith("adds less")
    assert ".18" in table[prompt + 2]


def test_the_printed_table_fits_120_columns(compared: Report) -> None:
    """No line of what is printed is longer; the long tables are in table.txt alone."""
    assert max(map(len, compared.text().splitlines())) <= 120
    assert "Does CAA still add?" not in compared.text()
    long = compared.text(detail=True)
    stacks = long[long.index("Does CAA still add?") :].split("\n\n")[0].splitlines()
    named = {tuple(line.split()[:4]) for line in stacks if line.startswith(("  system_", "  lora_"))}
    assert len(named) == 5 * 3 * 4
    assert max(map(len, stacks)) <= 120


def test_a_sweep_shows_every_layer_and_marks_the_best(tmp_path: Path) -> None:
    """Six layers of the unchanged model on the selection split; the number of tries is printed."""
    layers = tuple(range(6))
    text = _report(tmp_path, bases=("none",), layers=layers, multipliers=(-1.0, 1.0), recipe="layer_sweep").text()
    first = " ".join(text.split("\n\n")[0].split("LoRA:")[0].split())
    assert first.startswith(
        "CAA +1 raises refusal most (43% -> 73%); CAA -1 lowers it most (43% -> 16%); layer 3 (the largest shift on "
        "the selection split, 12 tries; not checked for cost, capability was not measured)"
    )
    table = text[text.index("  layer  CAA -1") :].split("  mass")[0].split("\n\n")[0].splitlines()[1:]
    assert [line.split()[0] for line in table] == ["0", "1", "2", "*3", "4", "5"]
    assert "12 tries" in text
    assert "retention" not in text


def test_a_best_layer_that_ends_the_sweep_is_said(tmp_path: Path) -> None:
    """Layer 3 is the best of all six, and the last of four."""
    changes = {"bases": ("none",), "items": 24, "multipliers": (-1.0, 1.0), "recipe": "layer_sweep"}
    for layers, edge in ((range(4), True), (range(6), False)):
        said = [n.text for n in _report(tmp_path / str(edge), layers=tuple(layers), **changes).notices]
        assert ("The chosen layer is at the edge of what was tried: a wider grid may do better." in said) == edge


def test_under_twenty_items_there_is_no_interval_and_no_verdict(tmp_path: Path) -> None:
    """The points are shown, and why there is no more."""
    text = _report(tmp_path, items=12).text()
    assert "n 12 items" in text
    assert text.startswith("Too few items for an interval, so nothing is said to move refusal (largest: ")
    assert "CAA +1 on the positive system prompt: no verdict (n < 20) (" in text
    assert "beyond placebos" not in text and "within placebos" not in text
    assert "adds fully" not in text and "adds less" not in text
    assert "[" not in text.split("Training pairs")[0], "there are pairs enough, but no items"


def test_what_is_missing_leads_the_warnings(tmp_path: Path) -> None:
    """A failed cell and a batch that never came are said before anything else, and the cell reads n/a."""
    text = _report(tmp_path, items=40, failed=(3,), dropped=1).text()
    warnings = text[text.index("Warnings:") :].splitlines()
    assert warnings[1].startswith("  missing: 1 of 12 batches are missing (status error)")
    assert warnings[3].startswith("  missing: 1 of 78 cells have no scored item.")
    assert "n/a" in text[text.index("p(matching) at every dose") :].splitlines()[2]


def test_the_papers_protocol_is_named(tmp_path: Path) -> None:
    """Its numbers are of the given order alone."""
    assert "given option order only" in _report(tmp_path, items=30, overrides=["protocol=caa", "data=caa"]).text()


def test_terminal_escapes_are_inert(tmp_path: Path) -> None:
    """Text from a behavior's card cannot drive the reader's terminal."""
    text = _report(
        tmp_path, items=24, title="\x1b[2JRefusal", matching="a\x1b]0;b\x07c", warnings=["\x1b[31mred"]
    ).text()
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\nlower" not in text and "The positive LoRA raises" in text


def test_the_training_pairs_of_the_leading_vector_have_a_line(compared: Report, tmp_path: Path) -> None:
    """Its numbers are those of vectors.csv; where a fit left none, n/a and nothing else."""
    line = compared.vectors[compared.vectors["layer"] == 3].iloc[0]
    text = " ".join(compared.text().split())
    low, high = (words.signed(line[f"agreement{end}"]) for end in ("_low", "_high"))
    assert f"at layer 3: mean cosine with the vector {words.signed(line['agreement'])} [{low}, {high}]" in text
    assert "n 80 pairs of 40 items" in text
    folder = simulate(tmp_path / "runs/compare/run", items=24)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["facts"]["diagnostics"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    older = make_report(folder)
    assert older.vectors.empty
    assert "Training pairs of CAA" not in older.text()
    assert "Do the training pairs agree?" not in render_page(older)


def test_pairs_that_hardly_agree_are_said(tmp_path: Path) -> None:
    """No direction at all is severe; a weak one a caution, and that the sides overlap a note."""
    said = {}
    for signal, trained in ((0.2, 120), (1.0, 40), (4.0, 40)):
        report = _report(tmp_path / f"{signal}", items=24, signal=signal, trained=trained)
        said[signal] = {n.severity: n.text for n in report.notices if " pairs" in n.text}
    assert said[0.2]["severe"].startswith("The training pairs agree on no direction: mean cosine with the vector ")
    assert said[0.2]["note"].startswith("Matching and other answers overlap along the vector at layer 3 (d' 0.")
    assert list(said[1.0]) == ["caution"]
    assert said[1.0]["caution"].startswith("The training pairs hardly agree: mean cosine with the vector +0.")
    assert said[4.0] == {}


def test_the_summary_has_a_line_a_behavior(compared: Report, tmp_path: Path) -> None:
    """Several behaviors side by side, in 120 columns, each base with its verdict."""
    other = _report(tmp_path, behavior="sycophancy", title="Sycophancy", items=12, bases=("none", "lora_sft_positive"))
    text = render_summary([compared, other])
    assert max(map(len, text.splitlines())) <= 120
    lines = text.splitlines()
    assert sum(line.startswith("  refusal") for line in lines) == 2
    assert sum(line.startswith("  sycophancy") for line in lines) == 2
    stacks = text[text.index("Does it still add?") :].splitlines()
    assert "adds less 0.7" in stacks[2]
    assert stacks[3].split()[1] == "n/a"
    assert stacks[3].endswith("no verdict (n < 20)  n/a") or "no verdict (n < 20)" in stacks[3]


def test_layers_on_the_test_split_are_never_chosen_by_their_results(tmp_path: Path) -> None:
    """Layer 3 works best here, but the model's default leads: results of the test split choose nothing."""
    gain = {"caa": 1.8, "random": 0.05, "shuffled": 0.0}
    report = _report(tmp_path, items=24, layers=(1, 2), gain=gain, overrides=["caa.layers=[1,2]"])
    assert "layer 1 (the first of 2 layers run; nothing is chosen on the test split)" in " ".join(report.text().split())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.84, ".84"), (0.049, ".049"), (0.0495, ".05"), (0.9504, ".95"), (0.951, ".951"), (0.0004, "<.001")),
        *((0.9995, ">.999"), (0.99951, ">.999"), (0.0, ".000"), (1.0, "1.000"), (float("nan"), "n/a")),
    ],
)
def test_probabilities_keep_the_digits_that_matter(value: float, text: str) -> None:
    """Three digits near the ends, never a rounded 0 or 1."""
    assert words.probability(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(-0.001, "+0.00"), (0.126, "+0.13"), (-1.5, "-1.50"), (float("nan"), "n/a")]
)
def test_signed_numbers_have_no_negative_zero(value: float, text: str) -> None:
    """`-0.00` is no number."""
    assert words.signed(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(999, "999 B"), (3100, "3.1 kB"), (30_000, "30 kB"), (16_800_000, "17 MB")]
)
def test_sizes_have_their_unit(value: float, text: str) -> None:
    """Bytes in decimal units."""
    assert words.size(value) == text


def _report(root: Path, **changes: Any) -> Report:
    return make_report(simulate(root / "runs" / "compare" / "run", **changes))


def test_a_vector_that_may_have_learned_length_is_shown_on_both_halves(tmp_path: Path) -> None:
    """Only where the training items are lopsided; the two effects are those of the items' own table."""
    run = simulate(tmp_path / "runs/compare/refusal", items=60, vectors=("caa",))
    longer = [f"test/{number:04d}" for number in range(24)]
    for share, told in ((0.5, False), (0.9, True)):
        manifest = json.loads((run / "manifest.json").read_text())
        with RunFolder(run, recipe=manifest["recipe"]) as folder:
            folder.record(longer={"train_share": share, "items": longer})
            folder.set_status("success")
        report = make_report(run)
        said = [notice.text for notice in report.notices if "the longer one in 90%" in notice.text]
        assert bool(said) is told
    cells = report.cells[(report.cells["base"] == "none") & report.cells["multiplier"].isin([0.0, 1.0])]
    y = report.items.pivot(index="item", columns="cell", values="log_odds")[cells["cell"].tolist()]
    shift = y.iloc[:, 1] - y.iloc[:, 0] if cells["multiplier"].iloc[1] == 1 else y.iloc[:, 0] - y.iloc[:, 1]
    is_longer = shift.index.isin(longer)
    (text,) = said
    assert re.search(rf"CAA at \+1 shifts the log-odds by \{shift[is_longer].mean():+.2f} \[.*\] \(n 24\)", text)
    assert re.search(rf"and \{shift[~is_longer].mean():+.2f} \[.*\] \(n 36\) where it is shorter", text)
