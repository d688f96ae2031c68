"""Vectors, log-odds and the LoRA loss equal a plain script's; on real models a killed run ends in the same bytes.

The script below knows transformers and peft alone: prompts written out, one at a time, forward hooks, a training loop.

    CAA_BENCH_REAL_MODELS=/my/models pytest -m slow tests/test_real_models.py    # with qwen05/ and gemma270/ in there
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_tokenizers import chatml_tokenizer, llama2_tokenizer
from published import DATA, needs_data
from random_models import random_model
from real_models import real_model
from small_behavior import write_behavior
from small_runs import contents, run, start

from caa_bench.__main__ import main
from caa_bench.behaviors.behavior import Pairs, load_behavior
from caa_bench.engine.score import score
from caa_bench.interventions import CAA, Condition, LoraSFT
from caa_bench.interventions.held_out import split_held_out
from caa_bench.models.model import ChatModel
from caa_bench.models.prompts import choice_prompt

BEHAVIOR = "corrigible-neutral-HHH"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model as the harness sees it, and its prompts written out by hand.

    Args:
        before / after: what stands around the question, up to right before the answer.
        steered: how many tokens of the prompt, up to right before the letter's token, are steered.
        encode: text -> token ids, none added.
        pairs: a few contrast pairs.
        layers: where log-odds are looked at.
        size: of the vector that is added there, in units of itself.
    """

    model: Any
    tokenizer: Any
    before: str
    after: str
    steered: int
    encode: Callable[[str], list[int]]
    pairs: Pairs
    layers: tuple[int, int]
    size: float = 1.0
    rate: float = 5e-4

    def ids(self, question: str, answer: str) -> list[int]:
        """The prompt and the answer up to its letter, "(A"."""
        return self.encode(self.before + question.strip() + self.after + answer.removesuffix(")"))


def chatml(folder: Path) -> Subject:
    tokenizer = chatml_tokenizer()
    return Subject(
        model=random_model("qwen2", hidden=32, vocab=len(tokenizer)),
        tokenizer=tokenizer,
        before="<|im_start|>user\n",
        after="<|im_end|>\n<|im_start|>assistant\n",
        steered=1,
        encode=lambda text: tokenizer(text, add_special_tokens=False)["input_ids"],
        pairs=load_behavior(write_behavior(folder / "small")).pairs(),
        layers=(1, 2),
        size=8.0,
        rate=0.01,
    )


def llama2(folder: Path) -> Subject:
    tokenizer = llama2_tokenizer()
    from chat_tokenizers import LLAMA2
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(LLAMA2))
    return Subject(
        model=random_model("llama", hidden=32, vocab=32000),
        tokenizer=tokenizer,
        before="[INST] ",
        after=" [/INST] ",
        steered=2,
        encode=lambda text: [1, *pieces.encode(text)],
        pairs=load_behavior(write_behavior(folder / "small")).pairs(),
        layers=(1, 2),
        size=8.0,
        rate=0.01,
    )


def published_pairs() -> Pairs:
    if not DATA.is_dir():
        pytest.skip(f"needs the published data at {DATA}")
    return load_behavior(BEHAVIOR, data="caa", data_dir=DATA, protocol="caa", max_pairs=10).pairs()


def qwen05(folder: Path) -> Subject:
    chat = ChatModel.find(str(real_model("qwen05")), changes={"dtype": "float32"})
    system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    return Subject(
        model=chat.model,
        tokenizer=chat.tokenizer,
        before=f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n",
        after="<|im_end|>\n<|im_start|>assistant\n",
        steered=1,
        encode=lambda text: chat.tokenizer(text, add_special_tokens=False)["input_ids"],
        pairs=published_pairs(),
        layers=(10, 14),
    )


def gemma270(folder: Path) -> Subject:
    chat = ChatModel.find(str(real_model("gemma270")), changes={"dtype": "float32"})
    return Subject(
        model=chat.model,
        tokenizer=chat.tokenizer,
        before="<bos>Input: ",
        after="\nResponse: ",
        steered=2,
        encode=lambda text: chat.tokenizer(text, add_special_tokens=False)["input_ids"],
        pairs=published_pairs(),
        layers=(7, 10),
    )


MADE = {"chatml": chatml, "llama2": llama2, "qwen05": qwen05, "gemma270": gemma270}


@pytest.fixture(
    scope="module",
    params=["chatml", "llama2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen05", "gemma270"))],
)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """One after another; the module keeps one at a time."""
    made: Subject = MADE[request.param](tmp_path_factory.mktemp(request.param))
    return made


