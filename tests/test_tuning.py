"""Tuning: what is tried on the selection split, what is chosen, and that the test split stays closed until then."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from published import DATA, needs_data
from real_models import real_model
from safetensors.torch import load_file
from small_behavior import write_behavior
from small_runs import Small, contents, manifest, run, start, write_small_model

from caa_bench import CAA, Benchmark, BenchmarkArguments, LoraSFT
from caa_bench.__main__ import main
from caa_bench.analysis.intervals import MIN_ITEMS
from caa_bench.behaviors.behavior import load_behavior
from caa_bench.behaviors.drawing import LEAST_ITEMS
from caa_bench.commands.continuing import full_dose
from caa_bench.commands.parser import commands_of, parser
from caa_bench.commands.serve import Serve
from caa_bench.errors import UserError
from caa_bench.evaluators import AnswerProbability
from caa_bench.interventions import Condition, Layers
from caa_bench.models.loading import Loading
from caa_bench.models.model import ChatModel
from caa_bench.providers.steered import steered_model
from caa_bench.runs.rows import RowStore, frame_of
from caa_bench.runs.tuning_grid import Search, between, dose_of, first_layers, to_tune
from caa_bench.runs.tuning_items import items_line, search_items, tuned_on
from caa_bench.runs.tuning_record import tuning_lines

FEW = {"report_to": (), "draws": 199}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The small random model, and a behavior with enough selection items for an interval."""
    root = tmp_path_factory.mktemp("wide")
    behavior = write_behavior(root / "behaviors" / "wide", train=12, test=24, selection=24)
    return Small(model=write_small_model(root / "model"), behavior=behavior)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the embedded model whose first round looks at two layers, neither of them the planted one."""
    folder = tmp_path_factory.mktemp("tiny")
    args = BenchmarkArguments(tune="layers", vectors=("caa",), limit=30, output_dir=str(folder / "runs"), **FEW)
    benchmark = Benchmark("tiny", args=args, interventions=[CAA()], folder=folder / "run")
    benchmark.search = Search(most_layers=2)
    benchmark.compare().report()
    return folder / "run"


def tuning(folder: Path) -> dict[str, Any]:
    """What a run's manifest keeps of its search."""
    found: dict[str, Any] = manifest(folder)["facts"]["tuning"]
    return found


def rounds(folder: Path) -> pd.DataFrame:
    """Every row of a search's rounds."""
    return frame_of(row for path in sorted((folder / "tuning").glob("*.jsonl")) for row in RowStore(path).rows())


def test_from_two_other_layers_it_finds_the_planted_one(tiny: Path) -> None:
    arm = tuning(tiny)["arms"]["caa"]
    assert arm["worked"]
    assert arm["chosen"]["layer"] == 3
    assert arm["chosen"]["effect"] > 3
    assert arm["lead_low"] > 1
    tried = pd.read_csv(tiny / "tuning.csv")
    assert set(tried["layer"][:4]) <= {0, 1, 2, 3, 4, 5}
    assert len(tried) == arm["tries"] == len(tuning(tiny)["tried"])
    assert tried["chosen"].sum() == 1


def test_the_test_split_is_measured_with_what_was_chosen(tiny: Path) -> None:
    chosen = tuning(tiny)["arms"]["caa"]["chosen"]
    steered = [cell for cell in manifest(tiny)["facts"]["cells"] if cell["vector"]]
    assert {cell["layer"] for cell in steered} == {3}
    expected = sorted(float(f"{own * chosen['multiplier']:.6g}") for own in (-1, -0.5, 0.5, 1))
    assert sorted(cell["multiplier"] for cell in steered) == expected
    assert manifest(tiny)["test_opened"] == 1
    text = (tiny / "table.txt").read_text()
    assert "layer 3 (tuned on the selection split)" in text
    assert f"CAA {chosen['multiplier']:+g} " in text
    assert re.search(rf"\+{chosen['multiplier']:g} +{chosen['dose']:.2f} ", text), (
        "the dose's share of the residual norm"
    )


def test_the_dose_is_the_share_of_the_residual_norm_that_the_vector_adds(tiny: Path) -> None:
    chosen, facts = tuning(tiny)["arms"]["caa"]["chosen"], manifest(tiny)["facts"]
    vector = load_file(Path(facts["artifacts"]["caa"]) / "tensors.safetensors")["vectors"][3]
    residual = facts["diagnostics"]["caa"][3]["residual_norm"]
    assert chosen["dose"] == pytest.approx(chosen["multiplier"] * float(vector.norm()) / residual, rel=1e-4)
    assert chosen["dose"] in [pytest.approx(dose, rel=0.01) for dose in (*Search().doses, *Search().finer)]


