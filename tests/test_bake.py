"""`bake`: plain weights that do what an arm does, loaded by plain transformers; refused where no weights do it."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import adapter_kinds
import peft
import pytest
import torch
from chat_tokenizers import chatml_tokenizer
from random_models import random_model
from small_runs import Small, run, run_code
from transformers import AutoModelForCausalLM, PreTrainedModel

from caa_bench.__main__ import main
from caa_bench.behaviors.behavior import load_behavior
from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit
from caa_bench.engine.steer import steered
from caa_bench.errors import UserError
from caa_bench.interventions import CAA, Condition, Intervention, SystemPrompt, registry
from caa_bench.interventions.adapter import Adapter
from caa_bench.interventions.baking import bake_into, baking_of, refuse_family
from caa_bench.interventions.full_sft import FullSFT
from caa_bench.models.loaded import LoadedModel
from caa_bench.runs.bake_check import Before, refuse_other

IDS = torch.arange(3, 20)[None]
KINDS = {name: kind for name, kind in adapter_kinds.KINDS.items() if name != "rslora"}


@cache
def tokenizer():
    return chatml_tokenizer()


def model(family: str = "llama", **changes) -> PreTrainedModel:
    return random_model(family, layers=3, hidden=32, vocab=len(tokenizer()), **changes)


def logits(of) -> torch.Tensor:
    with torch.no_grad():
        return of(IDS).logits


def adapter(config: peft.PeftConfig, folder: Path, family: str = "llama") -> Adapter:
    """An arm of one of peft's kinds with random weights."""
    wrapped, draw = peft.get_peft_model(model(family), config), torch.Generator().manual_seed(0)
    for weight in wrapped.parameters():
        if weight.requires_grad:
            weight.data = weight.data + 0.3 * torch.randn(weight.shape, generator=draw)
    wrapped.save_pretrained(folder)
    arm = Adapter(path=str(folder))
    arm.fit(model(family), tokenizer(), None)
    return arm


def loaded_plainly(of: PreTrainedModel, folder: Path) -> PreTrainedModel:
    of.save_pretrained(folder)
    again, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    return again.eval()


def vector(delta: torch.Tensor) -> CAA:
    caa = CAA()
    caa.vectors = delta.expand(3, -1).clone()
    return caa


@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_linear_layers_has_exact_weights(kind: str, tmp_path: Path) -> None:
    arm, condition = adapter(KINDS[kind](), tmp_path / "adapter"), Condition(multiplier=-0.5)
    own = model()
    before = logits(own)
    with arm.attach(own, condition):
        wanted = logits(own)
    changed = bake_into(own, baking_of(arm, condition))
    assert len(changed) == 6 and all(not module._forward_hooks for module in own.modules())
    torch.testing.assert_close(logits(loaded_plainly(own, tmp_path / "baked")), wanted, atol=1e-4, rtol=1e-5)
    assert (wanted - before).abs().max() > 0.1


@pytest.mark.parametrize(("family", "module"), [("qwen2", "q_proj"), ("gpt2", "c_attn"), ("gemma2", "q_proj")])
def test_a_lora_is_merged_in_every_family(family: str, module: str, tmp_path: Path) -> None:
    """Also where the weights lie the other way round (GPT-2), and beside a bias that is far larger than they are."""
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=[module], task_type="CAUSAL_LM")
    arm, own = adapter(config, tmp_path / "adapter", family), model(family)
    for name, weight in own.named_parameters():
        if name.endswith(f"{module}.bias"):
            weight.data += 300.0 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    with arm.attach(own, Condition()):
        wanted = logits(own)
        weight = own.get_submodule(bake_names(own, module)[0]).weight.clone()
    bake_into(own, baking_of(arm, Condition()))
    assert not torch.equal(own.get_submodule(bake_names(own, module)[0]).weight, weight)
    torch.testing.assert_close(logits(loaded_plainly(own, tmp_path / "baked")), wanted, atol=1e-4, rtol=1e-4)


def bake_names(of: PreTrainedModel, last: str) -> list[str]:
    return [name for name, _ in of.named_modules() if name.endswith(last)]


def test_a_full_finetune_is_merged(tmp_path: Path) -> None:
    own, arm, draw = model(), FullSFT(), torch.Generator().manual_seed(0)
    arm._update = {name: 0.05 * torch.randn(weight.shape, generator=draw) for name, weight in own.named_parameters()}
    with arm.attach(own, Condition(multiplier=0.5)):
        wanted = logits(own)
    changed = bake_into(own, baking_of(arm, Condition(multiplier=0.5)))
    assert len(changed) == len(dict(own.named_parameters()))
    assert torch.equal(logits(loaded_plainly(own, tmp_path / "baked")), wanted)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gptj", "phi", "bloom"])
