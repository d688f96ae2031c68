"""An adapter's folder as MODEL is its base with the update in the weights; what would be left unused is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from chat_tokenizers import chatml_tokenizer
from peft import LoraConfig, get_peft_model
from random_models import random_model
from safetensors.torch import load_file, save_file

from caa_bench.errors import UserError
from caa_bench.models.model import ChatModel

IDS = torch.arange(3, 20)[None]


def write(folder: Path) -> torch.Tensor:
    """A base model and a LoRA adapter beside it; the logits of both together."""
    tokenizer = chatml_tokenizer()
    model = random_model("llama", layers=3, hidden=32, vocab=len(tokenizer))
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"))
    for name, weight in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    wrapped.save_pretrained(folder / "adapter")
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(folder / "base")
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    with torch.no_grad():
        return wrapped.eval()(IDS).logits


def test_an_adapter_folder_is_its_base_with_the_update(tmp_path: Path) -> None:
    wanted = write(tmp_path)
    base, chat = ChatModel.find(str(tmp_path / "base")), ChatModel.find(str(tmp_path / "adapter"))
    assert chat.check() == []
    assert chat.layers == base.layers and chat.context == base.context
    with torch.no_grad():
        torch.testing.assert_close(chat.model(IDS).logits, wanted, atol=1e-4, rtol=1e-4)
        assert (base.model(IDS).logits - wanted).abs().mean() > 0.1
    files = chat.fingerprint()["files"]
    assert {"adapter_config.json", "adapter_model.safetensors", "base/model.safetensors"} <= files.keys()
    assert chat.tokenizer.get_vocab() == base.tokenizer.get_vocab()


def test_an_update_that_has_no_place_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors = {name.replace("layers.2.", "layers.7."): tensor for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"holds \S+layers\.7\.\S+, which its base has no place for"):
        _ = ChatModel.find(str(tmp_path / "adapter")).model


@pytest.mark.parametrize("lost", ["layers.1.", "lora_B", ""], ids=["a block", "every B", "all"])
def test_an_update_that_is_not_all_there_is_refused(lost: str, tmp_path: Path) -> None:
    """peft makes up the rest, mostly as zeros: the base's own numbers under the adapter's name."""
    write(tmp_path)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if lost not in name}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks \S+lora_[AB]\.weight, which its adapter_config\.json asks for"):
        _ = ChatModel.find(str(tmp_path / "adapter")).model


def test_an_adapter_without_a_base_is_one_line(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(UserError, match="names no base model"):
        ChatModel.find(str(tmp_path / "adapter"))
