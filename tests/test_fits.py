"""Several fits of one intervention: other seeds, other resamples; averaged by item, and part of every interval."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from analysis_frames import cell, frame, scores
from report_page import check_tables
from small_runs import Small, manifest

from caa_bench import CAA, Benchmark, BenchmarkArguments, Intervention, LoraSFT, SystemPrompt
from caa_bench.__main__ import main
from caa_bench.analysis.cells import cell_table, shift_table
from caa_bench.analysis.effects import between_fits, of_pairs
from caa_bench.analysis.fits import Design, effect_intervals, effect_p_values, two_way
from caa_bench.analysis.frames import grouped
from caa_bench.analysis.items import item_scores
from caa_bench.analysis.power import Noise, detectable_effect, detectable_with
from caa_bench.analysis.reliability import reliability_table
from caa_bench.analysis.stacking import fit_levels
from caa_bench.interventions import RandomDirection, several_fits
from caa_bench.interventions.vectors import letter_differences
from caa_bench.models.model import ChatModel
from caa_bench.report import make_report
from caa_bench.runs.folder import RowStore
from caa_bench.runs.grid import bases_of

SETTINGS = (
    "fits=2", "bases=[none, system_prompt_positive, lora_sft_positive]", "vectors=[caa, random]", "random.draws=1"
)  # fmt: skip
N = 60


@pytest.fixture(scope="module")
def finished(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a comparison with two fits."""
    folder = tmp_path_factory.mktemp("fits")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(small.compare(*SETTINGS, "lora_sft.max_pairs=6")) == 0
    return folder / "run"


def test_each_fit_has_cells_of_its_own_and_what_is_not_fitted_serves_all(finished: Path) -> None:
    """A vector on a finetune is that of the same number; a prompt carries both; a placebo the unchanged model alone."""
    found: dict[tuple[str, str], set[str]] = {}
    for one in manifest(finished)["facts"]["cells"]:
        found.setdefault((one["base"], one["vector"]), set()).add(one["fit"])
    both = {"1", "2"}
    assert found == {
        ("none", ""): {""}, ("none", "caa"): both, ("none", "random"): {""},
        ("system_prompt_positive", ""): {""}, ("system_prompt_positive", "caa"): both,
        ("lora_sft_positive", ""): both, ("lora_sft_positive", "caa"): both,
    }  # fmt: skip
    kept = manifest(finished)["facts"]["artifacts"]
    assert set(kept) == {"random", *(f"{name}{end}" for name in ("caa", "lora_sft_positive") for end in ("", "@2"))}
    assert len(set(kept.values())) == 5


def test_the_report_has_one_line_a_condition_and_a_dot_a_fit(finished: Path) -> None:
    report = make_report(finished)
    assert len(report.cells) == 3 + 3 * 2 + 2
    assert report.cells.set_index("base")["n_fits"].groupby(level=0).max().to_dict() == {
        "none": 2, "system_prompt_positive": 2, "lora_sft_positive": 2,
    }  # fmt: skip
    by_cell = item_scores(RowStore(finished / "rows.jsonl").frame()).groupby("cell")["p_balanced"].mean()
    lead = report.cells[report.cells["n_fits"] == 2].set_index("cell")["p_balanced"]
    assert report.items.groupby("cell")["p_balanced"].mean()[lead.index].to_dict() == pytest.approx(lead.to_dict())
    assert report.fits.set_index("cell")["p_balanced"].to_dict() == pytest.approx(
        by_cell[report.fits["cell"]].to_dict()
    )
    lora = report.fits[(report.fits["base"] == "lora_sft_positive") & (report.fits["multiplier"] == 0)]
    level = report.cells[(report.cells["base"] == "lora_sft_positive") & (report.cells["multiplier"] == 0)]
    assert lora["p_balanced"].nunique() == 2, "two seeds are two finetunes"
    assert level["p_balanced"].item() == pytest.approx(lora["p_balanced"].mean())
    stacks = report.stacking[report.stacking["vector"] == "caa"]
    assert set(stacks["n_fits"]) == {2}
    assert not stacks["caveats"].str.contains("one seed").any()
    assert not any("cells have no scored item" in notice.text for notice in report.notices)
    assert "means of 2 fits" in " ".join(report.text().split())


def test_every_fit_on_the_page_is_a_line_of_its_table(finished: Path) -> None:
    counted = check_tables(finished)
    assert counted["fits.p_balanced"] == counted["fits.on_top"] > 10


def test_nothing_is_computed_twice(
    small: Small, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished.parent)
    before = (finished / "rows.jsonl").read_bytes()
    assert main(small.compare(*SETTINGS, "lora_sft.max_pairs=6")) == 0
    assert (finished / "rows.jsonl").read_bytes() == before
    assert "fit lora_sft_positive@2 on 6 pairs ... kept from before" in capsys.readouterr().err


