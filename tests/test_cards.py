"""The card beside every saved intervention: its code runs, its bytes are the fit's, an export says what it did."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from huggingface_hub import HfApi, ModelCard
from judge_server import judged_by_server
from method_settings import config_of, write_both
from shipped import shipped
from small_runs import Small, contents, run, run_code

from caa_bench.behaviors.behavior import load_behavior
from caa_bench.errors import UserError
from caa_bench.interventions import CAA, Intervention, Stack, SystemPrompt, Unchanged, registry
from caa_bench.interventions.card import Origin, card
from caa_bench.models.model import ChatModel
from caa_bench.storage.artifact_folder import read_artifact

SETTINGS = (
    "bases=[none, lora_sft_positive]",
    "vectors=[caa, random]",
    "caa.layers=[0, 2]",
    "lora_sft.max_pairs=4",
    "evaluators=[answer_probability, capability, open_ended, perplexity]",
    "open_ended.max_new_tokens=12",
    "limit=24",
)
LABELS = ("caa", "lora_sft_positive", "random")
KINDS = [
    f"{name}_{cls.variants[0]}" if cls.variants else f"{name}_mine" if cls is SystemPrompt else name
    for name, cls in shipped().items()
]


@pytest.fixture(scope="module")
def finished(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison and what is exported of it."""
    folder = tmp_path_factory.mktemp("cards")
    with judged_by_server() as judged:
        assert run(small.compare(*SETTINGS, *judged), folder=folder) == 0
    assert run(["export", "run", "exported"], folder=folder) == 0
    return folder


def artifact(folder: Path, label: str) -> Path:
    return folder / json.loads((folder / "run/manifest.json").read_text())["facts"]["artifacts"][label]


def code_of(folder: Path, model: Path) -> str:
    """The card's code block, as it stands but for the model's name where the card cannot know it."""
    (code,) = re.findall(r"```python\n(.+?)```", (folder / "README.md").read_text(), flags=re.S)
    return code.replace('"..."', repr(str(model)))


def execute(folder: Path, model: Path) -> str:
    """The card's code block in a process of its own."""
    return run_code(code_of(folder, model), folder=folder)


def test_the_code_of_an_exported_card_runs(finished: Path, small: Small) -> None:
    assert execute(finished / "exported" / "caa", small.model)


@pytest.fixture(scope="module")
def saved(small: Small, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Intervention, Path]]:
    """Every kind of intervention, fitted and saved by its own two calls, outside the harness."""
    root, built = tmp_path_factory.mktemp("saved"), {}
    chat, behavior = ChatModel.find(str(small.model)), load_behavior(write_both(root / "behaviors"))
    for label in KINDS:
        cls = next(cls for name, cls in reversed(registry().items()) if label == name or label.startswith(f"{name}_"))
        known = {"max_pairs": 4, "learning_rate": 0.05, "texts": {"mine": "You are kind."}}
        own = {key: value for key, value in known.items() if key in cls.Config.__dataclass_fields__}
        variant = label.removeprefix(cls.name).removeprefix("_")
        config = cls.Config(**own) if own else config_of(cls, folder=root)
        built[label] = cls.build(config, variant=variant, behavior=behavior, built=built)
        built[label].fit(chat.model, chat.tokenizer, behavior.pairs())
        built[label].save_pretrained(root / label)
    return {label: (one, root / label) for label, one in built.items()}


