"""A model in slices: the numbers of one process, whatever computes them, and what ends one rank ends all."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_tokenizers import chatml_tokenizer
from method_settings import write_both
from random_models import random_model
from safetensors.torch import load_file
from small_runs import TIMEOUT_S, Command, Small, manifest, run, start

from caa_bench.__main__ import main

TOKENS = 8
SCORES = 1e-5
"""So far may a log-odds or a logit be from that of one process."""
ARMS = (
    "bases=[none, system_prompt_positive, lora_sft_positive]",
    "lora_sft.target_modules=all-linear",  # of which some are cut along their outputs, some along their inputs
    "evaluators=[answer_probability, open_ended]",
    f"open_ended.max_new_tokens={TOKENS}",
    "open_ended.judges=[length]",
    "report_to=[]",
    "draws=9",
)


SHORT = ("bases=[none, system_prompt_positive]", "batch_size=2", "limit=16", "draws=9")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "caa_bench")
CROOKED = """
import os
import torch
from caa_bench import Intervention
from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit

class Crooked(Intervention):
    name = "crooked"

    def edits(self, condition):
        return [Edit(1, Add(torch.full((32,), 0.1 * (1 + int(os.environ["RANK"])))))]
"""
LENGTH = """
from caa_bench.judges import Judge, Judgement

class Length(Judge):
    name = "length"

    def judge(self, asked, *, behavior, chat):
        for place, one in enumerate(asked):
            yield place, Judgement(score=min(1.0, len(one.text) / 100), reply="")
"""
BROKEN = """
from caa_bench import Intervention

class Broken(Intervention):
    name = "broken"
    role = "vector"

    def edits(self, condition):
        raise ArithmeticError("no edits")
"""


@pytest.fixture(scope="module", params=["llama", pytest.param("qwen2", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of three blocks, four heads and two key-value heads, and biases in one family."""
    return write_model(tmp_path_factory.mktemp("model") / request.param, request.param)


