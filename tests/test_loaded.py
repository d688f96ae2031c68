"""What was loaded is what was asked for: every kind of checkpoint that loads with random values is refused by name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from chat_tokenizers import chatml_tokenizer
from families import MORE
from random_models import random_model
from safetensors.torch import load_file, save_file

from caa_bench.__main__ import main
from caa_bench.errors import UserError
from caa_bench.models.loaded import LoadedModel
from caa_bench.models.model import ChatModel
from caa_bench.models.weights import refuse_looking_ahead

Tensors = dict[str, torch.Tensor]


def write(folder: Path, *, family: str = "llama", shard: str = "5GB", **changes: object) -> Path:
    """A whole random model with a ChatML tokenizer, as `save_pretrained` writes it."""
    tokenizer = chatml_tokenizer()
    model = random_model(family, layers=3, hidden=32, vocab=len(tokenizer), **changes)
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    return folder


def rename(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Write the weights again under other names or without some."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def reconfigure(folder: Path, **changes: object) -> None:
    """Write config.json again with other values; None takes a key out."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def refused(folder: Path, match: str) -> str:
    """The one line in which loading is refused."""
    with pytest.raises(UserError, match=match) as error:
        _ = ChatModel.find(str(folder)).model
    assert len(error.value.lines) == 1 and "\n" not in error.value.lines[0]
    return error.value.lines[0]


def check(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line in which `caa-bench check` refuses a folder, exit 2."""
    capsys.readouterr()
    assert main(["check", f"model={folder}", "data=own", "vectors=[caa]", "bases=[none]", "report_to=[]"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "Traceback" not in lines[0]
    return lines[0]


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "gpt_neox"])
def test_a_whole_model_loads_with_the_weights_that_were_saved(family: str, tied: bool, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", family=family, tie_word_embeddings=tied, shard="20KB")
    loaded = ChatModel.find(str(folder)).model
    saved = random_model(family, layers=3, hidden=32, vocab=len(chatml_tokenizer()), tie_word_embeddings=tied)
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, saved(ids).logits)


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module."])
def test_weights_under_a_wrappers_names_are_refused(wrapper: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    rename(folder, lambda found: {wrapper + name: tensor for name, tensor in found.items()})
    assert "names that begin with" in refused(folder, wrapper)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("lm_head", "lack lm_head.weight, which would be random; it has no head"),
        ("layers.1.mlp.up_proj", r"lack model.layers.1.mlp.up_proj.weight, which would be random; download"),
        ("layers.1.", r"lack model.layers.1.\S+, model.layers.1.\S+, model.layers.1.\S+ and 6 more"),
    ],
)
def test_a_missing_part_is_named(part: str, said: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    rename(folder, lambda found: {name: tensor for name, tensor in found.items() if part not in name})
    refused(folder, said)


def test_a_missing_shard_is_named_before_anything_loads(tmp_path: Path, capsys) -> None:
    folder = write(tmp_path / "model", shard="20KB")
    lost = sorted(folder.glob("model-*.safetensors"))[1]
    lost.unlink()
    assert f"lacks {lost.name}, which model.safetensors.index.json names" in check(folder, capsys)


def test_tensors_that_no_shard_holds_are_named(tmp_path: Path) -> None:
    """The index was written again without the lost shard: nothing says any more that there was one."""
    folder = write(tmp_path / "model", shard="20KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    lost = index["weight_map"]["model.layers.2.mlp.up_proj.weight"]
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file != lost}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / lost).unlink()
    refused(folder, r"lack .*model\.layers\.\S+.*, which would be random")


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path, capsys) -> None:
    """transformers takes one of the two, by the shards' order and not by the index."""
    folder = write(tmp_path / "model", shard="20KB")
    last = sorted(folder.glob("model-*.safetensors"))[-1]
    doubled = load_file(last) | {"model.layers.1.mlp.up_proj.weight": torch.zeros(64, 32)}
    save_file(doubled, last, metadata={"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight stands in two shards" in check(folder, capsys)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool])
def test_whole_numbers_without_a_quantization_are_refused(dtype: torch.dtype, tmp_path: Path, capsys) -> None:
    """transformers would take them for the weights themselves."""
    folder = write(tmp_path / "model")
    rename(folder, lambda found: {n: (50 * t).to(dtype) if "up_proj" in n else t for n, t in found.items()})
    assert "layers.0.mlp.up_proj.weight is stored as whole numbers" in check(folder, capsys)


@pytest.mark.parametrize("start", ["", "model."])
def test_names_with_one_beginning_more_or_less_are_the_models_own(start: str, tmp_path: Path) -> None:
    """transformers adds and takes away the one name it knows; the weights are those that were saved."""
    folder = write(tmp_path / "model")
    rename(folder, lambda found: {start + (n if start else n.removeprefix("model.")): t for n, t in found.items()})
    saved, ids = random_model("llama", layers=3, hidden=32, vocab=len(chatml_tokenizer())), torch.arange(3, 12)[None]
    with torch.no_grad():
        assert torch.equal(ChatModel.find(str(folder)).model(ids).logits, saved(ids).logits)


def test_more_layers_than_weights_are_refused_without_loading(tmp_path: Path, capsys) -> None:
    folder = write(tmp_path / "model")
    reconfigure(folder, num_hidden_layers=4)
    assert "config.json says 4 layers and the weights hold 3" in check(folder, capsys)


def test_fewer_layers_than_weights_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    reconfigure(folder, num_hidden_layers=2)
    refused(folder, r"hold model\.layers\.2\.\S+, .* and 6 more, which this model has no place for")


def test_another_width_is_refused_by_both_shapes(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    reconfigure(folder, intermediate_size=48)
    refused(folder, r"down_proj\.weight is \[32, 64\] in the weights and \[32, 48\] by config\.json")


def test_a_reward_model_is_refused(tmp_path: Path, capsys) -> None:
    from transformers import LlamaForSequenceClassification

    folder = write(tmp_path / "model")
    config = random_model("llama", layers=3, hidden=32, vocab=400).config
    LlamaForSequenceClassification(config).save_pretrained(folder)
    assert "is a LlamaForSequenceClassification, which cannot answer in words" in check(folder, capsys)
    reconfigure(folder, architectures=None)  # says nothing of itself: its weights do
    refused(folder, "lack lm_head.weight")


def test_an_encoder_is_refused(tmp_path: Path, capsys) -> None:
    from transformers import BertConfig, BertForMaskedLM

    tokenizer = chatml_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    folder = tmp_path / "bert"
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert "is a BertForMaskedLM" in check(folder, capsys)
    reconfigure(folder, architectures=None)
    refused(folder, "lets earlier tokens see later ones: it is an encoder")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "mixtral", "bloom"])
