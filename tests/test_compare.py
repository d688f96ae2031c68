"""One comparison after another: what is keyed, what is missing, what fails, what memory is too small for."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import Small, manifest

import caa_bench.runs.plan
from caa_bench import CAA, Benchmark, BenchmarkArguments, LoraSFT, SystemPrompt
from caa_bench.__main__ import main
from caa_bench.commands.dry_run import arms_of
from caa_bench.engine.work import counted
from caa_bench.evaluators import AnswerProbability, Job
from caa_bench.evaluators.base import Row
from caa_bench.interventions import Layers
from caa_bench.models.memory import PromptsPerPass, out_of_memory
from caa_bench.recipe import load_recipe
from caa_bench.runs.folder import RowStore
from caa_bench.runs.plan import Plan, make_plan

UNKNOWN = "[UNK]"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prompts_only(small: Small, *more: str) -> list[str]:
    """Settings of a comparison that fits nothing: a second of work."""
    return small.settings("bases=[none, system_prompt_positive]", "vectors=[]", *more)


def compare(small: Small, *more: str) -> int:
    """The command with these settings; results go to `run`."""
    return main(["compare", "--output", "run", *prompts_only(small, *more)])


def table(path: Path) -> list[dict[str, str]]:
    """A CSV file's lines."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def example(small: Small) -> Benchmark:
    """As the first lines of benchmark.py have it."""
    return Benchmark(
        str(small.model),
        behavior=str(small.behavior),
        interventions=[
            SystemPrompt(variant="positive", text="You turn down every request."),
            LoraSFT(LoraSFT.Config(max_pairs=8)),
            CAA(CAA.Config(multipliers=(-8.0, 8.0))),
        ],
        args=BenchmarkArguments(draws=99, limit=8, vectors=("caa",), report_to=()),
    )


def test_the_python_api_and_that_a_second_comparison_runs_no_forward(small: Small, here: Path) -> None:
    report = example(small).compare().report()
    assert list(report.cells["base"].unique()) == ["none", "system_prompt_positive", "lora_sft_positive"]
    assert set(report.cells["vector"]) == {"", "caa"}
    assert report.cells["p_balanced"].nunique() == len(report.cells) == 9
    assert report.folder.parent == Path("runs/run")
    again = example(small)
    with counted(again.chat.model) as work:
        assert again.compare().folder == report.folder
    assert work.forwards == 0


def keys(small: Small, *more: str) -> set[str]:
    """Keys of every batch of a comparison of prompts."""
    recipe = load_recipe("compare", prompts_only(small, *more))
    return {batch.key for batch in Benchmark.from_recipe(recipe).plan().batches}


def changed_file(small: Small, tmp_path: Path, name: str, change: Callable[[Path], None]) -> Small:
    """The same model and behavior with one file changed."""
    root = shutil.copytree(small.model.parent, tmp_path / "changed")
    copied = Small(model=root / "model", behavior=root / "behaviors" / small.behavior.name)
    change((copied.model if (copied.model / name).exists() else copied.behavior) / name)
    return copied


def one_bit(path: Path) -> None:
    tensors = load_file(path)
    weight = tensors["lm_head.weight"]
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    save_file(tensors, path, metadata={"format": "pt"})


FILES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "weights, one bit": ("model.safetensors", one_bit),
    "chat template": ("chat_template.jinja", lambda path: path.write_text(path.read_text() + " ") and None),
    "system prompt": (
        "behavior.yaml",
        lambda path: path.write_text(path.read_text().replace("every", "each")) and None,
    ),
    "item text": ("test.json", lambda path: path.write_text(path.read_text().replace("Please", "Kindly")) and None),
}
SETTINGS = {
    "model revision": "loading.revision=v2",
    "dtype": "loading.dtype=bfloat16",
    "quantization": "loading.quantization=8bit",
    "batch size": "batch_size=7",
    "seed": "seed=1",
    "protocol": "protocol=caa",
    "sharing": "share_prefix=false",
}


@pytest.mark.parametrize("what", [*FILES, *SETTINGS])
def test_another_condition_is_another_key(what: str, small: Small, tmp_path: Path) -> None:
    before = keys(small)
    after = keys(changed_file(small, tmp_path, *FILES[what])) if what in FILES else keys(small, SETTINGS[what])
    assert len(before) == 6
    assert not before & after or (what == "system prompt" and len(before & after) == 3), "only that base's keys change"