def test_the_numbers_of_the_choice_are_those_of_its_rows(tiny: Path) -> None:
    """By hand: y of both orders, both directions, against the unsteered rows of the same items."""
    found = rounds(tiny).drop_duplicates(["cell", "item", "order"])
    logits = found[["logit_0", "logit_1"]].to_numpy()
    place = np.arange(len(found))
    y = logits[place, found["matching"]] - logits[place, 1 - found["matching"]]
    mass = np.exp(np.logaddexp(*logits.T) - found["log_z"])
    means = found.assign(y=y, mass=mass).groupby("cell")[["y", "mass"]].mean()
    unsteered = means.loc[min(means.index, key=lambda cell: abs(means.loc[cell, "mass"] - tuning(tiny)["option_mass"]))]
    chosen = tuning(tiny)["arms"]["caa"]["chosen"]
    ups = means[np.isclose(means["y"] - unsteered["y"], chosen["shift_up"], atol=1e-4)]
    downs = means[np.isclose(means["y"] - unsteered["y"], chosen["shift_down"], atol=1e-4)]
    assert len(ups) >= 1
    assert len(downs) >= 1
    assert chosen["effect"] == pytest.approx((chosen["shift_up"] - chosen["shift_down"]) / 2, abs=1e-6)
    kept = min(ups["mass"].iloc[0], downs["mass"].iloc[0]) / unsteered["mass"]
    assert chosen["mass_kept"] == pytest.approx(kept, abs=1e-4)
    assert chosen["mass_kept"] >= 0.9


def test_a_second_comparison_searches_nothing_and_runs_no_forward(tiny: Path) -> None:
    from caa_bench.engine.work import counted

    args = BenchmarkArguments(tune="layers", vectors=("caa",), limit=30, output_dir=str(tiny.parent / "runs"), **FEW)
    again = Benchmark("tiny", args=args, interventions=[CAA()], folder=tiny)
    again.search = Search(most_layers=2)
    before = contents(tiny)
    with counted(again.chat.model) as work:
        again.compare().report()
    assert work.forwards == 0
    assert contents(tiny) == before
    assert again.vectors[0].config.layers == "default", "what was given stays as it was"


def test_nothing_of_the_test_split_is_read_while_tuning(wide: Small, tmp_path: Path) -> None:
    assert run(["tune", "--output", "run", *wide.settings("tune=all", "caa.multipliers=[-1, 1]")], folder=tmp_path) == 0
    found = manifest(tmp_path / "run")
    assert found["test_opened"] == 0
    assert not (tmp_path / "run" / "rows.jsonl").exists()
    items = set(rounds(tmp_path / "run")["item"])
    assert len(items) == 24
    assert all(item.startswith("selection/") for item in items)


def test_a_random_model_says_that_nothing_worked_and_goes_on(wide: Small, tmp_path: Path) -> None:
    settings = wide.settings("tune=auto", "bases=[none]", "caa.multipliers=[-1, 1]")
    assert run(["compare", "--output", "run", *settings], folder=tmp_path) == 0
    found = manifest(tmp_path / "run")
    assert (found["status"], found["test_opened"]) == ("success", 1)
    arm = found["facts"]["tuning"]["arms"]["caa"]
    assert not arm["worked"]
    assert arm["why"]
    tried = found["facts"]["tuning"]["tried"]
    pool = [line for line in tried if line["qualifies"]] or tried
    assert arm["chosen"]["effect"] == max(line["effect"] for line in pool)
    assert "caa: nothing worked here in" in (tmp_path / "run" / "table.txt").read_text()
    assert {cell["layer"] for cell in found["facts"]["cells"]} == {None, arm["chosen"]["layer"]}


