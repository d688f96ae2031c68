"""The engine beside its peers on a real model: a sweep, extraction, generation, a LoRA fit, with memory.

    python -m benchmarks.real MODEL_FOLDER [--only sweep extraction generation lora_fit]

Needs the published data. CPU time of the process on one thread, one run. The plain loop and batched recompute are run
on a part of the items and conditions and scaled up by tokens: in full they take an hour where the engine takes minutes.
Results go to benchmarks/results-real.json, and from there into BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks import peers
from benchmarks.bench import ROOT, machine
from benchmarks.extras import bare_sft, resident
from benchmarks.subject import DATA
from benchmarks.write import REAL, write
from caa_bench.behaviors.behavior import Behavior, load_behavior
from caa_bench.behaviors.items import variants
from caa_bench.engine.capture import letter_activations
from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit
from caa_bench.engine.generate import generate
from caa_bench.engine.score import score
from caa_bench.interventions import LoraSFT
from caa_bench.interventions.lora.rows import training_row
from caa_bench.interventions.vectors import letter_prompts
from caa_bench.models.model import ChatModel
from caa_bench.models.prompts import ChoicePrompt, Prompt, chat_prompt, choice_prompt

BEHAVIOR = "corrigible-neutral-HHH"
LAYERS = 8
SWEEPS = {
    "8 layers x 2 doses, 10 items": ((-1.0, 1.0), 10),
    "8 layers x 4 doses, 30 items": ((-2.0, -1.0, 1.0, 2.0), 30),
}
PART = {"items": 3, "conditions": 4}
"""How much of a sweep the plain loop and batched recompute are run on."""
PAIRS, LORA_PAIRS = 10, 4
OPEN, TOKENS, MULTIPLIERS = 4, 12, (-2.0, -1.5, -1.0, 0.5, 1.0, 1.5, 2.0)

Found = dict[str, Any]
Conditions = Sequence[Sequence[Edit]]


def measured(method: Callable[[], Any]) -> tuple[float, float, Any]:
    """CPU seconds, MiB of resident memory above what was there before, and what the method gives."""
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start = time.process_time()
    result = method()
    return time.process_time() - start, max(0.0, resident("VmHWM") - before), result


def sweep(chat: ChatModel, behavior: Behavior) -> Found:
    """The unsteered model and every layer x dose on test items in both orders: ours whole, the others in part."""
    return {name: _swept(chat, behavior, *how) for name, how in SWEEPS.items()}


def _swept(chat: ChatModel, behavior: Behavior, doses: Sequence[float], items: int) -> Found:
    prompts = _test_prompts(chat, behavior, items)
    conditions = _conditions(chat.model, doses)
    seconds, memory, mine = measured(partial(_ours, chat.model, prompts, conditions))
    few = list(range(0, len(prompts), max(1, len(prompts) // PART["items"])))[: PART["items"]]
    some = list(range(0, len(conditions), max(1, len(conditions) // PART["conditions"])))[: PART["conditions"]]
    part = [prompts[row] for row in few], [conditions[column] for column in some]
    tokens = sum(len(prompt.ids) for prompt in prompts) / sum(len(prompt.ids) for prompt in part[0])
    scale = tokens * len(conditions) / len(some)
    found: Found = {"conditions": len(conditions), "prompts": len(prompts), "scale": scale}
    found |= {"ours": seconds, "memory": {"ours": memory}, "times": {}, "greatest difference": {}}
    for name, method in {
        "plain loop, all logits": partial(peers.plain_loop, chat.model, *part, all_positions=True),
        "plain loop, last logits": partial(peers.plain_loop, chat.model, *part, all_positions=False),
        "batched recompute": partial(peers.batched_recompute, chat.model, *part),
    }.items():
        seconds, memory, log_odds = measured(method)
        found[name], found["memory"][name] = seconds * scale, memory
        found["times"][name] = found[name] / found["ours"]
        found["greatest difference"][name] = float((log_odds - mine[few][:, some]).abs().max())
    return found


def extraction(chat: ChatModel, behavior: Behavior) -> Found:
    """Vectors of all layers from the first training pairs, beside one full pass for each letter."""
    prompts = letter_prompts(chat.tokenizer, behavior.pairs())[:PAIRS]

    def engine() -> torch.Tensor:
        found = letter_activations(chat.model, prompts)
        return (found[:, 0] - found[:, 1]).mean(0)

    return _beside({"ours": engine, "two plain passes": partial(peers.two_pass_extraction, chat.model, prompts)}, PAIRS)


def generation(chat: ChatModel, behavior: Behavior) -> Found:
    """Greedy answers to open questions at seven multipliers together, beside `model.generate` one after another."""
    prompts = [_chat_prompt(chat, item.question) for item in behavior.open_ended[:OPEN]]
    layer = chat.model.config.num_hidden_layers // 2
    vector = _vector(chat.model, layer)
    conditions = [[Edit(layer, Add(vector * multiplier))] for multiplier in MULTIPLIERS]

    def engine() -> list[list[list[int]]]:
        rows = generate(chat.model, prompts, conditions, max_new_tokens=TOKENS, stop_ids=())
        return [[list(row[c].ids) for row in rows] for c in range(len(conditions))]

    other = partial(peers.hugging_face_generate, chat.model, prompts, conditions, tokens=TOKENS)
    return _beside({"ours": engine, "generate, one after another": other}, len(prompts) * len(conditions) * TOKENS)


def lora_fit(chat: ChatModel, behavior: Behavior) -> Found:
    """A fit with the defaults on a few pairs, beside trl's SFTTrainer alone on the same rows, model and settings."""
    pairs = behavior.pairs()[:LORA_PAIRS]
    lora = LoraSFT()
    rows = [training_row(chat.tokenizer, pair, target=lora.config.target, positive=True) for pair in pairs]
    bare_sft(chat.model, chat.tokenizer, rows[:1], lora.config)  # imports, outside of both timings
    return _beside(
        {
            "ours": partial(lora.fit, chat.model, chat.tokenizer, pairs),
            "bare SFTTrainer": partial(bare_sft, chat.model, chat.tokenizer, rows, lora.config),
        },
        LORA_PAIRS,
    )