@pytest.mark.parametrize("label", KINDS)
def test_saving_alone_writes_a_card_whose_code_does_what_was_saved(
    label: str,
    saved: dict[str, tuple[Intervention, Path]],
    small: Small,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is covered by the checksums, invents nothing, and its answer is that of the intervention in memory."""
    intervention, folder = saved[label]
    assert "README.md" in json.loads((folder / "artifact.json").read_text())["files"]
    read_artifact(folder, expect=None)
    text = (folder / "README.md").read_text()
    assert "| behavior | not recorded |" in text
    assert f"| acts | {intervention.acts} |" in text
    assert f"| learned from | {'not recorded' if intervention.trains else 'nothing; it is not fitted'} |" in text
    monkeypatch.chdir(folder)
    code = code_of(folder, small.model)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the card's own
    assert capsys.readouterr().out.strip()
    assert type(names["loaded"]) is type(intervention)
    again = code.replace('Intervention.from_pretrained(".")', "mine")
    assert again != code
    ours: dict[str, Any] = {"mine": intervention}
    exec(again, ours)  # noqa: S102
    assert names["ids"].tolist() == ours["ids"].tolist()
    assert names["prompt"].ids == ours["prompt"].ids
    assert ("You are kind." in ours["chat"].tokenizer.decode(names["prompt"].ids)) == (label == "system_prompt_mine")


def test_where_each_kind_acts(saved: dict[str, tuple[Intervention, Path]]) -> None:
    said = {label: one.acts for label, (one, _) in saved.items()}
    for label in ("caa", "random", "shuffled"):
        assert said[label].startswith("Added to the output of ONE decoder block")
    for label in ("lora_sft_positive", "full_sft_positive"):
        assert "every layer and at every position" in said[label]
    assert "Rewrites the conversation" in said["system_prompt_mine"]
    assert said["none"] == "Changes nothing"


@pytest.mark.parametrize("label", ["caa", "lora_sft_positive", "full_sft_positive"])
def test_saving_again_gives_the_same_bytes_also_over_an_old_card(
    label: str, saved: dict[str, tuple[Intervention, Path]], tmp_path: Path
) -> None:
    intervention, folder = saved[label]
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "README.md").write_text("an old card")
    Intervention.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)
    assert intervention.settings() == Intervention.from_pretrained(tmp_path / "again").settings()


def test_a_stack_is_not_saved_as_if_it_could_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"caa\+none: .* save each part"):
        Stack(CAA(), Unchanged()).save_pretrained(tmp_path / "stack")
    assert not (tmp_path / "stack").exists()


def test_push_to_hub_uploads_the_card_with_arguments_that_the_hub_library_takes(
    saved: dict[str, tuple[Intervention, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No network here: the calls are bound to the library's own signatures, and the card is read by its own class."""
    calls: dict[str, dict[str, Any]] = {}

    def stand_in(name: str) -> Callable[..., str]:
        signature = inspect.signature(getattr(HfApi, name))

        def call(*args: Any, **options: Any) -> str:
            calls[name] = dict(signature.bind(*args, **options).arguments)
            return f"https://hub/{calls[name]['repo_id']}"

        return call

    for name in ("create_repo", "upload_folder"):
        monkeypatch.setattr(HfApi, name, stand_in(name))
    intervention, folder = saved["caa"]
    assert intervention.push_to_hub("me/refusal", folder=folder) == "https://hub/me/refusal"
    assert list(calls) == ["create_repo", "upload_folder"]
    assert calls["create_repo"]["exist_ok"] is True
    sent = calls["upload_folder"]
    assert (Path(sent["folder_path"]) / "README.md").is_file()
    assert not sent.keys() & {"allow_patterns", "ignore_patterns"}, "the card goes with the rest"
    data = ModelCard.load(folder / "README.md").data
    assert (data.library_name, data.tags) == ("caa_bench", ["caa_bench", "caa"])


def test_push_to_hub_refuses_a_damaged_artifact(
    saved: dict[str, tuple[Intervention, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(saved["caa"][1], tmp_path / "caa")
    (tmp_path / "caa" / "README.md").write_text("another card")
    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(UserError, match="its checksum differs"):
        saved["caa"][0].push_to_hub("me/refusal", folder=tmp_path / "caa")


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
    wanted = shifts[(shifts["vector"] == "caa") & (shifts["base"] == "none")]
    for title, evaluator, name, sign in (
        ("What it did", "answer_probability", "shift", ""),
        ("What it cost", "capability", "total_p", "+"),
    ):
        lines, rows = section(text, title), wanted[wanted["evaluator"] == evaluator]
        assert len(lines) == len(rows) == 4
        for line, (_, row) in zip(lines, rows.iterrows(), strict=True):
            shown = [f"{round(float(row[f'{name}{end}']), 2) + 0:{sign}.2f}" for end in ("", "_low", "_high")]
            assert line[3] == f"{shown[0]} [{shown[1]}, {shown[2]}]"
            assert line[-1] == str(row["n"]) == "24"
    assert "| +1 | n/a |" in (finished / "exported/lora_sft_positive/README.md").read_text()
    assert str(finished) not in text and "model | model |" in text


def test_an_export_loads_each_vector_where_its_run_tuned_it(finished: Path, tmp_path: Path) -> None:
    """Layer and dose of the search; the fit's own card says that its layer is a default."""
    text = (artifact(finished, "caa") / "README.md").read_text()
    assert "Condition(layer=1, multiplier=1.0)" in text and "the layer below is a default that nobody tuned" in text
    assert "the layer below" not in (artifact(finished, "lora_sft_positive") / "README.md").read_text()
    shutil.copytree(finished / "run", tmp_path / "runs/r/run")
    shutil.copytree(artifact(finished, "caa").parent, tmp_path / "runs/artifacts")
    path = tmp_path / "runs/r/run/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["facts"]["tuning"] = {"settled": {"caa": [2, 1.74]}, "untuned": "as an earlier search found"}
    manifest["facts"]["cells"] = [x for x in manifest["facts"]["cells"] if x["vector"] == "" or x["layer"] == 2]
    path.write_text(json.dumps(manifest))
    assert run(["export", "runs/r/run", "out"], folder=tmp_path) == 0
    text = (tmp_path / "out/caa/README.md").read_text()
    assert "Condition(layer=2, multiplier=1.74)" in text and "## What it did" in text and "nobody tuned" not in text


def test_an_export_says_how_its_answers_were_judged(finished: Path) -> None:
    """Four questions are too few for intervals; a base's change is that from the unchanged model."""
    cells = pd.read_csv(finished / "run/cells.csv").query("evaluator == 'open_ended'")
    plain = cells[(cells["base"] == "none") & (cells["multiplier"] == 0)].iloc[0]
    lora = cells[(cells["base"] == "lora_sft_positive") & (cells["multiplier"] == 0)].iloc[0]
    assert lora["score_shift"] == 0
    assert lora["score_total"] == pytest.approx(lora["score"] - plain["score"], abs=1e-8)
    text = (finished / "exported/lora_sft_positive/README.md").read_text()
    ((dose, layer, _, change, state, n),) = section(text, "What it says")
    assert (dose, layer, change, n) == ("+1", "n/a", f"{round(lora['score_total'], 2) + 0:+.2f}", "4")
    assert state in ("sound", "collapsed")
    assert "Judged by api (" in text
    steered = section((finished / "exported/caa/README.md").read_text(), "What it says")
    own = cells[(cells["base"] == "none") & (cells["vector"] == "caa")]
    assert [line[4] == "collapsed" for line in steered] == own["collapsed"].tolist()


def test_an_export_says_what_else_moved(finished: Path) -> None:
    """The ratio of the perplexity at each dose, as in metrics.csv."""
    table = pd.read_csv(finished / "run/metrics.csv").query("base == 'none' and vector == 'caa'")
    lines = section((finished / "exported/caa/README.md").read_text(), "What else it moved")
    assert len(lines) == len(table) == 4
    for line, (_, row) in zip(lines, table.iterrows(), strict=True):
        assert line[2] == "perplexity"
        assert line[4].startswith(f"{row['total']:.2f} [{row['total_low']:.2f}, ") and line[4].endswith("] times")
        assert line[5] == "24"


def section(text: str, title: str) -> list[list[str]]:
    """The table's lines under a heading of a card."""
    (body,) = re.findall(rf"^## {title}\n(.+?)(?=^## )", text, flags=re.S | re.M)
    return [line[2:-2].split(" | ") for line in body.splitlines() if re.match(r"\| [+-]\d", line)]


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
