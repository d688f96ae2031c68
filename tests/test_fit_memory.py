"""The dry run's figure for a fit is within a fifth of what the fit then takes, measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from chat_tokenizers import chatml_tokenizer
from random_models import random_model
from real_models import real_model

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux says a peak that can be reset"
)

# Loads the model, then fits; says the weights and libraries that stood before, the peak, and what the dry run says.
SCRIPT = """
import gc, json, os, sys
import torch
from caa_bench.behaviors.behavior import load_behavior
from caa_bench.commands.dry_run import TEMPLATE_TOKENS, token_counter
from caa_bench.commands.fit_memory import LIBRARIES, Shape, fit_needs
from caa_bench.interventions import registry
from caa_bench.models.model import ChatModel

model, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
chat, pairs = ChatModel.find(model, changes={"dtype": "float32"}), load_behavior("refusal").pairs()[:count]
cls = registry()[name]
one = cls(cls.Config()) if name == "caa" else cls(cls.Config(), variant="positive")
tokens = [token_counter(chat.source)(pair.question) + TEMPLATE_TOKENS for pair in pairs]
shape = Shape.of(chat)
needs = fit_needs(one, shape, tokens=tokens, items=len({pair.item for pair in pairs}))
_ = chat.model
gc.collect()
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # begin the peak anew: loading has one of its own
one.fit(chat.model, chat.tokenizer, pairs)
(peak,) = [int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps({"peak": peak, "said": shape.weights + LIBRARIES + needs.memory, "disk": needs.disk}))
"""


def measured(model: Path, name: str, count: int) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model), name, str(count)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name} on {count} pairs: peak {found['peak'] / 1e9:.2f} GB, the dry run says {found['said'] / 1e9:.2f} GB")
    return found


@pytest.fixture(scope="module")
def small_wide(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = chatml_tokenizer()
    net = random_model("llama", layers=8, hidden=512, vocab=len(tokenizer), max_position_embeddings=2048)
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("caa", 640), ("lora_sft", 16)])
def test_a_fit_takes_what_the_dry_run_says(name: str, count: int, small_wide: Path) -> None:
    found = measured(small_wide, name, count)
    assert 0.8 <= found["said"] / found["peak"] <= 1.2
    assert found["disk"] == (640 * 2 * 8 * 512 * 4 if name == "caa" else 0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("caa", 64), ("lora_sft", 16)])
def test_a_fit_of_a_real_model_takes_what_the_dry_run_says(name: str, count: int) -> None:
    found = measured(real_model("qwen05"), name, count)
    assert 0.8 <= found["said"] / found["peak"] <= 1.2