def test_causal_models_pass_the_trial_in_any_dtype(family: str, dtype: torch.dtype) -> None:
    refuse_looking_ahead(family, random_model(family, dtype=dtype))


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    random_model("llama", layers=3, hidden=32, vocab=200).save_pretrained(folder)
    tokenizer = chatml_tokenizer()
    tokenizer.save_pretrained(folder)
    assert len(tokenizer) > 200
    refused(folder, f"has {len(tokenizer)} tokens and its embedding 200")


def test_a_control_token_beyond_the_embedding_that_nothing_uses_is_no_mistake(tmp_path: Path) -> None:
    """Gemma 3's text models: the token for images has no row."""
    folder = write(tmp_path / "model")
    tokenizer = chatml_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    assert ChatModel.find(str(folder)).model.get_input_embeddings().num_embeddings == len(tokenizer) - 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "holds a list, not a model's settings"),
        ('"words"', "holds a text, not a model's settings"),
        ("{", "not valid JSON"),
        ('{"num_hidden_layers": "three", "hidden_size": 32}', 'num_hidden_layers is "three", where a number from 1'),
        (
            '{"num_hidden_layers": 1000000000, "hidden_size": 32}',
            "num_hidden_layers is 1000000000, where a number from 1",
        ),
        ('{"num_hidden_layers": 9000, "hidden_size": 32}', "says 9,000 layers and the weights hold 3"),
        ('{"num_hidden_layers": 3, "hidden_size": 0}', "hidden_size is 0"),
        ('{"num_hidden_layers": 3, "hidden_size": 33}', "says 33 wide, and no tensor of the weights is"),
        (
            '{"num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 10000000}',
            "says intermediate_size 10,000,000",
        ),
        ('{"num_hidden_layers": true, "hidden_size": 32}', "num_hidden_layers is true"),
        ('{"text_config": 7}', "text_config is no object"),
    ],
)
def test_a_config_that_makes_no_sense_is_one_line(text: str, said: str, tmp_path: Path, capsys) -> None:
    folder = write(tmp_path / "model")
    (folder / "config.json").write_text(text)
    assert said in check(folder, capsys)