@pytest.fixture(scope="module")
def uninterrupted(wide: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of a tuned comparison that nobody stopped."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert run(wide.compare(*ALL), folder=folder) == 0
    return folder


ALL = ("tune=all", "caa.multipliers=[-1, 1]", "bases=[none, system_prompt_positive, lora_sft_positive]")
MOMENTS: dict[str, Callable[[Path], bool]] = {
    "in the first round": lambda folder: (folder / "run/tuning/layers.jsonl").exists(),
    "in the second round": lambda folder: (folder / "run/tuning/doses.jsonl").exists(),
    "at the wordings": lambda folder: (folder / "run/tuning/system_prompt_positive.jsonl").exists(),
    "once the test split is open": lambda folder: (folder / "run/rows.jsonl").exists(),
}


SLOW = ("in the first round", "at the wordings", "once the test split is open")


@pytest.mark.parametrize(
    "moment", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MOMENTS]
)
def test_killed_and_continued_it_ends_in_the_same_bytes(
    moment: str, wide: Small, uninterrupted: Path, tmp_path: Path
) -> None:
    killed = start(wide.compare(*ALL), folder=tmp_path)
    killed.until(lambda: MOMENTS[moment](tmp_path))
    killed.send(signal.SIGKILL)
    assert killed.wait() == 128 + signal.SIGKILL, "it had ended before it was killed"
    assert run(wide.compare(*ALL), folder=tmp_path) == 0
    for part in ("run", "runs"):
        assert contents(tmp_path / part) == contents(uninterrupted / part)


def test_a_run_speaks_with_the_wording_and_the_scale_that_it_chose(
    uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`generate`, `chat` and `serve` of a run, and Inspect's provider, put their vector on the bases it measured."""
    monkeypatch.chdir(uninterrupted)
    arms = manifest(uninterrupted / "run")["facts"]["tuning"]["arms"]
    text, scale = arms["system_prompt_positive"]["chosen"]["text"], arms["lora_sft_positive"]["chosen"]["multiplier"]
    session = Serve().session(commands_of(parser())["serve"].parse_args(["run", "--quiet"]))
    assert session.bases["system_prompt_positive"].text == text
    assert full_dose(session.bases["lora_sft_positive"]) == Condition(multiplier=scale)
    made = steered_model("run", {"run": "run", "base": "system_prompt_positive", "vector": "none"})
    assert made.steered.base.text == text
    assert full_dose(LoraSFT(doses=[0.25, 0.8, 2])) == Condition(multiplier=0.8)
    assert full_dose(session.bases["none"]) == Condition()


def test_all_also_chooses_wordings_and_scales_and_measures_with_them(uninterrupted: Path) -> None:
    found = manifest(uninterrupted / "run")
    arms = found["facts"]["tuning"]["arms"]
    assert {label: arm["tries"] for label, arm in arms.items() if label != "caa"} == {
        "system_prompt_positive": 4,
        "lora_sft_positive": 4,
    }
    assert arms["system_prompt_positive"]["chosen"]["text"].count("You turn down every request.") == 1
    doses = {cell["base_dose"] for cell in found["facts"]["cells"] if cell["base"] == "lora_sft_positive"}
    assert doses == {arms["lora_sft_positive"]["chosen"]["multiplier"]}
    line = next(x for x in found["facts"]["tuning"]["tried"] if x["arm"] == "lora_sft_positive" and x["chosen"])
    assert line["shift_down"] is None, "a positive variant pushes upwards alone"


def test_what_the_best_doses_cost_is_measured_in_their_worse_direction_and_gates(tmp_path: Path) -> None:
    """By hand: the mean over categories of what p(correct) loses, on the same questions."""
    few = ["behavior=refusal", "tune=all", "bases=[none, system_prompt_positive]", "vectors=[caa]", "limit=24"]
    assert run(["tune", "--output", "run", *few, "report_to=[]"], folder=tmp_path) == 0
    found = frame_of(RowStore(tmp_path / "run" / "tuning" / "capability.jsonl").rows())
    place = np.arange(len(found))
    logits = found[["logit_0", "logit_1"]].to_numpy()
    found["p"] = 1 / (1 + np.exp(logits[place, 1 - found["matching"]] - logits[place, found["matching"]]))
    found["category"] = found["item"].str.rpartition("/")[0]
    p = found.groupby(["cell", "category"])["p"].mean().groupby("cell").mean()
    record = tuning(tmp_path / "run")
    unsteered = p.loc[(p - record["p_correct"]).abs().idxmin()]
    measured = [x for x in record["tried"] if x["arm"] == "caa" and x["capability_loss"] is not None]
    assert len(measured) == (len(p) - 1) / 2
    for line in measured:
        assert np.isclose(unsteered - p, line["capability_loss"], atol=1e-6).any()
        shows = line["capability_items"] >= 83  # fewer cannot show a loss of .03: then the point decides
        loss = line["capability_loss_high" if shows else "capability_loss"]
        assert line["qualifies"] == (line["mass_kept"] >= 0.9 and loss <= 0.03)
    assert not any(x["qualifies"] for x in record["tried"] if x["capability_loss"] is None)
    assert {x["layer"] for x in measured} == {3, record["arms"]["caa"]["rival"]["layer"]}
    prompts = [x for x in record["tried"] if x["arm"] == "system_prompt_positive"]
    assert [x["capability_loss"] is None for x in prompts] == [False] * 4


def test_a_failed_batch_ends_the_search_and_the_test_split_stays_closed(
    wide: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: AnswerProbability, job: Any) -> list[Any]:
        raise RuntimeError("no such kernel")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AnswerProbability, "evaluate", broken)
    args = BenchmarkArguments(vectors=("caa",), **FEW)
    benchmark = Benchmark(
        str(wide.model), behavior=str(wide.behavior), args=args, interventions=[CAA()], folder=tmp_path / "run"
    )
    with pytest.raises(UserError, match=r"tuning: 3 of 3 batches of layers failed.*set tune=off"):
        benchmark.compare()
    assert "no such kernel" in caplog.text
    assert (manifest(tmp_path / "run")["test_opened"], manifest(tmp_path / "run")["status"]) == (0, "error")


