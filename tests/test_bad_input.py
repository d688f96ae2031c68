"""Bad input through the real command line: one line (where, what, what to do), exit 2, no weights read, no torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_behavior import write_behavior
from small_runs import Small, fresh

from caa_bench.__main__ import main
from caa_bench.interventions import CAA, LoraSFT

MODELS = "use one of gemma2-9b-it, "
INTERVENTIONS = ("none", "caa", "lora_sft", "system_prompt")
"""Some of the names that a message lists; others come with new methods."""
LONG = "a" * 400


@pytest.fixture
def place(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a sound behavior `b/small`; reading weights fails the test."""
    write_behavior(tmp_path / "b" / "small")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("caa_bench.models.model.load_model", lambda chat: pytest.fail("the weights were read"))
    return tmp_path


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of a refused command, without the program's name."""
    capsys.readouterr()
    try:
        status = main(argv)
    except SystemExit as error:  # argparse leaves by itself
        status = int(str(error.code))
    said = capsys.readouterr()
    assert (status, said.out) == (2, "")
    lines = said.err.splitlines()
    assert all(line.startswith("caa-bench: ") for line in lines)
    return [line.removeprefix("caa-bench: ") for line in lines]


# what is typed after `caa-bench compare` -> how the one line begins, and how it ends
OVERRIDES: dict[str, tuple[str, str, str]] = {
    "unknown key": ("sed=1", "override: sed: unknown key", "did you mean 'seed'?"),
    "key of a section": ("caa.layer=[1]", "override: caa.layer: unknown key", "did you mean 'layers'?"),
    "key of elsewhere": ("rank=4", "override: rank: unknown key; did you mean one of", ("lora_sft", "dpo", "peft")),
    "a slip in a key of elsewhere": (
        "multiplierz=[1]",
        "override: multiplierz: unknown key; did you mean one of",
        ("caa", "iti", "multipliers"),
    ),
    "wrong type": ("seed=many", "override: seed: expected an integer, found the text 'many'", "write an integer"),
    "no value": ("seed", "override: 'seed': not `key=value`", "write for example seed=1"),
    "unknown behavior": (
        "behavior=refusl",
        "override: behavior: there is no behavior 'refusl'; did you mean 'refusal'?",
        "or the path of a folder with a behavior.yaml",
    ),
    "folder without behavior": ("behavior=b", "override: behavior: 'b' has no behavior.yaml", "that has one"),
    "behavior outside": ("behavior=../../x", "override: behavior: '../../x' has no behavior.yaml", "that has one"),
    "very long behavior": (f"behavior={LONG}", "override: behavior: there is no behavior 'aaa", "a behavior.yaml"),
    "unknown model": (
        "model=tini",
        f"override: model: 'tini' is unknown; did you mean 'tiny'? {MODELS}",
        "a local folder, or a hub name owner/model",
    ),
    "no such folder": ("model=/no/such", "override: model: there is no folder /no/such", "check the path"),
    "model outside": ("model=../x", "override: model: there is no folder ../x", "check the path"),
    "folder that is no model": (
        "model=b/small",
        "override: model: b/small holds no config.json",
        "a transformers model",
    ),
    "very long model": (f"model={LONG}", "override: model: 'aaa", "or a hub name owner/model"),
    "very long hub name": (f"model=x/{LONG}", "override: model: 'x/aaa", "MODEL=/path/to/model"),
    "hub model offline": (
        "model=owner/name",
        "override: model: 'owner/name' is not in the local cache and HF_HUB_OFFLINE is set",
        "or give a folder that holds the model with MODEL=/path/to/model",
    ),
    "published data not here": (
        "data=caa behavior=refusal",
        "override: data: the published splits of refusal are not here yet",
        "run caa-bench data download (4 MB), or set data_dir=",
    ),
    "no data folder": (
        "data=caa data_dir=/no/such behavior=refusal",
        "override: data_dir: /no/such has no folder generate",
        "give the folder that holds generate/<behavior> and test/<behavior>",
    ),
    "layer out of range": ("caa.layers=[1,99]", "override: caa.layers: layer 99 does not exist", "has layers 0 to 2"),
    "negative layer": ("caa.layers=[-1]", "override: caa.layers: layer -1 does not exist", "has layers 0 to 2"),
    "no layer": ("caa.layers=[]", "override: caa.layers: an empty list", "or take caa out of vectors"),
    "no dose": ("caa.multipliers=[0]", "override: caa.multipliers: no dose but 0", "or take caa out of vectors"),
    "dose that is no number": ("caa.multipliers=[.nan]", "override: caa.multipliers[0]: nan is not a", "one that is"),
    "layer of the vector": ("caa.vector_layer=77", "override: caa.vector_layer: layer 77 does not", "0 to 2"),
    "model of the vector": ("caa.vector_model=nope", "override: caa.vector_model: 'nope' is unknown", "owner/model"),
    "behavior of the vector": (
        "caa.vector_behavior=refusl",
        "override: caa.vector_behavior: there is no behavior 'refusl'; did you mean 'refusal'?",
        "or the path of a folder with a behavior.yaml",
    ),
    "behavior of the norm": ("caa.normalize=[refusl]", "override: caa.normalize: there is no", "behavior.yaml"),
    "unknown base": ("bases=[none,lora]", "override: bases: 'lora' is no intervention", INTERVENTIONS),
    "unknown variant": (
        "bases=[lora_sft_postive]",
        "override: bases: lora_sft_postive is unknown",
        "use lora_sft_positive, lora_sft_negative",
    ),
    "unknown part of a stack": ("bases=[lora_sft_positive+x]", "override: bases: 'x' is no inter", INTERVENTIONS),
    "prompt that is not there": (
        "bases=[system_prompt_kind]",
        "override: bases: small has no system prompt called 'kind'",
        "use one of positive, negative, neutral, empty, or write it under system_prompt.texts",
    ),
    "unknown vector": ("vectors=[ca]", "override: vectors: 'ca' is no intervention", INTERVENTIONS),
    "placebo alone": ("vectors=[random]", "override: vectors: random is a placebo of caa", "add caa to vectors"),
    "prompt on top": (
        "vectors=[system_prompt_positive]",
        "override: vectors: system_prompt_positive changes the conversation",
        "name it in bases",
    ),
    "unknown evaluator": ("evaluators=[answers]", "override: evaluators: 'answers' is unknown", "perplexity"),
    "no evaluator": ("evaluators=[]", "override: evaluators: an empty list", "for example [answer_probability]"),
    "no items": ("limit=0", "override: limit: 0 is too few", "give 1 or more"),
    "negative limit": ("limit=-3", "override: limit: -3 is too few", "give 1 or more"),
    "a billion tokens": (
        "evaluators=[open_ended] open_ended.max_new_tokens=1000000000",
        "override: open_ended.max_new_tokens: 1,000,000,000 is longer than any answer",
        "give at most 32,768",
    ),
    "more tokens than the model takes": (
        "evaluators=[open_ended] open_ended.max_new_tokens=32000",
        "override: open_ended.max_new_tokens: 32,000 leave no room for a question in 512",
        "lower it",
    ),
    "judge without brackets": (
        "evaluators=[open_ended] open_ended.judges=[api] judges.api.base_url=http://::1:8/v1 judges.api.model=m "
        "judges.api.key_env=''",
        "override: judges.api.base_url: an IPv6 address without brackets",
        "http://[::1]:8000/v1",
    ),
    "judge with half a bracket": (
        "evaluators=[open_ended] open_ended.judges=[api] judges.api.base_url='http://[::1/v1' judges.api.model=m "
        "judges.api.key_env=''",
        "override: judges.api.base_url: no http(s) address",
        "http://[::1]:8000/v1",
    ),
    "judge that waits backwards": (
        "judges.api.timeout_s=-1",
        "override: judges.api.timeout_s: -1 is no time to wait",
        "give seconds above 0",
    ),
    "no batch": ("batch_size=-1", "override: batch_size: -1 is too few", "give 1 or more"),
    "no draws": ("draws=0", "override: draws: 0 is too few", "give 1 or more"),
    "negative seed": ("seed=-1", "override: seed: -1 is below 0", "give 0 or more"),
    "another split": ("split=train", "override: split: expected one of 'test', 'selection'", "choose one of them"),
    "another dtype": ("loading.dtype=fp32", "override: loading.dtype: expected one of 'auto'", "choose one of them"),
    "another template": ("loading.template=x", "override: loading.template: there is no plain", "caa_base, or none"),
    "another dashboard": ("report_to=[wandbb]", "override: report_to: 'wandbb' is unknown", "did you mean 'wandb'?"),
    "rank": ("lora_sft.rank=0", "override: lora_sft.rank: 0 is too small", "give 1 or more"),
    "rate": ("lora_sft.learning_rate=0", "override: lora_sft.learning_rate: 0 is too small", "above 0"),
    "epochs": ("full_sft.epochs=0", "override: full_sft.epochs: 0 is too small", "give a number above 0"),
    "NUL": ("model=a\0b", "override: model: character #x0000 is not allowed", "remove it"),
    "extends": ("extends=x.yaml", "override: extends: belongs in a file", "or give another file"),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_a_bad_override_costs_one_line(
    name: str, small: Small, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    typed, start, end = OVERRIDES[name]
    sound = [f"model={small.model}", "behavior=b/small", "bases=[none]", "vectors=[caa]"]
    (line,) = refused(["compare", *sound, *typed.split(" ")], capsys)
    assert line.startswith(start)
    assert line.endswith(end) if isinstance(end, str) else {*end} <= {*re.findall(r"\w+", line)}
    assert not (place / "runs").exists(), "nothing was begun"


# a recipe file's bytes -> how the one line begins, and how it ends
FILES: dict[str, tuple[bytes, str, str]] = {
    "bad YAML": (b"seed: 1\ncaa: [1\n", "my.yaml:2: not valid YAML", "quotes, brackets and indentation"),
    "duplicate key": (b"seed: 1\nseed: 2\n", "my.yaml:2: seed: duplicate key (first at my.yaml:1)", "delete one"),
    "unknown key": (b"model: tiny\ncaa:\n  layer: 3\n", "my.yaml:3: caa.layer: unknown", "did you mean 'layers'?"),
    "wrong type": (b"\nseed: yes\n", "my.yaml:2: seed: expected an integer, found the text 'yes'", "an integer"),
    "behavior": (b"behavior: refusl\n", "my.yaml:1: behavior: there is no behavior 'refusl'", "a behavior.yaml"),
    "layer": (b"model: tiny\ncaa:\n  layers: [99]\n", "my.yaml:3: caa.layers: layer 99 does not", "0 to 5"),
    "base": (b"bases:\n  - none\n  - lora\n", "my.yaml:1: bases: 'lora' is no intervention", INTERVENTIONS),
    "not UTF-8": (b"seed: 1\n# caf\xe9\n", "my.yaml:2: not UTF-8 (byte 0xe9)", "save the file as UTF-8"),
    "cycle": (b"extends: my.yaml\n", "my.yaml:1: extends: a cycle, my.yaml -> my.yaml", "remove one of them"),
    "extends nothing": (b"extends: mi.yaml\n", "my.yaml:1: extends: no file 'mi.yaml'", "did you mean 'my.yaml'?"),
    "a list": (b"- 1\n", "my.yaml:1: expected `key: value` lines, found a list", "write a mapping"),
    "tag": (b"seed: !!python/object/apply:os.system [x]\n", "my.yaml:1: seed: the tag", "write the plain value"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_recipe_costs_one_line_with_file_and_line(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, start, end = FILES[name]
    (place / "my.yaml").write_bytes(content)
    (line,) = refused(["compare", "--recipe", "my.yaml"], capsys)
    assert line.startswith(start)
    assert line.endswith(end) if isinstance(end, str) else {*end} <= {*re.findall(r"\w+", line)}


COMMANDS: dict[str, tuple[list[str], str, str]] = {
    "recipe that is not there": (["check", "--recipe", "no/such.yaml"], "no/such.yaml: no such file", "a YAML file"),
    "recipe nearly there": (
        ["check", "--recipe", "layer_swep"],
        "recipe: there is no recipe 'layer_swep'",
        "did you mean 'layer_sweep'?",
    ),
    "recipe with a very long name": (["check", "--recipe", LONG], "aaa", "give the path of a YAML file"),
    "unknown command": (["chek"], "there is no command 'chek'", "did you mean 'check'?"),
    "unknown option": (
        ["check", "--recip", "compare"],
        "check: there is no option '--recip'",
        "did you mean --recipe?",
    ),
    "open bracket": (["check", "--set", "caa.layers=[1"], "override: 'caa.layers=[1': a quote or bracket", "close it"),
    "no run": (["report"], "there is no run under runs", "or give a run folder"),
    "no such run": (["report", "no"], "no: there is no run there", "there is no run under runs either"),
    "export of no run": (["export", "no", "to"], "no: there is no run there", "there is no run under runs either"),
    "export onto something": (["export", "no", "b"], "b: exists already", "give a new folder"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bad_command_costs_one_line(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv, start, end = COMMANDS[name]
    (line,) = refused(argv, capsys)
    assert line.startswith(start)
    assert line.endswith(end)


def _copied_question(folder: Path) -> None:
    items = json.loads((folder / "test.json").read_text())
    items[3] = json.loads((folder / "train.json").read_text())[1]
    (folder / "test.json").write_text(json.dumps(items, indent=1))


DATA: dict[str, tuple[Callable[[Path], None], str]] = {
    "a question in train and test": (_copied_question, "stands in train"),
    "no test split": (lambda folder: (folder / "test.json").unlink(), "every split needs its file"),
    "an empty split": (lambda folder: (folder / "train.json").write_text("[]") and None, "train.json"),
    "broken JSON": (lambda folder: (folder / "test.json").write_text("[\n{") and None, "test.json:2"),
}


@pytest.mark.parametrize("name", DATA)
def test_bad_data_cost_one_line_with_the_file(
    name: str, small: Small, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, says = DATA[name]
    damage(place / "b" / "small")
    (line,) = refused(["compare", f"model={small.model}", "behavior=b/small"], capsys)
    assert says in line
    assert "b/small/" in line


def test_all_mistakes_are_told_at_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = refused(["compare", "behavior=refusl", "model=tini", "evaluators=[answers]"], capsys)
    assert [line.split(": ")[1] for line in lines] == ["behavior", "model", "evaluators"]


def test_an_output_that_cannot_be_a_folder_is_said_before_anything_is_fitted(
    small: Small, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "file").write_text("x")
    (line,) = refused(["compare", "--output", "file/run", *small.settings()], capsys)
    assert line.startswith("file/run: cannot be written (Not a directory); ")
    (line,) = refused(["compare", "--output", LONG, *small.settings()], capsys)
    assert "cannot be written (File name too long)" in line
    assert not (place / "runs").exists()


def test_a_run_folder_s_name_cannot_leave_the_output_folder(
    small: Small, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recipe and model names become part of it; a link that leads out is refused."""
    (place / "..my recipe!.yaml").write_text("extends: compare\n")
    sound = [f"model={small.model}", "behavior=b/small", "output_dir=out"]
    assert main(["check", "--recipe", "..my recipe!.yaml", *sound]) == 0
    assert "results go to out/my-recipe/small-model-" in capsys.readouterr().out
    (place / "out").mkdir()
    (place / "elsewhere").mkdir()
    (place / "out" / "compare").symlink_to(place / "elsewhere")
    (line,) = refused(["compare", *sound], capsys)
    assert line == "out/compare: leads outside of out; remove the link"
    assert not list((place / "elsewhere").iterdir())


@pytest.mark.parametrize(
    "typed", ["sed=1", "behavior=refusl", "model=tini", "caa.layers=[99]", "bases=[lora]", "data=caa"]
)
def test_a_mistake_is_found_without_torch(typed: str, tmp_path: Path) -> None:
    """In a fresh interpreter, which then has imported nothing that takes seconds."""
    code = (
        "import sys; from caa_bench.__main__ import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'pandas', 'wandb', 'peft', 'trl'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    call = [sys.executable, "-c", code, "compare", typed]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1


def test_as_a_user_types_it(tmp_path: Path) -> None:
    done = fresh(["compare", "behaviour=refusal"], folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "caa-bench: override: behaviour: unknown key; did you mean 'behavior'?\n"


def test_python_callers_hear_of_settings_that_train_nothing() -> None:
    with pytest.raises(ValueError, match="rank: 0 is too small; give 1 or more"):
        LoraSFT.Config(rank=0)
    with pytest.raises(ValueError, match="doses: an empty list"):
        LoraSFT.Config(doses=())
    with pytest.raises(ValueError, match="multipliers: no dose but 0"):
        CAA.Config(multipliers=())


def test_a_recipe_of_ones_own_extends_a_shipped_one(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By name or file name, from any folder; a file beside it comes first."""
    for named in ("layer_sweep", "layer_sweep.yaml"):
        (place / "mine.yaml").write_text(f"extends: {named}\nsed: 1\n")
        (line,) = refused(["check", "--recipe", "mine.yaml"], capsys)
        assert line == "mine.yaml:2: sed: unknown key; did you mean 'seed'?"
    (place / "layer_sweep.yaml").write_text("nothing: 1\n")
    (line, _) = refused(["check", "--recipe", "mine.yaml"], capsys)
    assert line.startswith("layer_sweep.yaml:1: nothing: unknown key")
