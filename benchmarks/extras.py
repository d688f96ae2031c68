"""Peak memory of each way to score a sweep, and LoRA's fit time against a bare SFTTrainer."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import peers
from benchmarks.subject import DATA, Settings, Subject, build, published
from benchmarks.timing import interleaved, ratio

PAIRS = 64
TEMPLATE = "{% for m in messages %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' if m['role'] == 'user' else ' ' + m['content'] }}{% endfor %}"  # noqa: E501


def memory(subject: Subject, settings: Settings) -> dict[str, Any]:
    """MiB above the loaded model while scoring every layer x (-1, 1) on 50 items; a process for each way."""
    if settings.device != "cpu":
        return {name: _peak_on_gpu(subject, name) for name in ("ours", "a", "b")}
    found = {}
    for name in ("ours", "a", "b"):
        command = [sys.executable, "-m", "benchmarks.extras", name, json.dumps(asdict(settings))]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def lora_fit(subject: Subject, settings: Settings) -> dict[str, Any]:
    """Seconds to fit our LoRA on 64 pairs, against trl's SFTTrainer alone on the same rows, model and settings."""
    if not published():
        return {"not measured": "needs the published data and the Llama 2 tokenizer"}
    from transformers import AutoTokenizer

    from caa_bench.behaviors.behavior import load_behavior
    from caa_bench.interventions import LoraSFT
    from caa_bench.interventions.lora.rows import training_row

    tokenizer = AutoTokenizer.from_pretrained(DATA / "llama2-tokenizer")
    tokenizer.chat_template, tokenizer.pad_token_id = TEMPLATE, 0
    pairs = load_behavior("refusal", data="caa", data_dir=DATA / "caa", protocol="caa").pairs()[:PAIRS]
    lora = LoraSFT()
    rows = [training_row(tokenizer, pair, target=lora.config.target, positive=True) for pair in pairs]
    timed = interleaved(
        {
            "ours": partial(lora.fit, subject.model, tokenizer, pairs),
            "bare SFTTrainer": partial(bare_sft, subject.model, tokenizer, rows, lora.config),
        },
        min(3, settings.repetitions),
        clock=settings.clock,
    )
    return {
        "seconds": {name: one.median for name, one in timed.items()},
        "ours over bare": ratio(timed["ours"], timed["bare SFTTrainer"]),
    }


def bare_sft(model: Any, tokenizer: Any, rows: list[dict[str, list[int]]], config: Any) -> None:
    """What a user would write by hand, on pre-tokenized rows."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from trl import SFTConfig, SFTTrainer

    wrapped = get_peft_model(model, LoraConfig(r=config.rank, lora_alpha=config.alpha, task_type="CAUSAL_LM"))
    with tempfile.TemporaryDirectory() as scratch:
        args = SFTConfig(
            output_dir=scratch, num_train_epochs=config.epochs, per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate, max_length=None, use_cpu=model.device.type == "cpu", bf16=False,
            gradient_checkpointing=False, save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
        )  # fmt: skip
        data = Dataset.from_list(rows)
        SFTTrainer(model=wrapped, args=args, train_dataset=data, processing_class=tokenizer).train()
    wrapped.unload()


def _way(subject: Subject, name: str) -> Any:
    from benchmarks.sections import ours

    ways = {"ours": partial(ours, subject), "a": partial(peers.plain_loop, subject.model, all_positions=True)}
    return ways.get(name, partial(peers.batched_recompute, subject.model))


def _peak_on_gpu(subject: Subject, name: str) -> float:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _run(subject, name)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _run(subject: Subject, name: str) -> None:
    # The loop's memory is that of one forward, whatever the number of conditions
    conditions = subject.sweep()[:2] if name != "ours" else subject.sweep()
    _way(subject, name)(subject.test, conditions)


def resident(key: str) -> float:
    """MiB, from the kernel: VmRSS is now, VmHWM the highest since it was reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def main() -> None:
    """`python -m benchmarks.extras WAY SETTINGS`: one process, one way, one number."""
    settings = Settings(**json.loads(sys.argv[2]))
    torch.set_num_threads(settings.threads)
    subject = build(settings)
    _way(subject, sys.argv[1])(subject.test[:1], subject.sweep()[:2])
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    _run(subject, sys.argv[1])
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main()