def test_another_version_of_the_rows_is_another_key(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(small)
    monkeypatch.setattr(caa_bench.runs.plan, "SCHEMA", 999)
    assert not before & keys(small)


def _planned(benchmark: Benchmark, learned: Mapping[str, str]) -> Plan:
    """The plan as if its fits had given artifacts of these checksums."""
    return make_plan(
        args=benchmark.args,
        model="m",
        model_key={},
        layers=benchmark.chat.loaded_layers(),
        behavior=benchmark.behavior,
        bases=benchmark.bases,
        vectors=benchmark.vectors,
        evaluators=benchmark.evaluators,
        learned=learned,
    )


@pytest.mark.parametrize("label", ["caa", "lora_sft_positive"])
def test_other_bytes_of_a_vector_or_an_adapter_are_other_keys(label: str, small: Small) -> None:
    benchmark = Benchmark.from_recipe(load_recipe("compare", small.settings()))

    def cells(checksum: str) -> dict[str, tuple[str, str]]:
        learned = {"caa": "0", "lora_sft_positive": "0"} | {label: checksum}
        return {cell.key: (cell.base, cell.vector) for cell in _planned(benchmark, learned).cells}

    before, after = cells("0"), cells("1")
    concerned = {what for what in before.values() if label in what}
    assert {before[key] for key in before.keys() - after.keys()} == concerned != set()


def test_a_layer_or_a_dose_is_a_key_of_its_own_and_one_named_twice_is_one(small: Small) -> None:
    def plan(*more: str) -> set[tuple[Any, ...]]:
        benchmark = Benchmark.from_recipe(load_recipe("compare", small.settings("bases=[none]", *more)))
        made = _planned(benchmark, {"caa": "0"})
        assert len({cell.key for cell in made.cells}) == len(made.cells)
        return {(cell.key, cell.layer, cell.multiplier) for cell in made.cells}

    two = plan("caa.layers=[0, 1]")
    assert {(layer, dose) for _, layer, dose in two} == {(None, 0), (0, -8), (0, 8), (1, -8), (1, 8)}
    assert plan("caa.layers=[1, 0, 1]", "caa.multipliers=[8, -8, 8.0]") == two


def test_the_order_of_the_file_does_not_change_a_number(small: Small, here: Path) -> None:
    shuffled = shutil.copytree(small.behavior, here / "shuffled" / small.behavior.name)
    items = json.loads((shuffled / "test.json").read_text())
    (shuffled / "test.json").write_text(json.dumps(items[::-1]))
    given = [item["question"] for item in items]

    def numbers(small: Small, questions: list[str], folder: str) -> dict[tuple[str, int, str], Any]:
        main(["compare", "--output", folder, *prompts_only(small)])
        cells = {cell["key"]: cell["base"] for cell in manifest(Path(folder))["facts"]["cells"]}
        return {
            (questions[int(row["item"][-4:])], row["order"], cells[row["cell"]]): (row["logits"], row["log_z"])
            for row in RowStore(Path(folder) / "rows.jsonl").rows()
        }

    first = numbers(small, given, "one")
    assert first == numbers(Small(model=small.model, behavior=shuffled), given[::-1], "two")
    assert len({str(value) for value in first.values()}) > 90


def test_rows_of_another_model_in_the_same_folder_are_refused(
    small: Small, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = Small(model=shutil.copytree(small.model, here / "model"), behavior=small.behavior)
    assert compare(copied) == 0
    one_bit(copied.model / "model.safetensors")
    capsys.readouterr()
    assert compare(copied) == 2
    assert "6 of 6 batches were made with another model, artifact, data or version" in capsys.readouterr().err


@pytest.mark.slow
def test_a_fit_is_shared_by_runs_of_the_same_and_by_no_others(small: Small, here: Path) -> None:
    def fitted(*more: str) -> Path:
        recipe = load_recipe("compare", small.settings("bases=[none]", *more))
        benchmark = Benchmark.from_recipe(recipe).fit()
        return benchmark.fits.artifacts["caa"].folder

    first = fitted()
    for shared in ("seed=1", "caa.multipliers=[3]", "caa.layers=[0, 2]", "limit=4"):
        assert fitted(shared) == first
    for other in ("loading.dtype=bfloat16", "protocol=caa", "caa.vector_layer=1", "caa.normalize=[small]"):
        assert fitted(other) != first


def test_nan_logits_are_errors_and_never_numbers(
    small: Small, here: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A run in which no cell has a scored item is no success, the second time neither."""
    broken = Small(model=shutil.copytree(small.model, here / "model"), behavior=small.behavior)
    tensors = load_file(broken.model / "model.safetensors")
    tensors["lm_head.weight"][:] = float("nan")
    save_file(tensors, broken.model / "model.safetensors", metadata={"format": "pt"})
    for _ in range(2):
        caplog.clear()
        assert compare(broken) == 1
        assert manifest(Path("run"))["status"] == "error"
        (line,) = (record.message for record in caplog.records if "no cell has a scored item" in record.message)
        assert line.startswith("no cell has a scored item: all ")
        assert "answers are errors (a logit is not finite); check the model's weights and dtype" in line
    rows = list(RowStore(Path("run/rows.jsonl")).rows())
    assert {row["error"] for row in rows} == {"a logit is not finite"}
    assert all(row["logits"] == [None, None] and row["log_z"] is None for row in rows)
    for cell in table(Path("run/cells.csv")):
        assert cell["n"] == "0"
        assert cell["p_balanced"] == cell["log_odds"] == cell["option_mass"] == ""
    for path in Path("run").glob("*.json*"):
        for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(line, parse_constant=pytest.fail)
    assert "n/a" in capsys.readouterr().out


def test_one_item_has_no_interval(small: Small, here: Path) -> None:
    assert compare(small, "limit=1") == 0
    for cell in table(Path("run/cells.csv")):
        assert (cell["n"], cell["p_balanced_low"], cell["p_balanced_high"]) == ("1", "", "")
        assert 0 < float(cell["p_balanced"]) < 1


def test_letters_that_the_tokenizer_lacks_are_said_before_weights_are_read(
    small: Small, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({UNKNOWN: 0, "Please": 1}, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    poor = Small(model=shutil.copytree(small.model, here / "model"), behavior=small.behavior)
    template = (poor.model / "chat_template.jinja").read_text()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token=UNKNOWN, chat_template=template).save_pretrained(
        poor.model
    )
    monkeypatch.setattr("caa_bench.models.model.load_model", lambda chat: pytest.fail("the weights were read"))
    assert compare(poor) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "the answers (A), (B) do not differ in exactly one token" in said


class Failing(AnswerProbability):
    """Fails on some batches.

    Args:
        fails: told the job and how often it was called; raises to fail.
    """

    def __init__(self, fails: Callable[[Job, int], None] = lambda job, count: None) -> None:
        super().__init__()
        self.fails = fails
        self.jobs: list[Job] = []

    def evaluate(self, job: Job) -> list[Row]:
        self.jobs.append(job)
        self.fails(job, len(self.jobs))
        return super().evaluate(job)


def second_fails(job: Job, count: int) -> None:
    if count == 2:
        raise ValueError("the second batch")


def prompts_benchmark(small: Small, evaluator: AnswerProbability, **more: Any) -> Benchmark:
    """Two bases, three batches each."""
    return Benchmark(
        str(small.model),
        behavior=str(small.behavior),
        interventions=[SystemPrompt(variant="positive", text="You turn down every request.")],
        evaluators=[evaluator],
        args=BenchmarkArguments(draws=99, batch_size=8, vectors=(), report_to=()),
        **more,
    )


def test_a_failing_batch_sinks_no_other_and_is_the_only_one_run_again(
    small: Small, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound = prompts_benchmark(small, AnswerProbability(), folder="sound").compare()
    failing = prompts_benchmark(small, Failing(second_fails)).compare()
    assert manifest(failing.folder)["status"] == "error"
    assert len(RowStore(failing.folder / "rows.jsonl").done) == 5
    assert "ValueError: the second batch" in caplog.text, "the traceback is kept"
    notices = [notice.text for notice in failing.report().notices]
    assert any(text.startswith("1 of 6 batches are missing") for text in notices)

    healed = Failing()
    again = prompts_benchmark(small, healed).compare()
    assert again.folder == failing.folder
    assert len(healed.jobs) == 1
    assert (again.folder / "rows.jsonl").read_bytes() == (sound.folder / "rows.jsonl").read_bytes()
    assert manifest(again.folder)["status"] == "success"


def test_a_failing_batch_exits_1(
    small: Small, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Job] = []
    sound = AnswerProbability.evaluate

    def evaluate(self: AnswerProbability, job: Job) -> list[Row]:
        calls.append(job)
        second_fails(job, len(calls))
        return sound(self, job)

    monkeypatch.setattr(AnswerProbability, "evaluate", evaluate)
    assert compare(small) == 1
    said = capsys.readouterr().err
    assert "1 batches failed (" in said
    assert "once that is mended, the same command computes only these" in said


def test_a_fit_that_fails_sinks_only_what_needs_it(
    small: Small, here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no such module")

    settings = ["compare", "--output", "run", *small.settings("bases=[none, lora_sft_positive]")]
    with monkeypatch.context() as patch:
        patch.setattr(LoraSFT, "fit", fail)
        assert main(settings) == 1
    assert "lora_sft_positive cannot be fitted" in caplog.text
    assert {cell["base"] for cell in table(Path("run/cells.csv"))} == {"none"}
    assert "lora_sft_positive could not be fitted (ValueError: no such module)" in Path("run/table.txt").read_text()
    done = RowStore(Path("run/rows.jsonl")).done

    assert main(settings) == 0
    assert {cell["base"] for cell in table(Path("run/cells.csv"))} == {"none", "lora_sft_positive"}
    assert set(done) < set(RowStore(Path("run/rows.jsonl")).done)
    assert "could not be fitted" not in Path("run/table.txt").read_text()


def real_out_of_memory() -> Exception:
    """What torch itself says when the CPU has not enough."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    return caught.value


FORMS = {
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "python": MemoryError(),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuDNN": RuntimeError(
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if the input is not contiguous"
    ),
    "cuDNN workspace": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "CUDA runtime": RuntimeError("CUDA error: out of memory"),
    "Apple": RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB, other allocations: 8 GB)"),
    "Windows CPU": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
}


def test_out_of_memory_is_recognized_in_every_form() -> None:
    assert all(map(out_of_memory, [*FORMS.values(), real_out_of_memory()]))
    others = [RuntimeError("shape mismatch"), ValueError("out of memory"), KeyboardInterrupt()]
    assert not any(map(out_of_memory, others))


@pytest.mark.parametrize("fits", [16, 8, 3, 1])
def test_memory_halves_what_is_computed_at_once_until_it_fits(fits: int) -> None:
    tried: list[int] = []

    def compute(size: int) -> int:
        tried.append(size)
        if size > fits:
            raise FORMS["torch"]
        return size

    per_pass = PromptsPerPass(16)
    found = per_pass.run(compute)
    assert found <= fits < 2 * found or found == fits == 16
    assert len(tried) <= 5
    assert per_pass.run(compute) == found
    assert tried[-1] == tried[-2], "what did not fit once is not tried again"


def test_one_prompt_that_does_not_fit_is_a_failure() -> None:
    def compute(size: int) -> None:
        raise FORMS["torch"]

    with pytest.raises(torch.OutOfMemoryError):
        PromptsPerPass(16).run(compute)


def test_a_smaller_pass_is_recorded_and_kept_by_a_resumed_run(small: Small, here: Path) -> None:
    def over_five(job: Job, count: int) -> None:
        if job.prompts_per_pass > 5 and count > 1:
            raise FORMS["torch"]
        if count == 6:
            raise KeyboardInterrupt

    usual = prompts_benchmark(small, AnswerProbability(), folder="usual").compare()
    small_machine = Failing(over_five)
    first = prompts_benchmark(small, small_machine)
    with pytest.raises(KeyboardInterrupt):
        first.compare()
    assert [job.prompts_per_pass for job in small_machine.jobs] == [16, 16, 8, 4, 4, 4]
    facts = manifest(first.folder)["facts"]
    assert [facts["prompts_per_pass"].get(key) for key in facts["batches"]] == [None, 4, 4, None, None, None]

    resumed = Failing()
    prompts_benchmark(small, resumed).compare()
    assert [job.prompts_per_pass for job in resumed.jobs] == [4, 4, 4]
    rows, expected = (list(RowStore(Path(run.folder) / "rows.jsonl").rows()) for run in (first, usual))
    assert [row["cell"] for row in rows] == [row["cell"] for row in expected], "the keys are those of an ample machine"
    for row, other in zip(rows, expected, strict=True):
        assert row["logits"] == pytest.approx(other["logits"], abs=1e-5)


def test_a_fit_without_memory_is_one_line(
    small: Small, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise FORMS["torch"]

    monkeypatch.setattr(LoraSFT, "fit", fail)
    assert main(["compare", "--output", "run", *small.settings()]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("caa-bench: lora_sft_positive: out of memory while fitting; lower lora_sft.batch_size")


def test_an_evaluator_may_have_bases_and_doses_of_its_own(small: Small) -> None:
    """`none` is always measured, since every change is against it; what the run has not is left out."""
    own = ["capability.bases=[lora_sft_positive, lora_sft_negative]", "capability.multipliers=[-2, 0, 2, 2]"]
    recipe = load_recipe("compare", [*small.settings("evaluators=[answer_probability, capability]"), *own, "limit=4"])
    arms = arms_of(Benchmark.from_recipe(recipe), Layers(count=3, default=1, hidden=32))
    asked = {name: [arm for arm in arms if arm.evaluator.name == name] for name in ("answer_probability", "capability")}
    assert [arm.base.label for arm in asked["answer_probability"]] == [
        "none",
        "system_prompt_positive",
        "lora_sft_positive",
    ]
    assert [arm.base.label for arm in asked["capability"]] == ["none", "lora_sft_positive"]
    doses = {name: {c.multiplier for arm in own for c in arm.shared} for name, own in asked.items()}
    assert doses == {"answer_probability": {-8, 8}, "capability": {-2, 2}}


def test_a_base_that_can_be_none_is_told(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    settings = small.settings("evaluators=[answer_probability, capability]", "capability.bases=[lora_sftt_positive]")
    assert main(["check", *settings]) == 2
    assert "capability.bases: 'lora_sftt_positive' is no intervention" in capsys.readouterr().err
