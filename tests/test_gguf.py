"""A `.gguf` file as MODEL: header read at once, weights as they were written, each mistake one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from chat_tokenizers import CHATML_TEMPLATE, chatml_tokenizer
from random_models import random_model

from caa_bench.__main__ import main
from caa_bench.errors import UserError
from caa_bench.models.layers import Layers
from caa_bench.models.model import ChatModel

# transformers' name of a Qwen 2 weight -> GGUF's
_BLOCK = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(path: Path, *, kind: str = "qwen2") -> torch.nn.Module:
    """A random model as GGUF in fp32, with its tokenizer and chat template; the model itself."""
    gguf = pytest.importorskip("gguf", reason="needs the gguf package")
    tokenizer = chatml_tokenizer()
    model = random_model("qwen2", layers=3, hidden=64, vocab=len(tokenizer))
    writer = gguf.GGUFWriter(str(path), kind)
    writer.add_block_count(3)
    writer.add_embedding_length(64)
    writer.add_context_length(512)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(model.config.rope_parameters["rope_theta"])
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocabulary)
    control = set(tokenizer.added_tokens_decoder)
    writer.add_token_types([3 if number in control else 1 for number in range(len(vocabulary))])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(CHATML_TEMPLATE)
    for name, weight in model.state_dict().items():
        stem, end = name.rsplit(".", 1)
        parts = stem.split(".", 3)
        ours = f"blk.{parts[2]}.{_BLOCK[parts[3]]}" if stem.startswith("model.layers.") else _WHOLE[stem]
        writer.add_tensor(f"{ours}.{end}", weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_a_gguf_file_is_a_model(tmp_path: Path) -> None:
    saved = write_gguf(tmp_path / "my-model.gguf")
    chat = ChatModel.find(str(tmp_path / "my-model.gguf"))
    assert chat.check() == []
    assert chat.layers == Layers(count=3, default=1, hidden=64, range=(1, 2)) and chat.context == 512
    assert chat.fingerprint()["files"].keys() == {"my-model.gguf"}
    assert chat.tokenizer.chat_template == CHATML_TEMPLATE
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(chat.model(ids).logits, saved(ids).logits, atol=1e-4, rtol=1e-4)


def test_a_folder_with_one_is_too(tmp_path: Path) -> None:
    write_gguf(tmp_path / "one.gguf")
    chat = ChatModel.find(str(tmp_path))
    assert chat.gguf == tmp_path / "one.gguf" and chat.check() == []
    (tmp_path / "two.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"holds several .gguf files \(one.gguf, two.gguf\); give one with MODEL=FILE"):
        chat.check()


def test_an_unknown_architecture_is_one_line(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", kind="newest9")
    with pytest.raises(UserError, match=r"transformers cannot load .*newest9") as error:
        _ = ChatModel.find(str(tmp_path / "model.gguf")).tokenizer
    assert len(error.value.lines) == 1


@pytest.mark.parametrize(
    "data", [b"", b"GGUF", b"PK\x03\x04" * 20, b"GGUF" + b"\xff" * 60], ids=["empty", "short", "zip", "sizes"]
)
def test_a_damaged_file_is_one_line(data: bytes, tmp_path: Path, capsys) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(data)
    capsys.readouterr()
    assert main(["check", f"model={file}", "data=own", "vectors=[caa]", "bases=[none]", "report_to=[]"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.gguf: not a complete GGUF file" in line


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "model.gguf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (line,) = ChatModel.find(str(tmp_path / "model.gguf")).check()
    assert line.endswith("needs the gguf package; run pip install 'caa-bench[gguf]'")
