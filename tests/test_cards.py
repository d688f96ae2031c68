"""The card beside every saved intervention: its code runs, its bytes are the fit's, an export says what it did."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from small_runs import Small, run

from caa_bench.cards import Origin, card
from caa_bench.files import read_artifact
from caa_bench.interventions import SystemPrompt

SETTINGS = ("bases=[none, lora_sft_positive]", "vectors=[caa, random]", "caa.layers=[0, 2]", "lora_sft.max_pairs=4")
LABELS = ("caa", "lora_sft_positive", "random")


@pytest.fixture(scope="module")
def finished(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison and what is exported of it."""
    folder = tmp_path_factory.mktemp("cards")
    assert run(small.compare(*SETTINGS), folder=folder) == 0
    assert run(["export", "run", "exported"], folder=folder) == 0
    return folder


def artifact(folder: Path, label: str) -> Path:
    return folder / json.loads((folder / "run/manifest.json").read_text())["facts"]["artifacts"][label]


def execute(folder: Path, model: Path) -> str:
    """The card's code block, as it stands but for the model's name where the card cannot know it."""
    (code,) = re.findall(r"```python\n(.+?)```", (folder / "README.md").read_text(), flags=re.S)
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code.replace('"..."', repr(str(model)))],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("label", LABELS)
def test_the_code_of_a_card_runs(label: str, finished: Path, small: Small) -> None:
    assert execute(finished / "exported" / label, small.model)


@pytest.mark.parametrize("label", LABELS)
def test_every_fit_leaves_a_card_that_its_checksums_cover(label: str, finished: Path) -> None:
    folder = artifact(finished, label)
    read_artifact(folder, expect=None)
    text = (folder / "README.md").read_text()
    for words in ("contrast pairs of small", "What it does was not measured", '"name": "', "files with key"):
        assert words in text
    assert str(finished) not in text, "a path would make equal fits unequal"
    (folder / "README.md").write_text(text + " ")
    with pytest.raises(Exception, match="its checksum differs"):
        read_artifact(folder, expect=None)
    (folder / "README.md").write_text(text)


def test_the_pairs_of_a_vector_are_in_its_card_the_manifest_and_vectors_csv(finished: Path) -> None:
    """Of the real fit: a line a layer, its numbers in the card at the layer that the code loads."""
    kept = json.loads((finished / "run/manifest.json").read_text())["facts"]["diagnostics"]
    assert list(kept) == ["caa"], "an adapter and a placebo have none"
    table = pd.read_csv(finished / "run/vectors.csv")
    assert table[["vector", "layer", "n", "n_clusters"]].values.tolist() == [["caa", n, 24, 12] for n in range(3)]
    assert table["agreement"].tolist() == pytest.approx([line["agreement"] for line in kept["caa"]])
    assert table["relative_norm"].tolist() == pytest.approx([x["norm"] / x["residual_norm"] for x in kept["caa"]])
    exported = (finished / "exported/caa/README.md").read_text()
    (layer,) = re.findall(r"Condition\(layer=(\d)", exported)
    line = table.iloc[int(layer)]
    said = f"{line['agreement']:.2f} [{line['agreement_low']:.2f}, {line['agreement_high']:.2f}]"
    assert f"| pairs at layer {layer} | mean cosine with the vector {said}, separability d' " in exported
    assert "| pairs at layer 1 | mean cosine with the vector " in (artifact(finished, "caa") / "README.md").read_text()
    assert "pairs at layer" not in (finished / "exported/random/README.md").read_text()


def test_an_export_says_what_each_did(finished: Path) -> None:
    """Every number of the table is that of shifts.csv and cells.csv."""
    shifts = pd.read_csv(finished / "run/shifts.csv", keep_default_na=False)
    text = (finished / "exported/caa/README.md").read_text()
    lines = [line.split(" | ") for line in text.splitlines() if re.match(r"\| [+-]8 \|", line)]
    wanted = shifts[(shifts["vector"] == "caa") & (shifts["base"] == "none")]
    assert len(lines) == len(wanted) == 4
    for line, (_, row) in zip(lines, wanted.iterrows(), strict=True):
        shown = [f"{round(float(row[f'shift{end}']), 2) + 0:.2f}" for end in ("", "_low", "_high")]
        assert line[3] == f"{shown[0]} [{shown[1]}, {shown[2]}]"
        assert line[-1] == f"{row['n']} |"
    assert "| +1 | n/a |" in (finished / "exported/lora_sft_positive/README.md").read_text()
    assert str(finished) not in text and "model | model |" in text


@pytest.mark.parametrize("label", LABELS)
def test_an_export_is_the_artifact_but_for_its_card(label: str, finished: Path) -> None:
    copy, kept = finished / "exported" / label, artifact(finished, label)
    read_artifact(copy, expect=None)
    differ = {path.name for path in kept.iterdir() if path.read_bytes() != (copy / path.name).read_bytes()}
    assert differ == {"README.md", "artifact.json"}


def test_text_of_others_cannot_leave_its_line() -> None:
    """A behavior's name or a setting is no Markdown, no HTML and no new row."""
    nasty = "a|b`<script>\n# title"
    text = card(SystemPrompt(variant="mine", text="x"), Origin(behavior=nasty, model=nasty, data=nasty))
    assert "<script>" not in text and "\n# title" not in text and "a|b" not in text


def test_a_hub_model_is_the_card_s_base_model() -> None:
    made = Origin(behavior="b", model="m", data="d", loadable="owner/model")
    text = card(SystemPrompt(variant="mine", text="x"), made)
    assert 'base_model: "owner/model"' in text and 'MODEL = "owner/model"' in text