def wanted(behavior: Path | str, **changes: Any) -> tuple[int, str]:
    """How many vectors a run would tune, and what it says where it tunes none."""
    loading = changes.pop("loading", Loading())
    config = changes.pop("config", CAA.Config())
    args = BenchmarkArguments(**changes)
    found = to_tune([CAA(config)], args=args, loading=loading, behavior=load_behavior(behavior))
    return len(found.vectors), found.why


def test_auto_searches_only_what_nobody_has_settled(wide: Small, small: Small) -> None:
    own = wide.behavior
    assert wanted(own) == (1, "")
    assert wanted(own, loading=ChatModel.find("tiny").loading) == (0, "")
    assert wanted(own, loading=ChatModel.find("llama2-7b-chat").loading) == (0, "")
    assert wanted(own, loading=ChatModel.find("qwen2.5-1.5b-instruct").loading) == (1, "")
    assert wanted(own, config=CAA.Config(layers=(1, 2))) == (0, "")
    assert wanted(own, split="selection") == (0, "")
    assert wanted(own, protocol="caa") == (0, "")
    assert wanted(own, tune="layers", config=CAA.Config(layers=(1, 2))) == (1, "")
    assert wanted(own, tune="off") == (
        0,
        "Layer and dose are the recipe's own: nothing was tuned on this model (tune=off).",
    )
    assert wanted(own, limit=12) == (1, "") and wanted(small.behavior) == (1, "")
    assert "9 items of the selection and training splits are fewer than the 10" in wanted(own, limit=9)[1]
    assert LEAST_ITEMS == MIN_ITEMS
    number, why = wanted(own, loading=Loading(tuned={"caa/wide": (14.0, 2.5)}))
    assert (number, why.endswith("an earlier search: caa layer 14 at multiplier 2.5.")) == (0, True)
    assert wanted(own, loading=Loading(tuned={"caa/other": (14.0, 2.5)})) == (1, "")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            ["tune=layers", "split=selection"],
            "tune: layers chooses on the selection split and then opens the test split",
        ),
        (["tune=all", "protocol=caa"], "tune: all chooses on the selection split and then opens the test split"),
        (["tune=layer"], "tune: expected one of 'auto', 'off', 'layers', 'all', found the text 'layer'"),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_one_line(
    settings: list[str], line: str, wide: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *wide.settings("bases=[none]", *settings)]) == 2
    assert line in capsys.readouterr().err


