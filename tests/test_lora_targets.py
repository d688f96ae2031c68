"""Default LoRA trains on every family, on the model's own linear layers; what could not be applied is refused."""

from __future__ import annotations

import json
import stat
from functools import cache, cached_property
from pathlib import Path

import pytest
import torch
from chat_tokenizers import chatml_tokenizer
from families import OTHERS
from random_models import FAMILIES, MORE_FAMILIES, random_model
from small_behavior import write_behavior
from small_runs import Small

from caa_bench.__main__ import main
from caa_bench.behaviors.behavior import Behavior, load_behavior
from caa_bench.errors import UserError
from caa_bench.interventions import Condition, FullSFT, LoraSFT
from caa_bench.interventions.held_out import split_held_out
from caa_bench.interventions.lora.targets import targets
from caa_bench.models.model import ChatModel

HANDFUL = ["llama", "gpt2", "phi3", "gpt_neox", "mixtral"]
EVERY = sorted({*FAMILIES, *MORE_FAMILIES, *OTHERS} - set(HANDFUL))


@pytest.fixture(scope="module")
def behavior(tmp_path_factory) -> Behavior:
    return load_behavior(write_behavior(tmp_path_factory.mktemp("behaviors") / "small"))


@cache
def model(family: str):
    changes = OTHERS.get(family, {})
    return random_model(family, layers=2, hidden=64, vocab=len(chatml_tokenizer()), **changes)


def fitted(net, behavior: Behavior, **config) -> LoraSFT:
    lora = LoraSFT(LoraSFT.Config(learning_rate=0.01, max_pairs=8, **config))
    lora.fit(net, chatml_tokenizer(), behavior.pairs())
    return lora


def trains_or_refuses(family: str, behavior: Behavior, asked) -> None:
    """Every adapted module learned something; `fit` itself holds what is applied equal to what was trained."""
    net = model(family)
    try:
        lora = fitted(net, behavior, target_modules=asked)
    except UserError as error:
        assert len(error.lines) == 1 and "\n" not in error.lines[0]
        assert error.lines[0].startswith("lora_sft")
        return
    ups = [value for key, value in lora.adapter.items() if "lora_B" in key]
    assert ups and len(lora._factors()) == len(ups)
    # of a mixture of experts some may have had no token in a few pairs
    assert sum(bool(up.abs().max() > 0) for up in ups) > len(ups) / 2


@pytest.mark.parametrize("family", HANDFUL)
def test_the_default_trains_and_is_applied(family, behavior) -> None:
    trains_or_refuses(family, behavior, ())
    assert fitted(model(family), behavior).adapter


@pytest.mark.slow
@pytest.mark.parametrize("asked", [(), "all-linear"], ids=["default", "all-linear"])
@pytest.mark.parametrize("family", EVERY)
def test_every_family_trains_or_is_refused_in_one_line(family, asked, behavior) -> None:
    trains_or_refuses(family, behavior, asked)


def test_all_linear_is_all_of_the_blocks_and_not_the_head(behavior) -> None:
    lora = fitted(model("llama"), behavior, target_modules="all-linear")
    assert sorted(lora.peft_settings["target_modules"]) == [
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    ]
    assert len(lora._factors()) == 2 * 7


def test_a_pictures_encoder_is_not_adapted() -> None:
    """Names that stand in both parts of a multimodal model are given in full, for the text decoder alone."""

    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(2, 2), "v_proj": torch.nn.Linear(2, 2)})
            self.text = model("llama")
            self.config = self.text.config

        def get_decoder(self):
            return self.text.get_decoder()

        def get_output_embeddings(self):
            return self.text.get_output_embeddings()

    found = targets(Both(), ())
    assert found == [f"text.model.layers.{n}.self_attn.{name}_proj" for n in range(2) for name in "qv"]


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("EMBEDDING", "is an embedding or the output head, where an adapter would be trained and never applied; use "),
        ("HEAD", "is an embedding or the output head, where an adapter would be trained and never applied; use "),
        ("w_q", "'w_q' is no linear layer in the blocks of this model; use "),
    ],
)
def test_what_no_adapter_can_sit_on_is_refused_before_weights_load(
    family, asked, says, small: Small, tmp_path, monkeypatch, capsys
) -> None:
    """In `check`, from the config alone: for a usual family by its names, for another from its empty model."""
    folder = small.model
    if family != "llama":
        folder = tmp_path / "model"
        model(family).save_pretrained(folder)
        chatml_tokenizer().save_pretrained(folder)
    name = {"EMBEDDING": {"llama": "embed_tokens", "gpt_neox": "embed_in"}[family], "HEAD": "lm_head"}
    asked = name.get(asked, asked)
    capsys.readouterr()  # what saving the model said
    monkeypatch.setattr("caa_bench.models.model.load_model", lambda chat: pytest.fail("the model was loaded"))
    monkeypatch.chdir(tmp_path)
    settings = small.settings(f"lora_sft.target_modules=[{asked}]", f"model={folder}")
    assert main(["compare", "--output", "run", *settings]) == 2
    said = capsys.readouterr().err
    assert said.startswith("caa-bench: override: lora_sft.target_modules: ") and says in said
    assert "all-linear" in said and said.count("\n") == 1