def test_a_vector_at_every_position_is_a_bias(family: str, tmp_path: Path) -> None:
    own, delta = model(family), torch.randn(32, generator=torch.Generator().manual_seed(0))
    baking = baking_of(vector(delta), Condition(layer=1, multiplier=2.0), everywhere=True)
    assert not baking.exact
    with steered(own, [Edit(1, Add(2.0 * delta), positions="all")]):
        wanted = logits(own)
    refuse_family(own, baking)
    assert len(bake_into(own, baking)) == 1
    assert (wanted - logits(model(family))).abs().max() > 0.1
    torch.testing.assert_close(logits(loaded_plainly(own, tmp_path / "baked")), wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "mistral"])
def test_a_family_without_a_place_for_a_bias_is_refused(family: str) -> None:
    baking = baking_of(vector(torch.ones(32)), Condition(layer=1), everywhere=True)
    with pytest.raises(UserError, match=f"the config of {family} has no place for a bias at the end of a block"):
        refuse_family(model(family), baking)


def test_what_no_weights_do_is_refused_before_a_model_loads() -> None:
    caa, at = vector(torch.ones(32)), Condition(layer=1)
    with pytest.raises(UserError, match=r"caa: begins at the last token of the instruction.*--everywhere"):
        baking_of(caa, at)
    with pytest.raises(UserError, match="caa: dose 0 is the model as it is"):
        baking_of(caa, Condition(layer=1, multiplier=0.0), everywhere=True)
    with pytest.raises(UserError, match="changes the conversation and no weight"):
        baking_of(SystemPrompt(variant="mine", text="Be kind."), Condition())
    ablation = registry()["ablation"]()
    ablation.vectors = torch.ones(3, 32)
    with pytest.raises(UserError, match="ablation: acts between blocks"):
        baking_of(ablation, at, everywhere=True)
    angular = registry()["angular"]()
    angular.vectors = torch.ones(3, 32)
    with pytest.raises(UserError, match="angular: is no addition to a block's output"):
        baking_of(angular, at, everywhere=True)


def test_an_arm_that_is_no_linear_layer_is_refused() -> None:
    class Louder(Intervention):
        def edits(self, condition):
            return None

        def attach(self, model, condition):
            import contextlib

            stack = contextlib.ExitStack()
            norm = model.model.layers[0].input_layernorm
            stack.callback(norm.register_forward_hook(lambda _, __, output: output * 2).remove)
            return stack

    with pytest.raises(
        UserError, match=r"changes model\.layers\.0\.input_layernorm, a LlamaRMSNorm and no linear layer"
    ):
        bake_into(model(), baking_of(Louder(), Condition()))


def test_weights_that_do_something_else_are_refused(small: Small) -> None:
    """Granite multiplies what its MLP writes, so that a bias there is not the vector."""
    chat = LoadedModel.of(model("granite", residual_multiplier=0.5), tokenizer())
    baking = baking_of(vector(torch.ones(32)), Condition(layer=1), everywhere=True)
    items = load_behavior(small.behavior).test[:2]
    before = Before.of(chat, baking, items=items, protocol="default")
    refuse_family(chat.model, baking)
    bake_into(chat.model, baking)
    with pytest.raises(UserError, match="this architecture does something else with them; nothing is written"):
        refuse_other(before.against(chat), baking)