def test_every_fit_is_exported(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder a fit; the effects on its card are the run's, which are means."""
    monkeypatch.chdir(finished.parent)
    assert main(["export", str(finished), str(tmp_path / "out")]) == 0
    kept = {path.parent.name for path in (tmp_path / "out").glob("*/artifact.json")}
    assert kept == {"caa", "caa@2", "lora_sft_positive", "lora_sft_positive@2", "random"}
    for name in ("caa", "caa@2"):
        assert "Means of 2 fits, this one among them" in (tmp_path / "out" / name / "README.md").read_text()
    resampled = Intervention.from_pretrained(tmp_path / "out" / "caa@2")
    assert resampled.config.resample == 2


def test_a_fit_that_fails_leaves_the_others(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its cells are missing and said to be; the mean is of the fits that are there."""
    train = LoraSFT.fit

    def fail(self: LoraSFT, *args: object) -> None:
        if self.config.seed:
            raise RuntimeError("no convergence")
        train(self, *args)  # type: ignore[arg-type]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LoraSFT, "fit", fail)
    assert main(small.compare(*SETTINGS, "lora_sft.max_pairs=6")) == 1
    report = make_report(Path("run"))
    lora = report.cells[report.cells["base"] == "lora_sft_positive"]
    assert set(lora["n_fits"]) == {1}
    assert any("lora_sft_positive@2 could not be fitted" in notice.text for notice in report.notices)


def test_fits_of_the_api_and_a_stack_are_joint() -> None:
    own = [
        SystemPrompt(variant="mine", text="Be brief."), LoraSFT(), caa := CAA(),
        RandomDirection(original=caa, draws=2),
    ]  # fmt: skip
    made = several_fits(own, count=2)
    assert [one.key for one in made] == [
        "system_prompt_mine", "lora_sft_positive", "caa", "random", "random@2", "lora_sft_positive@2", "caa@2",
    ]  # fmt: skip
    assert [one.config.seed for one in made if one.name == "lora_sft"] == [0, 1]
    assert [one.config.resample for one in made if one.name == "caa"] == [1, 2]
    assert [one.original is made[2] for one in made[3:5]] == [True] * 2, (
        "placebos have the norm of the first fit's vector"
    )
    assert made[4].draw == 2
    assert own[3].original is caa, "what was given stays as it was"
    bases = bases_of(["system_prompt_mine+lora_sft_positive"], interventions=made)
    assert [base.key for base in bases] == [
        "none", "system_prompt_mine+lora_sft_positive", "system_prompt_mine+lora_sft_positive@2",
    ]  # fmt: skip
    assert several_fits(own, count=1)[:4] == own
    benchmark = Benchmark("tiny", args=BenchmarkArguments(fits=3, vectors=("caa",)), interventions=[CAA()])
    assert [one.number for one in benchmark.vectors] == ["1", "2", "3"]


def test_a_resample_is_the_mean_over_drawn_items(small: Small) -> None:
    """Both option orders of an item are drawn together; the same number draws the same."""
    from caa_bench.behaviors.behavior import load_behavior

    chat, pairs = ChatModel.find(str(small.model)), load_behavior(str(small.behavior)).pairs()
    differences = letter_differences(chat.model, chat.tokenizer, pairs)
    items = list(dict.fromkeys(pair.item for pair in pairs))
    vectors = {}
    for number in (1, 2):
        drawn = random.Random(number).choices(items, k=len(items))
        rows = [place for item in drawn for place, pair in enumerate(pairs) if pair.item == item]
        fitted = CAA(CAA.Config(resample=number))
        fitted.fit(chat.model, chat.tokenizer, pairs)
        vectors[number] = fitted.fitted()
        assert (vectors[number] - differences[rows].double().mean(0).float()).abs().max() < 1e-6
    assert (vectors[1] - vectors[2]).norm() > 0.01 * vectors[1].norm()


def test_differences_between_fits_widen_every_interval() -> None:
    """The same spread over items; the fits of one run agree, those of the other do not."""
    rng = np.random.default_rng(0)
    item = rng.normal(size=N)
    widths = {}
    for spread in (0.0, 1.5):
        cells = [cell() | {"fit": ""}]
        values = {cells[0]["cell"]: item}
        for number in (1, 2, 3):
            made = cell(vector="caa", layer=3.0, multiplier=1.0)
            cells.append(made | {"cell": f"{made['cell']}~{number}", "fit": str(number)})
            values[cells[-1]["cell"]] = item + 1 + spread * (number - 2) + 0.3 * rng.normal(size=N)
        table = shift_table(grouped(scores(values), frame(cells))).set_index("multiplier").loc[1.0]
        assert table["n_fits"] == 3
        assert table["shift"] == pytest.approx(1, abs=0.2)
        widths[spread] = table["shift_high"] - table["shift_low"]
        levels = cell_table(grouped(scores(values), frame(cells))).set_index("multiplier")
        assert levels.loc[1.0, "log_odds"] == pytest.approx(np.mean([values[x["cell"]] for x in cells[1:]]))
        assert levels["n"].tolist() == [N, N]
        dots = fit_levels(grouped(scores(values), frame(cells)))
        assert dots["fit"].tolist() == ["1", "2", "3"]
        assert dots["log_odds"].tolist() == pytest.approx([values[x["cell"]].mean() for x in cells[1:]])
    assert widths[1.5] > 5 * widths[0.0]


def test_fits_are_matched_by_their_numbers() -> None:
    """A vector whose second resample failed: its third is held against the third finetune, not against the second."""
    rng = np.random.default_rng(1)
    item, cells, values = rng.normal(size=N), [], {}
    for number, level in (("1", 0.0), ("2", 6.0), ("3", -6.0)):
        made = cell("lora_sft_positive") | {"fit": number}
        cells.append(made | {"cell": f"base~{number}"})
        values[f"base~{number}"] = item + level
        if number != "2":
            top = cell("lora_sft_positive", vector="caa", multiplier=1.0) | {"fit": number}
            cells.append(top | {"cell": f"top~{number}"})
            values[f"top~{number}"] = item + level + 1 + 0.1 * rng.normal(size=N)
    moved = shift_table(grouped(scores(values), frame(cells))).set_index("multiplier").loc[1.0]
    assert moved["n_fits"] == 2
    assert moved["shift"] == pytest.approx(1, abs=0.05)
    (curve,) = reliability_table(grouped(scores(values), frame(cells))).to_dict("records")
    assert (curve["n"], curve["slope"]) == (N, pytest.approx(1, abs=0.05))


def test_resamples_of_one_training_set_count_their_own_spread() -> None:
    """Their mean is no nearer to the truth than the vector of that training set: coverage of an effect of none."""
    rng = np.random.default_rng(2)
    hit = 0
    for _ in range(200):
        drawn = rng.normal()  # of the training set
        fits = (drawn + rng.normal(size=3))[None, None, :] + 0.1 * rng.normal(size=(N, 1, 3))
        how = Design(clusters=np.arange(N), n_fits=np.array([3]), resampling=np.array([np.inf]))
        found = effect_intervals(fits, how)
        hit += int(found.low[0] <= 0 <= found.high[0])
    assert hit >= 184, "binomial: below with probability .02 at .95"


def coverage_on_a_finetune(*, n_fits: int, seeds: float, resamples: float, lines: int = 2000) -> dict[str, float]:
    """Share of lines whose interval of T holds 0, with the vector's part as known from A, and its width beside others'.

    T of a fit is off by its seed (sd `seeds`), by its resample and by the one training set (sd `resamples` each).
    """
    rng = np.random.default_rng(8)
    off = resamples * rng.normal(size=(lines, 1)) + resamples * rng.normal(size=(lines, n_fits))
    alone = off + 0.4 * rng.normal(size=(N, lines, n_fits))
    on_top = off + seeds * rng.normal(size=(lines, n_fits)) + 0.4 * rng.normal(size=(N, lines, n_fits))
    many, widths, covered = np.full(lines, n_fits), {}, {}
    for name, part in (("both", between_fits(alone, many)), ("resamples", np.full(lines, np.inf))):
        found = effect_intervals(on_top, Design(clusters=np.arange(N), n_fits=many, resampling=part))
        covered[name] = float(np.mean((found.low <= 0) & (found.high >= 0)))
        widths[name] = float(np.median(found.high - found.low))
    return {"covered": covered["both"], "narrower": widths["both"] / widths["resamples"]}


@pytest.mark.parametrize(
    ("n_fits", "seeds", "resamples", "least", "narrower"),
    [(3, 0.5, 0.15, 0.93, 0.7), (3, 0.3, 0.3, 0.91, 0.8), (5, 0.5, 0.15, 0.93, 0.65), (5, 0.1, 0.4, 0.91, 1.0)],
)
def test_seeds_of_a_finetune_are_not_counted_as_resamples(
    n_fits: int, seeds: float, resamples: float, least: float, narrower: float
) -> None:
    """They cover, and are much narrower where the seeds make the spread; no wider where the resamples do."""
    found = coverage_on_a_finetune(n_fits=n_fits, seeds=seeds, resamples=resamples)
    assert least <= found["covered"] <= 0.985 and found["narrower"] <= narrower, found


def test_what_differs_between_fits_is_known_by_the_cells() -> None:
    """A prompt has the resamples alone, a finetune its seeds, a stack of both the part that the vector alone shows."""
    lines: list[dict] = [cell() | {"fit": ""}, cell("system_prompt_positive") | {"fit": ""}]
    values = {line["cell"]: np.zeros(N) for line in lines}
    for number, effect in (("1", 1.0), ("2", 2.0), ("3", 4.0)):
        for base in ("none", "system_prompt_positive", "lora_sft_positive"):
            for vector in ("", "caa", "random"):
                fit = number if vector == "caa" or base == "lora_sft_positive" else ""
                made = cell(base, vector=vector, multiplier=float(bool(vector)))
                key = f"{made['cell']}~{fit}" if fit else made["cell"]
                if key not in values:
                    lines.append(made | {"cell": key, "fit": fit})
                    values[key] = np.full(N, effect if vector == "caa" else 0.0)
    (group,) = grouped(scores(values), frame(lines))
    part = group.cells.assign(part=of_pairs(group, "log_odds")).set_index(["base", "vector"])["part"]
    assert part[["lora_sft_positive"]].droplevel(0).to_dict() == pytest.approx(
        {"": 0.0, "caa": np.var([1, 2, 4], ddof=1), "random": 0.0}
    )
    for base in ("none", "system_prompt_positive"):
        assert part[base].to_dict() == {"": 0.0, "caa": np.inf, "random": 0.0}


def test_what_is_called_detectable_is_found_as_often_as_stated() -> None:
    """Three seeds that differ as much as items do on average: 2.8 standard errors would be found in .4 of runs."""
    rng, n_fits, lines = np.random.default_rng(9), 3, 2000
    design = Design(clusters=np.arange(N), n_fits=np.full(lines, n_fits))
    noise = 0.3 * rng.normal(size=(1, lines, n_fits)) + rng.normal(size=(N, lines, 1))
    true_se = float(np.sqrt(1 / N + 0.3**2 / n_fits))
    noises = Noise(items=1.0, fits=0.3 / n_fits**0.5, n_fits=n_fits)
    power = {}
    for name, effect in (("with fits", detectable_with(noises, n=N)), ("normal", detectable_effect(true_se))):
        power[name] = float(np.mean(effect_p_values(noise + float(effect), design) < 0.05))
    assert 0.75 <= power["with fits"] <= 0.85 and power["normal"] < 0.7, power


def test_no_fit_is_refused(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *small.settings("fits=0")]) == 2
    assert "fits: 0 is too few; give 1 or more" in capsys.readouterr().err


def test_a_single_fit_is_the_run_that_it_was(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No number in any name, all training pairs, and the caveat that fit noise is not known."""
    monkeypatch.chdir(tmp_path)
    assert main(small.compare("bases=[none, system_prompt_positive]", "limit=20")) == 0
    cells = manifest(Path("run"))["facts"]["cells"]
    assert {one["fit"] for one in cells} == {""}
    assert not Path("run/fits.csv").exists()
    report = make_report(Path("run"))
    assert report.stacking["caveats"].str.contains("one seed").all()
    assert len(json.loads(Path("run/manifest.json").read_text())["facts"]["artifacts"]) == 1
    assert RowStore(Path("run/rows.jsonl")).frame()["cell"].nunique() == len(cells)


def test_what_item_and_fit_have_together_is_not_counted_twice() -> None:
    """Two-way analysis of variance by hand: with I items and F fits the mean square of e is what they have together."""
    rng = np.random.default_rng(5)
    items, fits = 40, 3
    values = rng.normal(0, 1, (items, 1, 1)) + rng.normal(0, 0.3, (1, 1, fits)) + rng.normal(0, 0.5, (items, 1, fits))
    design = Design(clusters=np.arange(items), n_fits=np.array([fits]))
    own = values[:, 0]
    left = own - own.mean(axis=1, keepdims=True) - own.mean(axis=0) + own.mean()
    together = (left**2).sum() / ((items - 1) * (fits - 1)) / (items * fits)
    by_fit = own.mean(axis=0).var(ddof=1) / fits
    found = two_way(values, values, design)
    assert found.by_item[0] == pytest.approx(own.mean(axis=1).var(ddof=1) / items)
    assert found.by_fit[0] == pytest.approx(by_fit - 0.5 * together)
    resampled = replace(design, resampling=np.array([np.inf]))
    assert two_way(values, values, resampled).by_fit[0] == pytest.approx((by_fit - 0.5 * together) * (fits + 1))
    # fits that differ in every item alike have nothing together with items, and all of their variance counts
    alike = rng.normal(0, 1, (items, 1, 1)) + rng.normal(0, 0.3, (1, 1, fits))
    assert two_way(alike, alike, design).by_fit[0] == pytest.approx(alike.mean(axis=0)[0].var(ddof=1) / fits)
    # of two effects, one twice the other, it is the covariance: twice the variance
    assert two_way(values, 2 * values, design).by_fit[0] == pytest.approx(2 * found.by_fit[0])