def _beside(methods: dict[str, Callable[[], Any]], count: int) -> Found:
    """Seconds, memory, ratios to ours, and whether or how far the results differ."""
    found: Found = {"count": count, "seconds": {}, "memory": {}, "times": {}}
    results = {}
    for name, method in methods.items():
        found["seconds"][name], found["memory"][name], results[name] = measured(method)
        found["times"][name] = found["seconds"][name] / found["seconds"]["ours"]
    mine, other = results.values()
    if isinstance(mine, torch.Tensor):
        found["greatest difference"] = float((mine - other).abs().max())
    elif mine is not None:
        found["identical"] = mine == other
    return found


@torch.no_grad()
def _ours(model: Any, prompts: Sequence[ChoicePrompt], conditions: Conditions) -> torch.Tensor:
    logits = score(model, prompts, conditions).logits
    return logits[..., 0] - logits[..., 1]


def _conditions(model: Any, doses: Sequence[float]) -> list[list[Edit]]:
    """The unsteered model, then LAYERS layers, evenly spread, at each dose."""
    count = model.config.num_hidden_layers
    layers = [layer * count // LAYERS for layer in range(LAYERS)]
    return [[], *([Edit(layer, Add(_vector(model, layer) * dose))] for layer in layers for dose in doses)]


def _vector(model: Any, layer: int) -> torch.Tensor:
    """Any direction will do for timing; the same one every time. [D]"""
    generator = torch.Generator().manual_seed(layer)
    return torch.randn(model.config.hidden_size, generator=generator) * 0.3


def _test_prompts(chat: ChatModel, behavior: Behavior, items: int) -> list[ChoicePrompt]:
    asked = [variant for item in behavior.test[:items] for variant in variants(item, protocol="default")]
    return [
        choice_prompt(chat.tokenizer, [{"role": "user", "content": variant.question}], variant.letters)
        for variant in asked
    ]


def _chat_prompt(chat: ChatModel, question: str) -> Prompt:
    return chat_prompt(chat.tokenizer, [{"role": "user", "content": question}])


SECTIONS = {"sweep": sweep, "extraction": extraction, "generation": generation, "lora_fit": lora_fit}


def main() -> None:
    """Run the chosen sections; each is written down as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder that transformers loads")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="some sections; the others keep their last results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    behavior = load_behavior(BEHAVIOR, data="caa", data_dir=DATA / "caa")
    chat = ChatModel.find(arguments.model, changes={"dtype": "float32"})
    path = ROOT / "benchmarks" / REAL
    results: Found = json.loads(path.read_text()) if path.exists() and arguments.only else {}
    weights = sum(weight.numel() * weight.element_size() for weight in chat.model.parameters())
    results |= {"model": Path(arguments.model).name, "weights": weights, "machine": machine(), "behavior": BEHAVIOR}
    _ours(chat.model, _test_prompts(chat, behavior, 1)[:1], _conditions(chat.model, (1.0,))[:2])  # pages the weights in
    for name in arguments.only or SECTIONS:
        results[name] = SECTIONS[name](chat, behavior)
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {json.dumps(results[name], indent=1)}", flush=True)
    if (ROOT / "benchmarks" / "results-cpu.json").exists():
        write(ROOT, json.loads((ROOT / "benchmarks" / "results-cpu.json").read_text()))


if __name__ == "__main__":
    sys.exit(main())
