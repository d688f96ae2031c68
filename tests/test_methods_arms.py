"""Named arms: several of one class side by side, in a recipe and in Python, and vectors as part of a base."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import Small

from caa_bench.behaviors.behavior import load_behavior
from caa_bench.benchmark import Benchmark
from caa_bench.errors import UserError
from caa_bench.interventions import CAA, Condition, Intervention, LoraSFT, RandomDirection
from caa_bench.interventions.stack import SteeredBase
from caa_bench.models.layers import Layers
from caa_bench.recipe import BenchmarkArguments, load_recipe

ARMS = """extends: smoke.yaml
bases: [none, lora_r2_positive, lora_sft_positive]
vectors: [caa, caa_late, random]
report_to: []
arms:
  lora_r2: {uses: lora_sft, rank: 2}
  caa_late:
    uses: caa
    layers: [2]
"""


def refused(tmp_path: Path, *changes: tuple[str, str]) -> list[str]:
    """The mistakes of the recipe above with something replaced, without the folder in front."""
    text = ARMS
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        Benchmark.from_recipe(load_recipe(tmp_path / "r.yaml"))
    return [line.replace(f"{tmp_path}/", "") for line in error.value.lines]


def test_each_arm_has_its_own_settings_and_its_name_is_its_label(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(ARMS)
    recipe = load_recipe(tmp_path / "r.yaml", ["arms.lora_r2.alpha=4"])
    built = {one.label: one for one in recipe.interventions(load_behavior("refusal"))}
    assert list(built) == [
        "none", "lora_r2_positive", "lora_sft_positive", "caa", "caa_late", "random", "random_caa_late",
    ]  # fmt: skip
    small, plain = built["lora_r2_positive"].config, built["lora_sft_positive"].config
    assert (small.rank, small.alpha, plain.rank, plain.alpha) == (2, 4, 8, 16)
    assert small.max_pairs is None, "an arm begins with the class's defaults, not with its section"
    assert plain.max_pairs == 40
    assert built["caa_late"].conditions(Layers(count=3, default=1, hidden=8))[0].layer == 2
    assert built["random_caa_late"].conditions(Layers(count=3, default=1, hidden=8))[0].layer == 2
    flat = recipe.flat()
    assert flat["arms"]["lora_r2"]["uses"] == "lora_sft"
    assert flat["arms"]["lora_r2"]["rank"] == 2


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("rank: 2", "rnak: 2"), "r.yaml:6: arms.lora_r2.rnak: unknown key; did you mean 'rank'?"),
        (("rank: 2", "rank: two"), "r.yaml:6: arms.lora_r2.rank: expected an integer, found the text 'two'"),
        (("rank: 2", "rank: 0"), "r.yaml:6: arms.lora_r2.rank: 0 is too small; give 1 or more"),
        (("uses: caa", "uses: cca"), "r.yaml:7: arms.caa_late.uses: 'cca' is no intervention; did you mean 'caa'?"),
        (("    uses: caa\n", ""), "r.yaml:7: arms.caa_late.uses: missing; name its class, one of "),
        (("lora_r2:", "lora_sft:"), "r.yaml:6: arms: 'lora_sft' is what the class lora_sft is called without a name"),
        (("lora_r2:", "perplexity:"), "r.yaml:6: arms: 'perplexity' is the name of another section"),
        (("[2]", "[99]"), "r.yaml:9: arms.caa_late.layers: layer 99 does not exist; this model has layers 0 to 5"),
        (("lora_r2_positive", "lora_r2_mild"), "r.yaml:2: bases: lora_r2_mild is unknown; use lora_r2_positive, "),
    ],
)
def test_a_mistake_names_the_arm_and_its_line(change: tuple[str, str], line: str, tmp_path: Path) -> None:
    (said,) = refused(tmp_path, change)
    where, _, rest = line.partition(": ")
    assert rest in said
    assert said.split(":")[0] == where.split(":")[0]


def test_in_python_an_object_is_named(small: Small, tmp_path: Path) -> None:
    """The same recipe as YAML would say, and a placebo beside each."""
    args = BenchmarkArguments(output_dir=str(tmp_path), report_to=(), tune="off")
    arms = [CAA(layers=[1]), CAA(layers=[2]).named("caa_late"), LoraSFT(rank=2).named("lora_r2")]
    made = Benchmark(str(small.model), behavior=str(small.behavior), args=args, interventions=arms, progress=False)
    assert [one.label for one in made.vectors if not one.is_placebo] == ["caa", "caa_late"]
    assert {"random", "random_caa_late"} <= {one.label for one in made.vectors}
    assert [one.label for one in made.bases] == ["none", "lora_r2_positive"]
    assert made.recipe.flat()["arms"]["caa_late"]["layers"] == (2,)
    with pytest.raises(UserError, match=r'name one, as caa\(\.\.\.\)\.named\("my_caa"\)'):
        Benchmark(str(small.model), behavior=str(small.behavior), args=args, interventions=[CAA(layers=[1]), CAA()])
    for wrong in ("caa", "lora_sft_positive", "a+b", "", "1st"):
        with pytest.raises(UserError, match="arms"):
            CAA().named(wrong)


def test_other_fits_and_what_is_read_back_keep_the_name(small: Small, tmp_path: Path) -> None:
    assert CAA().named("mine").another_fit(2, made={}).key == "mine@2"
    assert LoraSFT().named("r8").another_fit(2, made={}).key == "r8_positive@2"
    placebo = RandomDirection(original=CAA().named("mine"))
    assert placebo.label == "random_mine"
    again = RandomDirection.revive({"seed": 0, "draw": 1, "original": CAA().settings()}, variant="mine")
    assert again.label == "random_mine"


def test_arms_and_a_base_with_a_vector_are_measured(small: Small, tmp_path: Path) -> None:
    """One run: two vectors of one class, a stack with one of them below the other, its rows and its recipe."""
    settings = small.settings(
        "bases=[none, system_prompt_positive+caa]",
        "vectors=[caa_late, random]",
        "arms.caa_late.uses=caa",
        "arms.caa_late.layers=[2]",
        "arms.caa_late.multipliers=[-8, 8]",
        "limit=8",
        "tune=off",
    )
    recipe = load_recipe("compare", settings)
    made = Benchmark.from_recipe(recipe, folder=tmp_path / "run", progress=False).compare()
    cells = made.plan().cells
    assert {(cell.base, cell.base_dose) for cell in cells} == {
        ("none", 1.0), ("system_prompt_positive+caa", -8.0), ("system_prompt_positive+caa", 8.0),
    }  # fmt: skip
    assert {cell.vector for cell in cells} == {"", "caa_late", "random_caa_late"}
    assert {cell.layer for cell in cells if cell.vector == "caa_late"} == {2}
    assert (tmp_path / "run" / "manifest.json").is_file()
    assert not made.report().cells.empty
    again = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert again.flat() == made.recipe.flat()
    base = next(one for one in made.bases if isinstance(one, SteeredBase))
    assert base.edits(Condition(layer=1, multiplier=8.0))


def test_two_vectors_in_one_base_are_refused(small: Small) -> None:
    settings = small.settings("bases=[none, caa+repe_pca]", "vectors=[random]", "random.placebo_of=[caa]")
    with pytest.raises(UserError, match=r"bases: caa\+repe_pca in one base are two vectors"):
        Benchmark.from_recipe(load_recipe("compare", settings))


def test_a_name_changes_nothing_that_is_learned() -> None:
    plain, named = CAA(layers=[1]), CAA(layers=[1]).named("mine")
    assert isinstance(named, Intervention)
    assert plain.settings() == named.settings()