def write_model(folder: Path, family: str, **changes: Any) -> Path:
    tokenizer = chatml_tokenizer()
    random_model(family, layers=3, hidden=32, vocab=len(tokenizer), **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ranks(argv: Sequence[str], *, folder: Path, count: int = 2, **known: str) -> list[Command]:
    """The command on so many ranks, as torchrun starts them; each has a working folder of its own, `0`, `1`, ...

    Args:
        known: more of the environment.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    known |= {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        start(
            [*argv, "loading.parallel=tensor"],
            folder=folder / str(n),
            env=known | {"RANK": str(n), "LOCAL_RANK": str(n)},
        )
        for n in range(count)
    ]


def numbers(folder: Path) -> tuple[list[dict[str, Any]], list[float]]:
    """A run's rows without keys and numbers, and its numbers in order; of an answer the mean of a token."""
    found: list[float] = []

    def plain(value: Any, *, share: float = 1.0) -> Any:
        if isinstance(value, float):
            found.append(share * value)
            return "number"
        if isinstance(value, Mapping):
            kept = {key: one for key, one in value.items() if key not in ("batch", "cell", "sha256")}
            return {key: plain(one, share=1 / TOKENS if "log_prob" in key else 1) for key, one in kept.items()}
        return [plain(one) for one in value] if isinstance(value, list) else value

    rows = [plain(json.loads(line)) for line in (folder / "rows.jsonl").read_text().splitlines()]
    return rows, found


def verdicts(folder: Path) -> list[str]:
    """The words of every line of the stacking table."""
    with (folder / "stacking.csv").open() as file:
        return [line["verdict"] for line in csv.DictReader(file)]


def same_numbers(one: Path, other: Path, *, within: float = SCORES) -> None:
    (rows, values), (other_rows, other_values) = numbers(one), numbers(other)
    assert rows == other_rows and len(rows) > 20
    assert max(abs(a - b) for a, b in zip(values, other_values, strict=True)) < within
    assert verdicts(one) == verdicts(other) != []


@pytest.fixture(scope="module")
def llama(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of a comparison in one process, on the small model: none and CAA, four batches or more."""
    folder = tmp_path_factory.mktemp("llama")
    assert run(small.compare(*SHORT), folder=folder) == 0
    return folder


def ended_well(first: Command, *others: Command) -> None:
    codes = [one.wait() for one in (first, *others)]
    assert codes == [0] * len(codes), first.stderr() + "".join(one.stderr() for one in others)


def test_two_ranks_give_the_numbers_of_one_process(small: Small, model: Path, tmp_path: Path) -> None:
    """A vector that all ranks fit, a LoRA that one process fitted, options and answers in words."""
    (tmp_path / "length.py").write_text(LENGTH)
    command = small.compare(f"model={model}", f"plugins=[{tmp_path / 'length.py'}]", *ARMS)
    assert run(command, folder=tmp_path / "one") == 0, (tmp_path / "one/stderr.txt").read_text()
    kept = tmp_path / "0/runs/artifacts"
    (lora,) = (path for path in (tmp_path / "one/runs/artifacts").glob("lora_sft_positive-*") if path.is_dir())
    shutil.copytree(lora, kept / lora.name)
    first, second = ranks(command, folder=tmp_path)
    ended_well(first, second)
    same_numbers(tmp_path / "one/run", tmp_path / "0/run")
    assert len(list(kept.glob("caa-*/artifact.json"))) == 1
    assert {path.name for path in (tmp_path / "1").iterdir()} == {"stdout.txt", "stderr.txt"}, "rank 1 wrote something"
    assert second.stdout() == second.stderr() == ""


@pytest.mark.slow
def test_a_rank_that_dies_ends_all_and_the_same_command_goes_on(small: Small, llama: Path, tmp_path: Path) -> None:
    first, second = ranks(small.compare(*SHORT), folder=tmp_path)
    first.until(lambda: (tmp_path / "0/run/rows.jsonl").exists())
    second.send(signal.SIGKILL)
    assert first.wait() == 1
    assert "a rank has ended" in first.stderr() and "run the same command again" in first.stderr()
    assert manifest(tmp_path / "0/run")["status"] == "cancelled"
    done = (tmp_path / "0/run/rows.jsonl").read_bytes()
    ended_well(*ranks(small.compare(*SHORT), folder=tmp_path))
    assert (tmp_path / "0/run/rows.jsonl").read_bytes().startswith(done) and len(done) > 0
    same_numbers(llama / "run", tmp_path / "0/run")


@pytest.mark.slow
def test_a_stop_ends_all_ranks_after_the_batch_at_hand(small: Small, llama: Path, tmp_path: Path) -> None:
    """SIGTERM, as torchrun sends it to every rank; twice at once is still the first, where torchrun hands it on."""
    first, second = ranks(small.compare(*SHORT), folder=tmp_path, TORCHELASTIC_RUN_ID="none")
    first.until(lambda: (tmp_path / "0/run/rows.jsonl").exists())
    for one in (first, second, first, second):
        one.send(signal.SIGTERM)
    assert (first.wait(), second.wait()) == (143, 0)
    assert "nothing is lost" in first.stderr()
    ended_well(*ranks(small.compare(*SHORT), folder=tmp_path))
    same_numbers(llama / "run", tmp_path / "0/run")


def test_ranks_that_compute_something_else_end_the_run(small: Small, tmp_path: Path) -> None:
    """What every rank makes of its own part of the logits would hide that they stand on another state."""
    plugin = tmp_path / "crooked.py"
    plugin.write_text(CROOKED)
    command = small.compare(*SHORT, f"plugins=[{plugin}]", "bases=[crooked]")
    first, second = ranks(command, folder=tmp_path)
    assert (first.wait(), second.wait()) == (1, 1)
    assert "rank 1 computed something else than rank 0" in first.stderr()
    assert not (tmp_path / "0/run/report.html").exists()


@pytest.mark.slow
def test_an_arm_that_fails_on_all_ranks_fails_alone(small: Small, tmp_path: Path) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN)
    first, second = ranks(small.compare(*SHORT, f"plugins=[{plugin}]", "vectors=[caa, broken]"), folder=tmp_path)
    assert (first.wait(), second.wait()) == (0, 0), first.stderr()
    assert "broken failed alone" in first.stderr()
    rows = [json.loads(line) for line in (tmp_path / "0/run/rows.jsonl").read_text().splitlines()]
    assert {bool(row.get("error")) for row in rows if "cell" in row} == {True, False}


@pytest.mark.parametrize(
    ("settings", "count", "said"),
    [
        ([], 1, "tensor needs several processes; start it with torchrun"),
        (["loading.quantization=4bit"], 2, "quantized weights are not cut into slices"),
        (["loading.adapter=mine"], 2, "an adapter in the weights is not cut into slices"),
        ([], 3, "3 ranks cannot share 4 attention heads and 2 key-value heads evenly; start 2 of them"),
        (["vectors=[iti]"], 2, "iti: it reads and changes attention heads"),
        (["bases=[none, full_sft_positive]"], 2, "full_sft: it changes whole weights"),
        (["bases=[none, peft_positive]", "peft.method=ia3"], 2, "peft.method: peft cuts no IA3 into slices"),
        (["bases=[none, lora_sft_positive, dpo_negative]"], 2, "lora_sft_positive, dpo_negative cannot be trained in"),
        (["bases=[none, contrastive_lora]"], 2, "lora_sft_positive, lora_sft_negative cannot be trained in slices"),
        (["evaluators=[open_ended]", "open_ended.judges=[model]"], 2, "a model in slices (loading.parallel) cannot"),
    ],
)
def test_what_cannot_be_costs_one_line_before_a_model_loads(
    small: Small,
    settings: list[str],
    count: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", str(count))
    monkeypatch.setattr("caa_bench.models.loading._loaded", lambda chat: pytest.fail("it loads"))
    assert main(small.compare("bases=[none]", *settings, "loading.parallel=tensor")) == 2
    lines = capsys.readouterr().err
    assert said in lines and lines.count("\n") == 1


def test_models_that_cannot_be_cut_cost_one_line(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for family, changes, said in [
        ("gpt2", {}, "no tensor-parallel plan for 'gpt2', as it has for llama, mistral,"),
        ("llama", {"num_key_value_heads": 1}, "4 attention heads and 1 key-value heads evenly; use loading.device_map"),
    ]:
        folder = write_model(tmp_path / family, family, **changes)
        assert main(small.compare(f"model={folder}", "bases=[none]", "loading.parallel=tensor")) == 2
        lines = capsys.readouterr().err
        assert said in lines.splitlines()[-1]
    (tmp_path / "model.gguf").touch()
    assert main(small.compare(f"model={tmp_path / 'model.gguf'}", "bases=[none]", "loading.parallel=tensor")) == 2
    assert "a .gguf file is not read in slices" in capsys.readouterr().err


def test_other_commands_and_copies_refuse_a_model_in_slices(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    settings = [*small.settings("bases=[none]"), "loading.parallel=tensor"]
    assert main(["analyze", *settings]) == 2
    assert "loading.parallel: tensor is there in compare, sweep, fit and tune" in capsys.readouterr().err
    monkeypatch.setattr("caa_bench.runs.lockstep.Lockstep.__enter__", lambda self: self)
    monkeypatch.setattr("caa_bench.runs.lockstep.Lockstep.__exit__", lambda self, *_: None)
    assert main(["compare", "--replicas", "2", *settings]) == 2
    assert "--replicas: a model in slices (loading.parallel) has no copies" in capsys.readouterr().err


@pytest.mark.slow
def test_torchrun_itself(small: Small, llama: Path, tmp_path: Path) -> None:
    """As a user starts it; a second time there is nothing left to compute, and a dry run ends on every rank."""
    command = [*small.compare(*SHORT), "loading.parallel=tensor"]
    for more in ([], [], ["--dry-run"]):
        done = torchrun([*command, *more], folder=tmp_path)
        assert done.returncode == 0, done.stderr
    assert done.stdout.count("cells") > 0
    same_numbers(llama / "run", tmp_path / "run")
    refused = torchrun(small.compare(*SHORT, "seed=1"), folder=tmp_path)
    assert refused.returncode == 1 and refused.stderr.count("a run is one process") == 1


@pytest.mark.slow
def test_ctrl_c_reaches_torchrun_and_its_ranks(small: Small, llama: Path, tmp_path: Path) -> None:
    """A terminal sends it to all of them, and torchrun once more to each rank: the batch at hand is finished."""
    command = [*TORCHRUN, *small.compare(*SHORT), "loading.parallel=tensor"]
    with (tmp_path / "said").open("w") as said:
        started = subprocess.Popen(command, cwd=tmp_path, stderr=said, stdout=said, start_new_session=True)
    limit = time.monotonic() + TIMEOUT_S
    while not (tmp_path / "run/rows.jsonl").exists() and time.monotonic() < limit:
        time.sleep(0.01)
    os.killpg(started.pid, signal.SIGINT)
    assert started.wait(60) != 0
    assert "nothing is lost: run the same command again" in (tmp_path / "said").read_text()
    assert manifest(tmp_path / "run")["status"] == "cancelled"
    assert torchrun([*small.compare(*SHORT), "loading.parallel=tensor"], folder=tmp_path).returncode == 0
    same_numbers(llama / "run", tmp_path / "run")


@pytest.mark.slow
def test_every_vector_of_all_ranks_is_that_of_one_process(small: Small, tmp_path: Path) -> None:
    """Gradients through the slices included (bipo), and placebos that share what was read of the pairs."""
    names = "act_add, ablation, angular, bipo, caa, conditional, icv, logistic, mean_centring, pca_centred, repe_pca"
    behavior = write_both(tmp_path / "behaviors")
    command = small.compare(
        *SHORT, f"vectors=[{names}]", f"behavior={behavior}", "conditional.others=[other]", "limit=8"
    )
    assert run(command, folder=tmp_path / "one") == 0, (tmp_path / "one/stderr.txt").read_text()
    ended_well(*ranks(command, folder=tmp_path))
    for file in (tmp_path / "one/runs/artifacts").glob("*/*.safetensors"):
        one, other = load_file(file), load_file(tmp_path / "0/runs/artifacts" / file.parent.name / file.name)
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-4, msg=f"{file.parent.name} {key}")
    same_numbers(tmp_path / "one/run", tmp_path / "0/run", within=1e-4)


@pytest.mark.slow
def test_adapters_of_all_kinds_that_can_be_cut(small: Small, model: Path, tmp_path: Path) -> None:
    bases = "bases=[none, given, peft_positive, contrastive_lora, dpo_positive]"
    one = small.compare(f"model={model}", *ARMS[1:2], *SHORT, "peft.method=rslora", "peft.target_modules=all-linear")
    assert run([*one, "bases=[none, lora_sft_positive]"], folder=tmp_path / "lora") == 0
    (lora,) = (path for path in (tmp_path / "lora/runs/artifacts").glob("lora_sft_positive-*") if path.is_dir())
    one += [bases, f"arms={{given: {{uses: adapter, path: {lora}}}}}"]
    assert run(one, folder=tmp_path / "one") == 0, (tmp_path / "one/stderr.txt").read_text()
    shutil.copytree(tmp_path / "one/runs/artifacts", tmp_path / "0/runs/artifacts")
    ended_well(*ranks(one, folder=tmp_path))
    same_numbers(tmp_path / "one/run", tmp_path / "0/run")


@pytest.mark.slow
def test_half_precision_keeps_a_float32_head(small: Small, tmp_path: Path) -> None:
    command = small.compare(*SHORT, "loading.dtype=bfloat16")
    assert run(command, folder=tmp_path / "one") == 0
    ended_well(*ranks(command, folder=tmp_path))
    same_numbers(tmp_path / "one/run", tmp_path / "0/run", within=0.1)
    _, values = numbers(tmp_path / "0/run")
    assert any(float(torch.tensor(value).bfloat16()) != value for value in values)


@pytest.mark.slow
def test_the_embedded_model_in_slices(tmp_path: Path) -> None:
    command = ["compare", "--output", "run", "model=tiny", "behavior=refusal", "report_to=[]"]
    command += ["bases=[none, system_prompt_positive]", "draws=9", "limit=20", "evaluators=[answer_probability]"]
    assert run(command, folder=tmp_path / "one") == 0
    ended_well(*ranks(command, folder=tmp_path))
    same_numbers(tmp_path / "one/run", tmp_path / "0/run", within=1e-4)


def torchrun(argv: Sequence[str], *, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TORCHRUN, *argv], cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
