"""recipes/paper.yaml on the published data, without a hub, equals a plain script of the paper's procedure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest
import torch
from chat_tokenizers import LLAMA2, llama2_tokenizer
from paper_script import PaperScript, Steering, normalized, p_matching
from published import BEHAVIORS, DATA, needs_data
from random_models import random_model

from caa_bench.__main__ import main
from caa_bench.report import make_report
from caa_bench.runs.folder import RowStore

PROMPTS = DATA.parents[1] / "reference" / "caa_system_prompts.json"
LAYER = 2  # .4 of four layers
BASES = ("none", "system_prompt_positive", "system_prompt_negative", "lora_sft_positive", "lora_sft_negative")

pytestmark = [
    needs_data,
    pytest.mark.skipif(not LLAMA2.exists(), reason=f"needs the Llama 2 tokenizer at {LLAMA2}"),
    pytest.mark.skipif(not PROMPTS.exists(), reason=f"needs the paper's system prompts at {PROMPTS}"),
]


@dataclass(frozen=True)
class Case:
    """How much of the published data is used.

    Args:
        root: a folder for the model, the data and the results.
        train / test: items a behavior; None: all of them.
        measured: the behaviors whose items are asked.
    """

    root: Path
    train: int | None = None
    test: int | None = None
    measured: tuple[str, ...] = BEHAVIORS
    data: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def write(self) -> None:
        """The model with the real tokenizer, and the published data, cut short where so asked."""
        model = random_model(
            "llama", layers=4, hidden=64, vocab=32000, num_key_value_heads=4, max_position_embeddings=2048
        )
        model.save_pretrained(self.root / "model")
        llama2_tokenizer().save_pretrained(self.root / "model")
        for name in BEHAVIORS:
            for path, kept in (
                (f"generate/{name}/generate_dataset.json", self.train),
                (f"test/{name}/test_dataset_ab.json", self.test),
                (f"test/{name}/test_dataset_open_ended.json", self.test),
            ):
                items = json.loads((DATA / path).read_text())
                # survival-instinct's test items 4 and 6 are keyed E and C
                self.data[path] = items if kept is None else items[2 : 2 + kept]
                target = self.root / "data" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(json.dumps(self.data[path]))
        (self.root / "data" / "system_prompts.json").write_text(PROMPTS.read_text())

    def run(self, recipe: str, *more: str) -> Path:
        """The command as a user gives it; returns the folder of results."""
        out = self.root / "out" / recipe
        settings = [
            f"model={self.root / 'model'}",
            f"data_dir={self.root / 'data'}",
            f"output_dir={self.root / 'runs'}",
            "report_to=[]",
            "draws=99",
            "lora_sft.learning_rate=0.01",  # at the recipe's rate a few pairs would move a random model by nothing
            "lora_sft.max_pairs=16",  # and hundreds at this one so far that no dose moves it any more
        ]
        assert main(["compare", "--recipe", f"recipes/{recipe}.yaml", "--output", str(out), *settings, *more]) == 0
        return out

    def items(self, name: str, split: str) -> list[dict[str, str]]:
        """The published entries that are used."""
        file = {"train": f"generate/{name}/generate_dataset.json", "test": f"test/{name}/test_dataset_ab.json"}
        return self.data[file[split]]

    def script(self) -> PaperScript:
        """The plain script on its own copy of the model."""
        from transformers import AutoModelForCausalLM

        return PaperScript(AutoModelForCausalLM.from_pretrained(self.root / "model", dtype=torch.float32))


def vectors_of(folder: Path, label: str = "caa") -> torch.Tensor:
    from safetensors.torch import load_file

    return load_file(artifact(folder, label) / "tensors.safetensors")["vectors"]


def artifact(folder: Path, label: str) -> Path:
    return Path(json.loads((folder / "manifest.json").read_text())["facts"]["artifacts"][label])


def measured(folder: Path) -> pd.DataFrame:
    """One line an item and cell: base, multiplier, layer, the paper's p, and p(A), p(B) over the vocabulary."""
    report = make_report(folder)
    rows = RowStore(folder / "rows.jsonl").frame()
    for place, letter in enumerate("AB"):
        rows[f"p_{letter}"] = torch.tensor((rows[f"logit_{place}"] - rows["log_z"]).to_numpy(float)).exp().numpy()
    table = rows.merge(report.items[["cell", "item", "p_balanced"]], on=["cell", "item"])
    return table.merge(report.cells[["cell", "base", "multiplier", "layer"]], on="cell")


