"""Steered models in Inspect: its own `eval` on two samples says what `generate` says; mistakes are one line."""

from __future__ import annotations

import configparser
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from small_runs import Small, run

from caa_bench.commands.session import Session, Settings
from caa_bench.errors import UserError
from caa_bench.interventions import CAA, LoraSFT, SystemPrompt
from caa_bench.providers.steered import steered_model

QUESTIONS = ("Please mend 3 drums.", "Will you paint 2 boats?")
needs_inspect = pytest.mark.skipif(find_spec("inspect_ai") is None, reason="inspect-ai is not installed")


@pytest.fixture(scope="module")
def here(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run of seconds."""
    folder = tmp_path_factory.mktemp("inspect")
    settings = small.settings("bases=[none, lora_sft_positive]", "vectors=[caa]", "caa.layers=[1]", "limit=4")
    assert run(["compare", "--output", "runs/x/run", *settings], folder=folder) == 0
    return folder


@pytest.fixture(autouse=True)
def there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in it."""
    monkeypatch.chdir(here)


def said(model: str, arguments: dict[str, Any], **settings: Any) -> list[Any]:
    """The outputs of Inspect's own run of two samples, in order."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import includes

    import caa_bench.providers.inspect_entry  # noqa: F401 - as the entry point does it in an installed environment

    task = Task(dataset=[Sample(input=text, target="x") for text in QUESTIONS], scorer=includes())
    (log,) = eval(task, model=f"caa-bench/{model}", model_args=arguments, display="none", log_dir="logs", **settings)
    assert log.status == "success", log.error
    return [sample.output for sample in sorted(log.samples or (), key=lambda sample: sample.id)]


def spoken(small: Small, *, base: str, multiplier: float, layer: int = 1) -> list[str]:
    """The same as `caa-bench generate` says it."""
    settings = Settings(model=str(small.model), behavior=str(small.behavior), layer=layer, max_new_tokens=12)
    session = Session(settings, base=base)
    asked = [[{"role": "user", "content": text}] for text in QUESTIONS]
    return [session.answers(one, multipliers=[multiplier])[0].text for one in asked]


@needs_inspect
def test_it_says_what_generate_says(small: Small) -> None:
    plain = spoken(small, base="none", multiplier=0.0)
    wanted = spoken(small, base="none", multiplier=8.0)
    arguments = {"behavior": str(small.behavior), "layer": 1, "multiplier": 8.0}
    outputs = said(str(small.model), arguments, max_tokens=12)
    assert [output.completion for output in outputs] == wanted != plain
    assert outputs[0].stop_reason in ("max_tokens", "stop") and 0 < outputs[0].usage.output_tokens <= 12


@needs_inspect
def test_a_run_brings_its_base_and_vector(small: Small, here: Path) -> None:
    kept = sorted(path.name for path in (here / "runs/artifacts").iterdir())
    outputs = said("run", {"run": "runs/x/run", "base": "lora_sft_positive", "multiplier": -8}, max_tokens=12)
    assert sorted(path.name for path in (here / "runs/artifacts").iterdir()) == kept, "nothing is fitted anew"
    made = steered_model("run", {"run": "runs/x/run", "base": "lora_sft_positive", "multiplier": -8}).steered
    assert isinstance(made.base, LoraSFT) and isinstance(made.vector, CAA) and made.layer == 1
    asked = [[{"role": "user", "content": text}] for text in QUESTIONS]
    wanted = [made.answers(one, multipliers=[-8.0], max_new_tokens=12)[0].text for one in asked]
    assert [output.completion for output in outputs] == wanted


@needs_inspect
def test_settings_that_are_not_heeded_are_refused(small: Small) -> None:
    from inspect_ai.model import GenerateConfig, get_model

    import caa_bench.providers.inspect_entry  # noqa: F401

    arguments = {"behavior": str(small.behavior), "multiplier": 8.0}
    model = get_model(f"caa-bench/{small.model}", **arguments)
    import asyncio

    with pytest.raises(Exception, match="top_p: steered models have none"):
        asyncio.run(model.generate("Hello", config=GenerateConfig(top_p=0.5)))
    cut = asyncio.run(model.generate(QUESTIONS[0], config=GenerateConfig(max_tokens=12)))
    end = cut.completion[2:4]
    assert end and end in cut.completion
    short = asyncio.run(model.generate(QUESTIONS[0], config=GenerateConfig(max_tokens=12, stop_seqs=[end])))
    assert short.completion == cut.completion[: cut.completion.find(end)] and short.stop_reason == "stop"
    drawn = [
        asyncio.run(model.generate(QUESTIONS[0], config=GenerateConfig(max_tokens=12, temperature=1.5, seed=seed)))
        for seed in (1, 1, 2)
    ]
    assert drawn[0].completion == drawn[1].completion != drawn[2].completion


def test_an_artifact_answers_by_itself(small: Small, tmp_path: Path) -> None:
    made = steered_model("run", {"run": "runs/x/run", "multiplier": 8})
    assert made.multiplier == 8.0 and made.steered.vector is not None
    made.steered.vector.save_pretrained(tmp_path / "caa")
    alone = steered_model(str(small.model), {"artifact": str(tmp_path / "caa"), "layer": 1, "multiplier": 8})
    asked = [{"role": "user", "content": QUESTIONS[0]}]
    both = [one.steered.answers(asked, multipliers=[8.0], max_new_tokens=12)[0].text for one in (made, alone)]
    assert both[0] == both[1]


def test_a_base_alone_needs_no_dose(small: Small) -> None:
    arguments = {"behavior": str(small.behavior), "base": "system_prompt_positive", "vector": "none"}
    made = steered_model(str(small.model), arguments)
    assert made.multiplier == 0.0 and isinstance(made.steered.base, SystemPrompt)


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        ("tiny", {"behaviour": "refusal"}, "behaviour: no such model argument; did you mean 'behavior'?"),
        ("tiny", {"behavior": "refusal"}, "multiplier: it is missing; give the dose of caa, for example 1.5"),
        ("tiny", {"multiplier": "much"}, "multiplier: 'much' is no dose"),
        ("tiny", {"vector": "none", "multiplier": 1}, "multiplier: without a vector there is no dose"),
        ("tiny", {"vector": "act_add", "multiplier": 1}, "vector: 'act_add' needs run"),
        ("tiny", {"run": "runs/x/run", "multiplier": 1}, "the run is of model, not of tiny"),
        ("run", {"run": "runs/x/run", "artifact": "a", "multiplier": 1}, "artifact: a run brings its own"),
        ("run", {"run": "runs/x/run", "layer": 9, "multiplier": 1}, "layer: 9 does not exist; the model has layers"),
        ("run", {"run": "runs/x/run", "behavior": "refusal", "multiplier": 1}, "behavior: a run has its own"),
        ("tiny", {"artifact": "nowhere", "multiplier": 1}, "nowhere: there is no such folder"),
        ("tiny", {"artifact": "nowhere", "base": "none"}, "base: an artifact stands on the plain model by itself"),
    ],
)
def test_mistakes_are_one_line(name: str, arguments: dict[str, Any], wanted: str) -> None:
    with pytest.raises(UserError) as caught:
        steered_model(name, arguments)
    assert len(caught.value.lines) == 1 and wanted in caught.value.lines[0], caught.value.lines


def test_the_entry_point_is_declared_and_leads_somewhere() -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[1] / "setup.cfg")
    declared = dict(line.split(" = ") for line in setup["options.entry_points"]["inspect_ai"].strip().splitlines())
    assert declared == {"caa_bench": "caa_bench.providers.inspect_entry"}
    assert find_spec(declared["caa_bench"]) is not None


@needs_inspect
def test_inspect_finds_it_by_itself(small: Small) -> None:
    if not [one for one in entry_points(group="inspect_ai") if one.value == "caa_bench.providers.inspect_entry"]:
        pytest.skip("caa-bench is not installed with its entry points in this environment")
    from inspect_ai.model import get_model

    model = get_model(f"caa-bench/{small.model}", behavior=str(small.behavior), multiplier=1.0)
    assert type(model.api).__name__ == "SteeredAPI"