@pytest.mark.slow
def test_a_thousand_damaged_configs_and_weights_are_described_or_refused(tmp_path: Path) -> None:
    """Random values for random keys, and random bytes in the weights' header: a UserError or nothing, and no hang."""
    import random

    draw = random.Random(0)
    folder = write(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    weights = (folder / "model.safetensors").read_bytes()
    values = [
        None,
        -1,
        0,
        1.5,
        10**9,
        10**40,
        "",
        "three",
        [],
        [3],
        {},
        {"a": 1},
        True,
        float("nan"),
        "\ud800",
        "x" * 999,
    ]
    refused_ones = 0
    for case in range(1000):
        changed = config | {
            draw.choice([*config, "text_config"]): draw.choice(values) for _ in range(draw.randint(1, 3))
        }
        (folder / "config.json").write_text(json.dumps(changed))
        damaged = bytearray(weights)
        if case % 4 == 0:
            damaged[draw.randrange(2000)] = draw.randrange(256)
        (folder / "model.safetensors").write_bytes(damaged)
        chat = ChatModel.find(str(folder))
        try:
            refused_ones += bool(chat.check())
            _ = chat.layers, chat.context
        except UserError as error:
            assert all("\n" not in line for line in error.lines)
            refused_ones += 1
    assert 300 < refused_ones < 1000


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 5},
        {"vocab_size": 400},
        {"model_type": ["llama"]},
        {"rope_parameters": "fast"},
        {"hidden_act": "no_such"},
        {"rms_norm_eps": "small"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_only_transformers_notices_is_one_line(changes: dict[str, object], tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    reconfigure(folder, **changes)
    refused(folder, "model: ")


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"{", b"[]", b"7", b'{"version": "1.0"}', b"\xff\xfe",
        b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": -1}, "merges": [["a", "b"]]}}',
    ],
)  # fmt: skip
def test_a_broken_tokenizer_is_one_line(damage: bytes, tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    (folder / "tokenizer.json").write_bytes(damage)
    with pytest.raises(UserError) as error:
        _ = ChatModel.find(str(folder)).tokenizer
    assert len(error.value.lines) == 1 and "\n" not in error.value.lines[0]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"])
def test_a_fifo_in_a_files_place_is_not_waited_for(name: str, tmp_path: Path, capsys) -> None:
    folder = write(tmp_path / "model")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert f"{name}: is no regular file" in check(folder, capsys)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"weight_map": 3}',
        *(json.dumps({"weight_map": {"a": name}}) for name in ("../b.safetensors", "", ".", "\x1b[31m", "b.bin")),
    ],
)
def test_a_damaged_index_is_one_line(text: str, tmp_path: Path, capsys) -> None:
    folder = write(tmp_path / "model", shard="20KB")
    (folder / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in check(folder, capsys)


def test_the_key_holds_the_files_that_loading_reads_and_no_others(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    before = ChatModel.find(str(folder)).fingerprint()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= before["files"].keys()
    (folder / "runs" / "compare").mkdir(parents=True)
    (folder / "runs" / "compare" / "rows.jsonl").write_text("{}")
    (folder / "README.md").write_text("A model.")
    (folder / "optimizer.safetensors").write_bytes(b"not read")
    assert ChatModel.find(str(folder)).fingerprint() == before
    reconfigure(folder, rms_norm_eps=1e-3)
    assert ChatModel.find(str(folder)).fingerprint() != before


def test_a_dot_is_the_folders_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "my-model")
    monkeypatch.chdir(folder)
    assert ChatModel.find(".").name == "my-model"
    assert ChatModel.find(".").fingerprint() == ChatModel.find(str(folder)).fingerprint()


def test_float16_that_overflows_says_bfloat16_before_anything_is_fitted(tmp_path: Path) -> None:
    """Activations beyond 65,504: every logit is NaN in float16, and none in bfloat16 or float32."""

    def larger(tensors: Tensors) -> Tensors:
        return {key: 3e4 * value if key.endswith("down_proj.weight") else value for key, value in tensors.items()}

    folder = write(tmp_path / "model")
    rename(folder, larger)
    for dtype in ("bfloat16", "float32"):
        assert ChatModel.find(str(folder), changes={"dtype": dtype}).model.dtype == getattr(torch, dtype)
    with pytest.raises(UserError, match=r"gives no numbers in float16.*set loading.dtype=bfloat16") as error:
        _ = ChatModel.find(str(folder), changes={"dtype": "float16"}).model
    assert len(error.value.lines) == 1
    whole = write(tmp_path / "whole")
    assert ChatModel.find(str(whole), changes={"dtype": "float16"}).model.dtype == torch.float16


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("xlnet", "lets earlier tokens see later ones: it is an encoder"),
        ("roberta", "counts a prompt's positions in its own way"),
        ("t5", r"\(T5ForConditionalGeneration\) cannot read a prompt of its own"),
        ("small", r"has \d+ tokens and its embedding 200"),
    ],
)
def test_a_model_that_is_loaded_already_is_tried_too(family: str, said: str) -> None:
    """Nobody has asked before whether it is causal: its numbers would mean nothing, without a word."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = chatml_tokenizer()
    vocab = len(tokenizer)
    if family == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
        model = T5ForConditionalGeneration(T5Config(vocab_size=vocab, **sizes))
    elif family == "small":
        model = random_model("llama", layers=2, hidden=32, vocab=200)
    else:
        model = random_model(family, layers=2, hidden=64, vocab=vocab, **MORE[family])
    (line,) = LoadedModel.of(model, tokenizer).check()
    assert re.search(said, line) and "\n" not in line
    assert LoadedModel.of(random_model("llama", layers=2, hidden=32, vocab=vocab), tokenizer).check() == []