def test_all_linear_runs_from_a_recipe(small: Small, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = small.settings("lora_sft.target_modules=all-linear", "bases=[none, lora_sft_positive]", "vectors=[]")
    assert main(["fit", *settings]) == 0
    (folder,) = Path("runs/artifacts").glob("lora_sft_positive-*/")
    assert len(json.loads((folder / "adapter_config.json").read_text())["target_modules"]) == 7


def test_an_adapter_that_was_trained_in_vain_is_no_arm(behavior, monkeypatch) -> None:
    """What `attach` gives is compared with the trained model itself."""
    monkeypatch.setattr(LoraSFT, "_factors", lambda self: {})
    with pytest.raises(RuntimeError, match="the trained adapter changes no logit"):
        fitted(model("llama"), behavior)
    monkeypatch.undo()
    whole = LoraSFT._factors
    monkeypatch.setattr(LoraSFT, "_factors", lambda self: dict(list(whole(self).items())[:1]))
    with pytest.raises(RuntimeError, match="from the trained model's, which moved by"):
        fitted(model("llama"), behavior)


def test_items_are_held_out_whole_and_the_loss_on_them_is_kept(behavior, tmp_path) -> None:
    pairs = behavior.pairs()
    learned, held = split_held_out(pairs, seed=0)
    assert (len(learned), len(held)) == (22, 2)
    assert not {pair.item for pair in learned} & {pair.item for pair in held}
    assert split_held_out(pairs[:18], seed=0) == (list(pairs[:18]), [])
    lora = LoraSFT(LoraSFT.Config(learning_rate=0.001, epochs=2))
    lora.fit(model("llama"), chatml_tokenizer(), pairs)
    assert lora.training["rows"] == 22 and lora.training["held_out_rows"] == 2
    first, second = lora.training["held_out_loss"]
    assert second < first
    lora.save_pretrained(tmp_path / "lora")
    again = LoraSFT.from_pretrained(tmp_path / "lora")
    assert again.training == lora.training and again.peft_settings["target_modules"] == ["q_proj", "v_proj"]
    assert f"held-out loss after each epoch {first:.3f}, {second:.3f}" in (tmp_path / "lora/README.md").read_text()
    # the loss is the mean over the held-out letters of -log p under the adapter
    from caa_bench.models.prompts import choice_prompt

    wanted = []
    with lora.attach(model("llama"), Condition()), torch.no_grad():
        for pair in held:
            asked = [{"role": "user", "content": pair.question}]
            prompt = choice_prompt(chatml_tokenizer(), asked, (pair.matching[1:-1], pair.other[1:-1]))
            logits = model("llama")(torch.tensor([prompt.ids])).logits[0, -1]
            wanted.append(-float(logits.log_softmax(-1)[prompt.candidates[0]]))
    assert second == pytest.approx(sum(wanted) / len(wanted), rel=1e-4)


def test_eight_visible_devices_train_what_one_trains(behavior, monkeypatch) -> None:
    """Trainer would take eight times the batch, or wrap the model; the number of devices is kept with the fit."""
    from transformers import TrainingArguments

    alone = fitted(model("llama"), behavior, batch_size=2)

    real = TrainingArguments.__dict__["_setup_devices"].func

    def eight(self) -> torch.device:
        device = real(self)
        self._n_gpu = 8
        return device

    shown = cached_property(eight)
    shown.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", shown)
    assert TrainingArguments(output_dir="x", use_cpu=True, per_device_train_batch_size=2).train_batch_size == 16
    among = fitted(model("llama"), behavior, batch_size=2)
    assert among.training == alone.training
    assert (among.training["batch"], among.training["devices"], among.training["steps"]) == (2, 1, 4)
    assert all(torch.equal(among.adapter[key], value) for key, value in alone.adapter.items())


def test_files_of_finetunes_can_be_read_by_whoever_reads_the_others(behavior, tmp_path) -> None:
    fitted(model("llama"), behavior).save_pretrained(tmp_path / "lora")
    full = FullSFT(FullSFT.Config(max_pairs=2))
    full.fit(model("llama"), chatml_tokenizer(), behavior.pairs())
    full.save_pretrained(tmp_path / "full")
    (tmp_path / "plain").touch()
    usual = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    files = [path for name in ("lora", "full") for path in (tmp_path / name).iterdir()]
    assert {path.name for path in files} >= {"adapter_model.safetensors", "update.safetensors"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {usual}


def test_a_model_that_is_not_here_is_not_asked() -> None:
    assert LoraSFT(LoraSFT.Config(target_modules=("x",))).check_model(ChatModel.find("owner/not-here")) == []
