"""Model configs, any local folder, and a hub that refuses, is gone, or serves: one line within seconds, or it works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from chat_tokenizers import chatml_tokenizer
from random_models import random_model
from small_behavior import write_behavior

from caa_bench.__main__ import main
from caa_bench.errors import UserError
from caa_bench.interventions import CAA, Layers
from caa_bench.models.loading import Loading, load_model
from caa_bench.models.model import DEFAULT_DEPTH, DEFAULT_RANGE, ChatModel, model_names

# Block counts as the makers publish them.
BLOCKS = {
    "llama2-7b-chat": 32,
    "llama2-13b-chat": 40,
    "llama2-7b-base": 32,
    "qwen2.5-1.5b-instruct": 28,
    "qwen3-4b-instruct": 36,
    "mistral-7b-instruct": 32,
    "llama3.1-8b-instruct": 32,
    "gemma2-9b-it": 42,
}
FAMILIES = ("llama", "gpt_neox", "qwen2")


def write_model(folder: Path, *, family: str = "llama", template: bool = True) -> Path:
    """A random model and a ChatML tokenizer on disk, as `save_pretrained` writes them."""
    tokenizer = chatml_tokenizer() if template else chatml_tokenizer(template=None)
    random_model(family, layers=3, hidden=32, vocab=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def first_mistake(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """What `caa-bench check` says of a folder: one line, exit 2."""
    capsys.readouterr()
    assert main(["check", f"model={folder}", "data=own", "vectors=[caa]", "bases=[none]", "report_to=[]", *more]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("name", BLOCKS)
def test_every_config_names_a_layer_and_a_range_of_its_blocks(name: str) -> None:
    loading, count = ChatModel.find(name).loading, BLOCKS[name]
    assert loading.layer_range == tuple(round(fraction * count) for fraction in DEFAULT_RANGE)
    assert loading.layer_range[0] <= loading.layer <= loading.layer_range[1]
    if not name.startswith("llama2"):
        assert loading.layer == round(DEFAULT_DEPTH * count)
    assert loading.dtype in ("bfloat16", "float16")
    assert loading.memory_gb is not None
    assert (loading.template == "caa_base") == name.endswith("-base")


@pytest.mark.parametrize("name", BLOCKS)
def test_every_model_has_a_4bit_variant_that_differs_in_that_alone(name: str) -> None:
    from dataclasses import replace

    full, small = ChatModel.find(name).loading, ChatModel.find(f"{name}-4bit").loading
    assert small.memory_gb < 0.45 * full.memory_gb
    assert replace(small, quantization="none", memory_gb=full.memory_gb) == full
    assert small.quantization == "4bit"


def test_every_config_is_known_here() -> None:
    assert {name.removesuffix("-4bit") for name in model_names()} == {*BLOCKS, "tiny"}


def test_paper_layers_are_the_published_ones() -> None:
    assert [ChatModel.find(f"llama2-{size}-chat").loading.layer for size in ("7b", "13b")] == [13, 14]


def test_unknown_models_get_a_stated_fraction_of_their_depth(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 50, "hidden_size": 8}))
    layers = ChatModel.find(str(tmp_path)).layers
    assert layers == Layers(count=50, default=20, hidden=8, range=(12, 30))
    steered = {condition.layer for condition in CAA(CAA.Config(layers="range")).conditions(layers)}
    assert steered == set(range(12, 31))


def test_a_recipe_can_name_the_range(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 4, "hidden_size": 8}))
    chat = ChatModel.find(str(tmp_path), changes={"layer_range": (1, 9)})
    assert chat.layers.range == (1, 3)
    with pytest.raises(ValueError, match=r"layer_range: \[3, 1\] is no range; write \[first, last\]"):
        Loading(layer_range=(3, 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_local_folder_of_any_family_is_compared(family: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / family, family=family)
    behavior = write_behavior(tmp_path / "small", train=6, test=2)
    settings = ["vectors=[caa]", "bases=[none, system_prompt_positive]", "report_to=[]", "draws=9", "caa.layers=range"]
    paths = [f"model={folder}", f"behavior={behavior}", f"output_dir={tmp_path / 'runs'}"]
    paths += ["evaluators=[answer_probability]"]
    assert main(["compare", *paths, *settings]) == 0
    (manifest,) = (tmp_path / "runs").glob("*/*/manifest.json")
    cells = json.loads(manifest.read_text())["facts"]["cells"]
    assert {cell["layer"] for cell in cells} == {None, 1, 2}
    assert {cell["model"] for cell in cells} == {str(folder)}


def test_a_run_inside_the_models_own_folder_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cd MODEL; compare model=.` twice: the run folder that appeared there is no part of the model."""
    folder = write_model(tmp_path / "my-model")
    behavior = write_behavior(tmp_path / "small", train=6, test=2)
    monkeypatch.chdir(folder)
    call = ["compare", "model=.", f"behavior={behavior}", "vectors=[caa]", "bases=[none, system_prompt_empty]"]
    call += ["report_to=[]", "draws=9", "evaluators=[answer_probability]"]
    assert main(call) == 0
    (manifest,) = folder.glob("runs/*/*/manifest.json")
    first = json.loads(manifest.read_text())
    assert {cell["model"] for cell in first["facts"]["cells"]} == {"my-model"}
    assert first["facts"]["model"]["prompt"]["plain"].endswith("<|im_start|>assistant\n")
    assert main(call) == 0
    assert json.loads(manifest.read_text())["facts"] == first["facts"]