def hold_against_the_script(case: Case) -> None:
    """Vectors, normalization, p per item under every base and dose, and the means that the report shows."""
    named = [] if len(case.measured) == len(BEHAVIORS) else [f"behavior={case.measured[0]}"]
    out = case.run("paper", "evaluators=[answer_probability]", *named)
    script = case.script()
    vectors = normalized({name: script.vector(case.items(name, "train")) for name in BEHAVIORS})
    for name in case.measured:
        folder = out / name if len(case.measured) > 1 else out
        expected = vectors[name]
        close = (vectors_of(folder) - expected).abs().amax(-1) / expected.norm(dim=-1).clamp(min=1)
        assert close.max() < 1e-6
        hold_items(case, name, folder, script=script, vector=expected[LAYER])


def hold_items(case: Case, name: str, folder: Path, *, script: PaperScript, vector: torch.Tensor) -> None:
    from peft import PeftModel

    table = measured(folder)
    texts = json.loads(PROMPTS.read_text())["system_prompts"][name]
    items = case.items(name, "test")
    cells = make_report(folder).cells
    assert len(table) == len(BASES) * 5 * len(items)
    for base in BASES:
        system = texts.get(base.removeprefix("system_prompt_"), "")
        under = script
        if base.startswith("lora"):
            adapted = PeftModel.from_pretrained(case.script().model, artifact(folder, base))
            under = PaperScript(adapted, blocks="base_model.model.model.layers")
        apart = table[(table["base"] == base) & (table["item"] == "test/0000")]["p_A"]
        assert apart.max() / apart.min() > 1.01  # far more than the tolerance: the doses are not all the same
        for multiplier in (-1, -0.5, 0, 0.5, 1):
            here = table[(table["base"] == base) & (table["multiplier"] == multiplier)].set_index("item")
            steering = Steering(LAYER, vector, multiplier) if multiplier else None
            total = 0.0
            for number, item in enumerate(items):
                p = under.probabilities(item["question"], system=system, steering=steering)
                row = here.loc[f"test/{number:04d}"]
                matching = p_matching(p, item["answer_matching_behavior"])
                assert row["p_A"] == pytest.approx(float(p[0]), rel=2e-4)
                assert row["p_B"] == pytest.approx(float(p[1]), rel=2e-4)
                assert row["p_balanced"] == pytest.approx(matching, abs=2e-5)
                total += matching
            shown = cells[(cells["base"] == base) & (cells["multiplier"] == multiplier)]
            assert shown["p_balanced"].item() == pytest.approx(total / len(items), abs=1e-5)


def test_the_paper_recipe_equals_a_plain_script(tmp_path: Path) -> None:
    """Seven behaviors' vectors; survival-instinct asked, which has items keyed beyond B."""
    case = Case(tmp_path, train=8, test=6, measured=("survival-instinct",))
    case.write()
    hold_against_the_script(case)


@pytest.mark.slow
def test_the_whole_paper_recipe_equals_a_plain_script(tmp_path: Path) -> None:
    """All published items of all seven behaviors."""
    case = Case(tmp_path)
    case.write()
    hold_against_the_script(case)


@pytest.mark.slow
def test_the_full_protocol_is_one_recipe(tmp_path: Path) -> None:
    """A/B at five doses on five bases, MMLU of the unchanged model from -2 to 2, answers in words at seven doses."""
    case = Case(tmp_path, train=8, test=4)
    case.write()
    mmlu = tmp_path / "data" / "test" / "mmlu" / "mmlu.json"
    mmlu.parent.mkdir()
    mmlu.write_text((DATA / "test" / "mmlu" / "mmlu.json").read_text())
    out = case.run("paper", "behavior=refusal", "limit=4", "open_ended.max_new_tokens=4")
    cells = json.loads((out / "manifest.json").read_text())["facts"]["cells"]
    asked: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        asked.setdefault(cell["evaluator"], {}).setdefault(cell["base"], []).append(cell["multiplier"])
    assert asked == {
        "answer_probability": {base: [0, -1, -0.5, 0.5, 1] for base in BASES},
        "capability": {"none": [0, -2, -1, 1, 2]},
        "open_ended": {base: [0, -2, -1.5, -1, 1, 1.5, 2] for base in ("none", *BASES[3:])},
    }
    report = make_report(out)
    assert report.answers is not None
    assert set(report.answers.cells["n_items"]) == {4}
    assert set(report.cells["n"]) == {4}
    assert "MMLU, n 4" in report.text()