def test_a_dry_run_says_what_is_searched_first(wide: Small, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--dry-run", *wide.settings("tune=auto", "bases=[none]")]) == 0
    assert "tuning: first 12 cells on 24 items of the selection split" in capsys.readouterr().out


def test_layers_are_thinned_evenly_and_the_skipped_ones_beside_the_best_come_second() -> None:
    layers = Layers(count=80, default=32, hidden=8)
    first = first_layers(CAA(), layers, Search())
    assert first == tuple(range(1, 80, 3))
    assert between(first, [40], CAA(), layers) == (38, 39, 40, 41, 42)
    assert between(first, [1], CAA(), layers) == (0, 1, 2, 3)
    assert between(first, [79], CAA(), layers) == (77, 78, 79)
    named = CAA(CAA.Config(layers=(10, 13)))
    assert first_layers(named, layers, Search()) == (10, 13)
    assert between((10, 13), [13], named, layers) == (13,)


def test_a_search_is_kept_as_a_model_config_that_needs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("caa_bench.models.saving.own_models_folder", lambda: tmp_path / "models")
    monkeypatch.setattr("caa_bench.models.model.own_models_folder", lambda: tmp_path / "models")
    few = ["behavior=refusal", "tune=layers", "bases=[none]", "vectors=[caa]", "evaluators=[answer_probability]"]
    few += ["limit=24", "report_to=[]"]
    assert main(["tune", "--save", "my-tiny", *few]) == 0
    said = capsys.readouterr().out
    assert "caa: layer 3 at multiplier" in said
    kept = ChatModel.find("my-tiny").loading
    assert (kept.source, kept.layer, kept.tuned["caa/refusal"][0]) == ("package:tiny", 3, 3.0)
    unit = kept.tuned["caa/refusal"][1]
    auto = [setting for setting in few if setting != "tune=layers"]
    assert main(["compare", "--output", "run", "model=my-tiny", *auto]) == 0
    found = manifest(tmp_path / "run")
    assert not (tmp_path / "run" / "tuning").exists()
    doses = sorted(cell["multiplier"] for cell in found["facts"]["cells"] if cell["vector"])
    assert doses == [-unit, -unit / 2, unit / 2, unit]
    assert f"an earlier search: caa layer 3 at multiplier {unit:g}." in (tmp_path / "run" / "table.txt").read_text()
    assert main(["tune", "--save", "tiny", *few]) == 2
    assert "there is a model config 'tiny' already" in capsys.readouterr().err
    assert main(["tune", "--save", "../x", *few]) == 2
    assert "'../x' is no name" in capsys.readouterr().err


def test_the_dose_of_a_vector_without_norms_is_not_known() -> None:
    vector = CAA()
    assert dose_of(vector, 3, 2.0) is None
    vector.diagnostics = [{"layer": 3, "norm": 0.5, "residual_norm": 10.0}]
    assert dose_of(vector, 3, -2.0) == pytest.approx(0.1)


def test_sentences_for_a_choice_that_is_not_clear_at_the_edge_and_not_felt() -> None:
    line = {
        "arm": "caa", "group": "layer 5", "layer": 5, "multiplier": 2.0, "dose": 0.4, "text": None, "n": 30,
        "effect": 0.04, "effect_low": 0.01, "effect_high": 0.07, "p_value": 0.4, "shift_up": 0.05, "shift_down": -0.03,
        "mass_kept": 0.95, "capability_loss": None, "capability_loss_high": None,
    }  # fmt: skip
    arm = {
        "tries": 12, "worked": False, "why": "its interval holds 0", "chosen": line, "rival": line | {"layer": 2},
        "lead": 0.01, "lead_low": -0.02, "lead_high": 0.04, "edge": ["layer", "dose"], "not_felt": True,
    }  # fmt: skip
    record = {"items": 30, "p_matching": 0.5, "option_mass": 0.7, "p_correct": 0.51, "arms": {"caa": arm}}
    text = "\n".join(tuning_lines(record))
    assert (
        "caa: nothing worked here in 12 tries. The largest, layer 5 at multiplier 2 (0.4 of the residual norm)" in text
    )
    assert "by +0.01 [-0.02, +0.04] log-odds: the choice is not clear." in text
    assert "not felt: at every setting tried the effect stays within 0.1 log-odds of 0" in text
    assert "the chosen layer and dose is the first or last one tried" in text
    assert "The capability test says little here: without steering p(correct) is 0.51" in text
    assert "was not measured" in text
    assert tuning_lines({}) == []


def test_of_several_fits_the_first_is_searched_with_and_all_are_measured_alike(wide: Small, tmp_path: Path) -> None:
    settings = wide.settings("tune=auto", "bases=[none]", "vectors=[caa, random]", "caa.multipliers=[-1, 1]", "fits=2")
    assert run(["compare", "--output", "run", *settings], folder=tmp_path) == 0
    found = manifest(tmp_path / "run")["facts"]
    chosen = found["tuning"]["arms"]["caa"]["chosen"]
    steered = [cell for cell in found["cells"] if cell["vector"]]
    assert {cell["fit"] for cell in steered if cell["vector"] == "caa"} == {"1", "2"}
    assert {cell["layer"] for cell in steered} == {chosen["layer"]}
    assert {abs(cell["multiplier"]) for cell in steered} == {chosen["multiplier"]}, "placebos go with their original"


@needs_data
@pytest.mark.slow
def test_on_a_real_model_it_finds_the_layer_where_steering_works(tmp_path: Path) -> None:
    """Qwen2.5-Coder-0.5B-Instruct: layer 10, the default, moves nothing; layer 14 does (issue 12)."""
    behavior = load_behavior("corrigible-neutral-HHH", data="caa", data_dir=DATA)
    behavior = replace(behavior, train=behavior.train[:30])
    args = BenchmarkArguments(vectors=("caa",), limit=30, output_dir=str(tmp_path / "runs"), **FEW)
    chat = ChatModel.find(str(real_model("qwen05")), changes={"dtype": "float32"})
    benchmark = Benchmark(chat, behavior=behavior, args=args, interventions=[CAA()], folder=tmp_path / "run")
    report = benchmark.compare().report()
    arm = benchmark.tuning["arms"]["caa"]
    assert arm["worked"]
    assert 12 <= arm["chosen"]["layer"] <= 16
    assert arm["lead_low"] > 0
    own = report.shifts[report.shifts["vector"] == "caa"].set_index("multiplier")
    unit = arm["chosen"]["multiplier"]
    assert own.loc[unit, "shift_low"] > 0
    assert own.loc[-unit, "shift_high"] < 0


def test_a_saved_record_is_json(tiny: Path) -> None:
    assert json.loads(json.dumps(tuning(tiny))) == tuning(tiny)


def test_conditions_of_a_settled_vector_and_its_evaluators_follow_the_unit() -> None:
    from caa_bench.runs.tuning_grid import settled

    vector = CAA(CAA.Config(multipliers=(-1.0, 0.5)))
    (made,) = settled([vector], {"caa": (4, 3.0)})
    assert made.conditions(Layers(count=8, default=3, hidden=4)) == [
        Condition(layer=4, multiplier=-3.0),
        Condition(layer=4, multiplier=1.5),
    ]
    assert (made.scaled(2.0), vector.scaled(2.0)) == (6.0, 2.0)
    assert settled([vector], {}) == [vector]


def test_a_small_selection_split_is_topped_up_with_training_items_never_with_test_items(tmp_path: Path) -> None:
    """Those first on which no vector is fitted; on the others it does more than it will elsewhere, which is said."""
    folder = write_behavior(tmp_path / "own", train=60, test=8, selection=6)
    behavior = load_behavior(folder, max_pairs=40)
    learned = {pair.item for pair in behavior.pairs()}
    found = search_items(behavior, limit=None)
    assert (found.selection, found.unseen, found.fitted) == (6, 40, 4) and len(found) == 50
    items = found.behavior.selection
    assert items[:6] == behavior.selection
    assert not {item.id for item in items[6:46]} & learned and {item.id for item in items[46:]} <= learned
    assert set(items) & set(behavior.test) == set() and found.behavior.train == behavior.train
    said = items_line({"items": 50, **found.facts()})
    assert said == (
        "Tuned on 50 items in both option orders, 6 of the selection split and, as 20 are needed, 44 of the training "
        "split; vectors were fitted on 4 of those, where effects are larger than on new items"
    )
    assert tuned_on(found.facts()) == "selection and training items"
    assert (tuned_on({}), tuned_on({"of_train": 9, "of_selection": 0})) == ("the selection split", "training items")
    assert len(search_items(behavior, limit=12)) == 12
    large = load_behavior(write_behavior(tmp_path / "large", train=10, test=8, selection=20))
    assert search_items(large, limit=None).behavior is large


def test_without_a_selection_split_the_choice_is_made_on_training_items(wide: Small, tmp_path: Path) -> None:
    """Thirty items of one's own: 20 for the test, 10 to fit and to choose on, and the planted layer is found."""
    folder = write_behavior(tmp_path / "few", train=32)
    for split in ("selection", "test"):
        (folder / f"{split}.json").unlink()
    (folder / "train.json").rename(folder / "items.json")
    command = wide.compare("tune=layers", f"behavior={folder}", "vectors=[caa]", "bases=[none]", "caa.layers=default")
    assert run(command, folder=tmp_path) == 0
    record = manifest(tmp_path / "run")["facts"]["tuning"]
    assert (record["items"], record["of_selection"], record["of_train"], record["of_fitted"]) == (12, 0, 12, 12)
    assert "12 of the training split" in " ".join((tmp_path / "run/table.txt").read_text().split())