def test_a_tokenizer_without_chat_template_gets_the_plain_one_and_is_said_to(tmp_path: Path, caplog) -> None:
    folder = write_model(tmp_path / "base", template=False)
    chat = ChatModel.find(str(folder))
    assert chat.check() == []
    assert "Response:" in chat.tokenizer.chat_template
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("has no chat template; it gets the plain one, caa_base (Input: ... Response: ...)")
    named = ChatModel.find(str(folder), changes={"template": "caa_base"})
    assert named.tokenizer.chat_template == chat.tokenizer.chat_template
    assert named.template_notes() == chat.template_notes()


def test_pickled_weights_are_refused_before_anything_reads_them(tmp_path: Path, capsys) -> None:
    folder = write_model(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "holds only pickled weights, which can run code when they are read" in first_mistake(folder, capsys)
    with pytest.raises(UserError, match="transformers cannot load"):
        load_model(ChatModel.find(str(folder)))


def test_a_folder_without_weights_or_config_is_one_line(tmp_path: Path, capsys) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert "holds no weights" in first_mistake(folder, capsys)
    (folder / "config.json").unlink()
    assert "holds no config.json" in first_mistake(folder, capsys)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"model_type": "no_such_model"}', "no_such_model"),
        ('{"model_type": "x", "auto_map": {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}}', "x"),
    ],
    ids=["unknown family", "remote code"],
)
def test_a_model_that_transformers_does_not_know_is_one_line(config: str, said: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "config.json").write_text(config)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    with pytest.raises(UserError, match="transformers cannot load") as error:
        load_model(ChatModel.find(str(folder)))
    assert len(error.value.lines) == 1 and "\n" not in error.value.lines[0] and said in error.value.lines[0]
    assert not (tmp_path / "executed").exists()


def test_truncated_weights_are_one_line(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"transformers cannot load .* complete"):
        load_model(ChatModel.find(str(folder)))


def test_a_large_folder_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from caa_bench.models import model

    hashed: list[Path] = []
    real = model.checksums
    monkeypatch.setattr(model, "checksums", lambda folder: hashed.append(folder) or real(folder))
    chat = ChatModel.find(str(write_model(tmp_path / "model")))
    assert chat.fingerprint() == chat.fingerprint()
    assert len(hashed) == 1


@dataclass
class Hub:
    """A hub on loopback.

    Args:
        status: the answer to everything; 200 serves `folder` as the model's files.
        asked: (method, path) of each request.
    """

    status: int = 200
    folder: Path = Path()
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)

    def command(self, *args: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
        """`caa-bench`, in a fresh interpreter that knows this hub alone."""
        hidden = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
        env = {key: value for key, value in os.environ.items() if key not in hidden}
        env |= {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "no_proxy": "127.0.0.1",
            "HF_HUB_DISABLE_XET": "1",
            **more,
        }
        call = [sys.executable, "-m", "caa_bench", *args]
        return subprocess.run(call, env=env, capture_output=True, text=True, timeout=120, check=False)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub() -> Iterator[Hub]:
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, *, body: bool) -> None:
            served.asked.append((self.command, self.path))
            file = served.folder / self.path.rsplit("/", 1)[-1]
            known = served.status == 200 and "/resolve/" in self.path and file.is_file()
            data = file.read_bytes() if known else b""
            self.send_response(200 if known else 404 if served.status == 200 else served.status)
            if served.status in (401, 403):
                self.send_header("X-Error-Code", "GatedRepo")
            elif not known:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{len(data)}-{file.name}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "does not let you read 'meta-llama/Llama-2-7b-chat-hf' (401); it is gated, private or misspelt: accept"),
        (403, "log in with `hf auth login`"),
        (404, "the hub has no model 'meta-llama/Llama-2-7b-chat-hf' (404); check the name"),
        (503, "the hub failed on 'meta-llama/Llama-2-7b-chat-hf' (503"),
    ],
)
def test_a_hub_that_refuses_is_one_line_within_seconds(status: int, said: str, hub: Hub, tmp_path: Path) -> None:
    hub.status = status
    done = hub.command("check", "model=llama2-7b-chat", "data=own", home=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr and "MODEL=/path/to/model" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert len(hub.asked) == 1  # no retries


def test_an_unreachable_hub_is_one_line_within_seconds(hub: Hub, tmp_path: Path) -> None:
    hub.url = "http://127.0.0.1:9"
    started = time.monotonic()
    done = hub.command("compare", "model=llama2-7b-chat", "data=own", home=tmp_path)
    assert time.monotonic() - started < 20  # transformers alone: 23 s a file
    assert done.returncode == 2
    assert "the hub cannot be reached" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_offline_hub_is_not_asked(hub: Hub, tmp_path: Path) -> None:
    done = hub.command("check", "model=owner/name", "data=own", home=tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "'owner/name' is not in the local cache and HF_HUB_OFFLINE is set" in done.stderr
    assert hub.asked == []


def test_a_hub_model_is_fetched_once_and_keyed_by_its_commit(hub: Hub, tmp_path: Path) -> None:
    """The first fit downloads; the second one needs no hub and finds the first one's artifact."""
    hub.folder = write_model(tmp_path / "served")
    behavior = write_behavior(tmp_path / "small", train=6, test=2)
    paths = [f"behavior={behavior}", f"output_dir={tmp_path / 'runs'}"]
    command = ["fit", "model=owner/name", *paths, "vectors=[caa]", "bases=[none]", "report_to=[]"]
    first = hub.command(*command, home=tmp_path / "home")
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "home" / "hub" / "models--owner--name" / "snapshots" / COMMIT / "model.safetensors").exists()
    again = hub.command(*command, home=tmp_path / "home", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert "kept from before" in again.stderr