@torch.no_grad()
def plain_outputs(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Every block's output at the last token. [L, D]"""
    seen: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda _m, _a, out: seen.append(out[0, -1])) for block in model.model.layers]
    try:
        model(torch.tensor([ids]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(seen)


@torch.no_grad()
def plain_log_odds(
    subject: Subject, question: str, answers: tuple[str, str], *, layer: int, added: torch.Tensor
) -> float:
    """logit(first answer's letter) - logit(second's), with a vector added from the instruction's end on."""
    first, second = (subject.ids(question, answer) for answer in answers)
    prompt = first[:-1]
    assert prompt == second[:-1], "the answers differ in their last token alone"

    def add(_module: Any, _args: Any, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[:, len(prompt) - subject.steered :] += added
        return out

    hook = subject.model.model.layers[layer].register_forward_hook(add)
    try:
        logits = subject.model(torch.tensor([prompt]), use_cache=False).logits[0, -1]
    finally:
        hook.remove()
    return float(logits[first[-1]] - logits[second[-1]])


def plain_losses(subject: Subject, trained: Sequence[Any], held_out: Sequence[Any], *, steps: int) -> list[float]:
    """The held-out loss after each step of a LoRA on queries and values: AdamW, rate falling to 0, all rows a step."""
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    def loss(rows: Sequence[Any], model: Any) -> torch.Tensor:
        found = []
        for pair in rows:
            ids = subject.ids(pair.question, pair.matching)
            logits = model(input_ids=torch.tensor([ids[:-1]]), use_cache=False).logits[:, -1]
            found.append(torch.nn.functional.cross_entropy(logits.float(), torch.tensor(ids[-1:])))
        return torch.stack(found).mean()

    set_seed(0)
    model = get_peft_model(subject.model, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=subject.rate, weight_decay=0.0)
    found = []
    try:
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = subject.rate * (1 - step / steps)
            loss(trained, model).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                found.append(float(loss(held_out, model)))
    finally:
        model.unload()
        for weight in subject.model.parameters():
            weight.requires_grad_(True)
    return found


def test_vectors_equal_a_plain_script(subject: Subject) -> None:
    caa, pairs = CAA(), subject.pairs[:4]
    caa.fit(subject.model, subject.tokenizer, pairs)
    total = torch.zeros_like(caa.fitted(), dtype=torch.float64)
    for pair in pairs:
        for answer, sign in ((pair.matching, 1), (pair.other, -1)):
            total += sign * plain_outputs(subject.model, subject.ids(pair.question, answer)).double()
    plain = total / len(pairs)
    apart = (caa.fitted().double() - plain).norm(dim=-1) / plain.norm(dim=-1)
    assert plain.norm(dim=-1).min() > 0
    assert apart.max() < 1e-4


def test_log_odds_equal_a_plain_script(subject: Subject) -> None:
    caa, pairs = CAA(), subject.pairs[:3]
    caa.fit(subject.model, subject.tokenizer, pairs)
    grid = [(layer, sign * subject.size) for layer in subject.layers for sign in (-1, 0, 1)]
    edits = [caa.edits(Condition(layer=layer, multiplier=multiplier)) or [] for layer, multiplier in grid]
    prompts = [
        choice_prompt(
            subject.tokenizer, [{"role": "user", "content": pair.question}], (pair.matching[1], pair.other[1])
        )
        for pair in pairs
    ]
    logits = score(subject.model, prompts, edits).logits
    found = logits[..., 0] - logits[..., 1]
    plain = torch.tensor(
        [
            [
                plain_log_odds(
                    subject,
                    pair.question,
                    (pair.matching, pair.other),
                    layer=layer,
                    added=multiplier * caa.fitted()[layer],
                )
                for layer, multiplier in grid
            ]
            for pair in pairs
        ]
    )
    assert (found - plain).abs().max() < 1e-4
    assert (plain[:, 0] - plain[:, 2]).abs().max() > 0.01, "steering moves them at all"


def test_the_lora_loss_of_the_first_steps_equals_a_plain_loop(subject: Subject) -> None:
    """Every step takes all rows, so that their order is none of the comparison's business."""
    steps = 2
    trained, held_out = split_held_out(subject.pairs, seed=0)
    lora = LoraSFT(epochs=steps, batch_size=len(trained), learning_rate=subject.rate)
    lora.fit(subject.model, subject.tokenizer, subject.pairs)
    found = lora.training["held_out_loss"]
    plain = plain_losses(subject, trained, held_out, steps=steps)
    assert held_out
    assert found == pytest.approx(plain, rel=1e-4)
    assert abs(plain[1] - plain[0]) > 1e-3 * plain[0], "the second step moves it"


def test_no_position_but_the_answer_goes_through_the_head(tmp_path: Path) -> None:
    """With a large vocabulary a step would otherwise be the output head and little else."""
    from torch.utils.flop_counter import FlopCounterMode
    from trl.trainer import utils

    one, before = llama2(tmp_path), utils._use_triton
    with FlopCounterMode(display=False) as counter:
        LoraSFT().fit(one.model, one.tokenizer, one.pairs)
    tokens = sum(len(one.ids(pair.question, pair.matching)) for pair in one.pairs)
    head = 2 * one.model.config.hidden_size * one.model.config.vocab_size
    assert counter.get_total_flops() < tokens * head
    assert utils._use_triton is before


# --- runs on qwen05


def small_run(folder: Path, *more: str) -> list[str]:
    """Tuning, both fits, generation and judging, on a handful of pairs and items."""
    settings = {
        "model": str(real_model("qwen05")),
        "behavior": BEHAVIOR,
        "data_dir": str(DATA),
        "max_pairs": "8",
        "limit": "3",
        "bases": "[none, lora_sft_positive]",
        "vectors": "[caa]",
        "caa.layers": "[13, 14]",
        "tune": "layers",
        "evaluators": "[answer_probability, open_ended]",
        "open_ended.max_new_tokens": "8",
        "lora_sft.batch_size": "4",
        "draws": "99",
        "report_to": "[]",
    }
    settings |= dict(setting.split("=", 1) for setting in more)
    return ["compare", "--output", "run", *(f"{key}={value}" for key, value in settings.items())]


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "while LoRA trains": lambda folder: bool(list(folder.glob("runs/artifacts/.lora*/state/*"))),
    "while CAA is fitted": lambda folder: bool(list(folder.glob("runs/artifacts/.caa*/state/*"))),
    "while it tunes": lambda folder: bool(list(folder.glob("run/tuning/*.jsonl"))),
    "while it generates": lambda folder: (folder / "run/rows.jsonl").exists(),
    "while answers are judged": lambda folder: (folder / "run/judgements.jsonl").exists(),
}


@pytest.mark.slow
@needs_data
def test_a_real_run_killed_in_every_part_ends_in_the_same_bytes(tmp_path: Path) -> None:
    # So many pairs that a LoRA is kept in between, which happens every half a minute
    command = small_run(tmp_path, "max_pairs=60")
    assert run(command, folder=tmp_path / "whole") == 0
    survived = []
    for moment, reached in MOMENTS.items():
        process = start(command, folder=tmp_path / "killed")
        process.until(lambda reached=reached: reached(tmp_path / "killed"))
        process.send(signal.SIGKILL)
        if process.wait() != 128 + signal.SIGKILL:
            survived.append(moment)
    assert survived == [], "it had ended before it was killed"
    assert run(command, folder=tmp_path / "killed") == 0
    for part in ("run", "runs"):
        expected, found = contents(tmp_path / "whole" / part), contents(tmp_path / "killed" / part)
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []


PEAK = """
import sys, time
from caa_bench.__main__ import main
code = main(sys.argv[1:])
print(time.process_time())
(peak,) = [int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak)
sys.exit(code)
"""


@pytest.mark.slow
@needs_data
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says the peak of a process")
def test_a_comparison_without_lora_takes_the_memory_it_may_and_the_time_the_dry_run_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At most 1.6 times the weights and 500 MB; the CPU time of one thread within a factor of 1.5 of the estimate."""
    weights = 2 * sum(
        path.stat().st_size for path in real_model("qwen05").glob("*.safetensors")
    )  # bf16 there, fp32 here
    more = ("bases=[none, system_prompt_positive]", "evaluators=[answer_probability]", "loading.dtype=float32")
    command = small_run(tmp_path, *more, "limit=10")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main([*command, "--dry-run"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("time: about")]
    number, unit = line.split()[2:4]
    estimated_s = float(number) * {"s": 1, "min": 60}[unit]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *command],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    took_s, peak = map(float, done.stdout.splitlines()[-2:])
    print(f"estimated {estimated_s:.0f} s, took {took_s:.0f} s; peak {peak / 1e9:.2f} of {weights / 1e9:.2f} GB")
    assert peak < 1.6 * weights + 500e6
    assert 1 / 1.5 < took_s / estimated_s < 1.5