@pytest.fixture(scope="module")
def measured(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a run of seconds stands in, under `runs`."""
    folder = tmp_path_factory.mktemp("bake")
    settings = small.settings("bases=[none, lora_sft_positive]", "vectors=[caa]", "caa.layers=[1]", "limit=24")
    assert run(["compare", "--output", "runs/x/run", *settings], folder=folder) == 0
    return folder


def artifact(folder: Path) -> Path:
    """Where the run's finetune is kept."""
    return Path(
        json.loads((folder / "runs/x/run/manifest.json").read_text())["facts"]["artifacts"]["lora_sft_positive"]
    )


def said(folder: Path, argv: list[str]) -> str:
    """What a command that must succeed prints."""
    before = len(text) if (text := _text(folder)) else 0
    assert run(argv, folder=folder) == 0, (folder / "stderr.txt").read_text()
    return _text(folder)[before:]


def _text(folder: Path) -> str:
    path = folder / "stdout.txt"
    return path.read_text() if path.exists() else ""


def test_a_baked_finetune_says_what_the_arm_says(measured: Path) -> None:
    lines = said(measured, ["bake", "runs/x/run", "lora", "--arm", "lora_sft_positive"]).splitlines()
    assert lines[0] == "lora_sft_positive x+1 is in 6 modules of lora"
    apart = float(lines[1].partition("within ")[2].split()[0])
    assert apart <= 1e-5 and lines[1].endswith("of the arm's, on 24 items in every order")
    shift = lines[2].partition("model: ")[2]
    assert shift.split(" baked, ")[0] == shift.split(" baked, ")[1].removesuffix(" here")
    card = (measured / "lora/README.md").read_text()
    assert 'library_name: "transformers"' in card and "merged in float32" in card and f"{lines[1][1:]}." in card
    config = json.loads((measured / "lora/config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and "auto_map" not in config
    assert (measured / "lora/chat_template.jinja").exists()


def test_the_card_s_code_runs(measured: Path) -> None:
    said(measured, ["bake", "runs/x/run", "shown", "--arm", "lora_sft_positive", "--limit", "2"])
    card = (measured / "shown/README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    assert "Can you help me with something?" in run_code(code, folder=measured / "shown")


def test_a_vector_everywhere_says_how_it_differs(measured: Path) -> None:
    argv = ["bake", "runs/x/run", "caa", "--arm", "caa", "--multiplier", "8", "--everywhere"]
    lines = said(measured, argv).splitlines()
    assert lines[0] == "caa x+8 is in 1 module of caa" and "same addition at every position" in lines[1]
    baked, here = lines[2].partition("model: ")[2].removesuffix(" here").split(" baked, ")
    assert baked != here and lines[3].startswith("so acting at the prompt's positions too moves the answers by ")
    # the run's own row of the same dose says what "here" says
    shifts = (measured / "runs/x/run/shifts.csv").read_text().splitlines()
    columns = shifts[0].split(",")
    own = [dict(zip(columns, line.split(","), strict=False)) for line in shifts[1:]]
    (line,) = [x for x in own if x["base"] == "none" and x["vector"] == "caa" and float(x["multiplier"]) == 8]
    assert float(here.split()[0]) == pytest.approx(float(line["shift"]), abs=6e-4)
    assert "acts at EVERY position" in (measured / "caa/README.md").read_text()
    assert json.loads((measured / "caa/config.json").read_text())["mlp_bias"] is True


def test_an_artifact_is_baked_with_the_model_that_is_named(measured: Path, small: Small) -> None:
    kept = artifact(measured)
    argv = ["bake", str(kept), "own", "--model", str(small.model), "--behavior", str(small.behavior), "--limit", "4"]
    lines = said(measured, [*argv, "--multiplier", "0.5", "--dtype", "bfloat16"]).splitlines()
    assert lines[0].startswith("lora_sft_positive x+0.5 is in 6 modules") and lines[1].endswith("every order")
    assert json.loads((measured / "own/config.json").read_text())["dtype"] == "bfloat16"


def test_mistakes_are_one_line(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(measured)
    kept = artifact(measured)
    for words, wanted in {
        ("runs/x/run", "runs"): "runs: exists already; give a new folder",
        ("runs/x/run", "new"): "--arm: name one of lora_sft_positive, caa",
        ("runs/x/run", "new", "--arm", "cab"): "--arm: 'cab' was not fitted in this run; use one of lora_sft_positive,",
        ("runs/x/run", "new", "--arm", "caa"): "--multiplier: give the dose of caa; the run measured -8, 8",
        ("runs/x/run", "new", "--arm", "caa", "--multiplier", "8"): "--everywhere bakes that",
        ("runs/x/run", "new", "--arm", "lora_sft_positive", "--layer", "1"): "--layer: lora_sft_positive has no layer",
        ("runs/x/run", "new", "--model", "tiny"): "--model: a run has its own; leave it out",
        ("runs/x/run", "new", "--limit", "0"): "--limit: 0 is too few",
        (str(kept), "new"): "--model: name the model that the artifact was fitted on",
    }.items():
        assert main(["bake", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert wanted in line, line
    assert not (measured / "new").exists()


def test_other_weights_than_the_run_s_are_refused(
    measured: Path, small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(measured / "runs", tmp_path / "runs")
    shutil.copytree(small.model, tmp_path / "model")
    recipe = tmp_path / "runs/x/run/recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(small.model), str(tmp_path / "model")))
    config = tmp_path / "model/config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps"', '"other": 1, "rms_norm_eps"'))
    argv = ["bake", str(tmp_path / "runs/x/run"), str(tmp_path / "new"), "--arm", "lora_sft_positive"]
    assert main(argv) == 2
    assert "are not those that the run measured" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
