"""What a run on the selection split chooses: matched doses, effects at equal cost, and the command that tests them.

A matched dose is the dose of a base whose effect alone is nearest to that of the vector's own chosen dose.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.analysis.fairness import BUDGETS, Choice, effect_at_equal_loss, matched_dose
from caa_bench.config.recipe_yaml import flatten
from caa_bench.interventions import registry
from caa_bench.interventions.arms import Arm as NamedArm
from caa_bench.interventions.arms import arm_of
from caa_bench.interventions.building import intervention_class
from caa_bench.recipe import load_recipe
from caa_bench.report import words
from caa_bench.report.headline import CAPABILITY, by_condition, condition_of, direction

if TYPE_CHECKING:
    from caa_bench.report.model import Report

MATCHED = [
    "base", "direction", "base_dose", "cell", "total", "total_low", "total_high", "n", "vector", "layer", "multiplier",
    "target_cell", "target", "target_low", "target_high", "target_n", "gap", "gap_low", "gap_high", "gap_n", "tries",
    "at_edge",
]  # fmt: skip
EQUAL_LOSS = [
    "arm", "budget", "doses", "direction", "base", "base_dose", "layer", "multiplier", "cell", "total", "total_low",
    "total_high", "n", "capability_cell", "total_p", "total_p_low", "total_p_high", "capability_n",
]  # fmt: skip
KEPT = ("protocol", "data", "data_dir", "seed", "fits", "batch_size")
ENDS = ("", "_low", "_high")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A vector in one direction, or a base alone.

    Args:
        name: `CAA up`, `lora_sft_positive`.
        base: its label; "" for the vector.
        direction: +1 towards matching, -1 away from it.
        lines: of the answer probability's shifts, one a dose (the vector: a layer and multiplier).
    """

    name: str
    base: str
    direction: int
    lines: pd.DataFrame

    @property
    def tries(self) -> int:
        """The doses that were looked at."""
        return len(self.lines.drop_duplicates(["base_dose", "vector_layer", "layer", "multiplier"]))


def arms_alone(report: Report) -> Iterator[Arm]:
    """The vector up and down on the unchanged model, then each base that pushes somewhere, at all of its doses."""
    shifts, chosen = report.measured("shifts"), report.headline
    steered = shifts[(shifts["base"] == "none") & (shifts["vector"] == chosen.vector) & (shifts["multiplier"] != 0)]
    for sign, word in ((1, "up"), (-1, "down")):
        own = steered[steered["multiplier"] * sign > 0]
        if len(own):
            yield Arm(name=f"{words.display(chosen.vector)} {word}", base="", direction=sign, lines=own)
    alone = shifts[shifts["multiplier"] == 0]
    for base in dict.fromkeys(base for base, _ in chosen.bases if base != "none"):
        own = alone[alone["base"] == base].sort_values("base_dose", kind="stable")
        sign = direction(base, own["total"].iloc[-1]) if len(own) else 0
        if sign:
            yield Arm(name=base, base=base, direction=sign, lines=own)


def matched_table(report: Report) -> pd.DataFrame:
    """One line a base that pushes somewhere; none on the test split, or where no base has several doses.

    Returns:
        `MATCHED`: the base's nearest dose with its effect `total`, the target (the vector's chosen dose and what it
        does alone) and the paired `gap`, all log-odds, + towards matching; missing where no dose qualifies.
    """
    every = list(arms_alone(report))
    several = any(arm.base and arm.lines["base_dose"].nunique() > 1 for arm in every)
    if report.record.split != "selection" or not several:
        return pd.DataFrame(columns=MATCHED)
    choices = {choice.key["multiplier"] > 0: choice for choice in report.headline.choices}
    lines = [_matched(report, arm, choices.get(arm.direction > 0)) for arm in every if arm.base]
    return pd.DataFrame(lines, columns=MATCHED)


def equal_loss_table(report: Report) -> pd.DataFrame:
    """One line an arm and budget, for arms whose capability was measured; none where it was not.

    Returns:
        `EQUAL_LOSS`: `budget` (of p(correct), 0-1), `doses` within it, then the one with the largest effect: its shift
        `total` (log-odds) and its change of p(correct) `total_p`; missing where no dose is within the budget.
    """
    asked = by_condition(report.shifts, CAPABILITY)
    lines = [line for arm in arms_alone(report) for line in _priced(arm, asked)]
    if not lines:
        return pd.DataFrame(columns=EQUAL_LOSS)
    return effect_at_equal_loss(pd.DataFrame(lines), budgets=BUDGETS)[EQUAL_LOSS]


def tries_of(report: Report) -> str:
    """How many doses each arm was tried at: `CAA up 4, lora_sft_positive 4`."""
    return ", ".join(f"{arm.name} {arm.tries}" for arm in arms_alone(report))


def uneven_tries(report: Report) -> tuple[str, str] | None:
    """Severity and text, where the arms had unequal numbers of tries; a note where those that differ had a single one.

    None on the test split, where nothing is chosen, and where there is no base to compare with.
    """
    arms = list(arms_alone(report))
    tries = {arm.tries for arm in arms}
    if report.record.split != "selection" or len(tries) < 2 or not any(arm.base for arm in arms):
        return None
    text = f"The arms had unequal numbers of tries on the selection split ({tries_of(report)}): more tries find more."
    return "caution" if len(tries - {1}) > 1 else "note", text


def retest_command(report: Report) -> str:
    """`make compare` with the chosen layer and doses, each base at full strength and matched; "" without a choice.

    Whatever else decides a fit or an answer is set where it is not the default, so that the fits are found again.
    """
    known = report.matched[report.matched["base_dose"].notna()]
    if known.empty:
        return ""
    recipe, bases = report.record.settings, list(known["base"])
    shipped = load_recipe("compare").args.bases
    new = [base for base in bases if base not in shipped]
    named = {"bases": [*shipped, *new]} if new else {}
    plain = flatten(load_recipe("compare", [f"{key}={_written(value)}" for key, value in named.items()]).flat())
    parts = [*(part for base in bases for part in base.split("+")), report.headline.vector]
    arms = _named_arms(recipe)
    deciding = ("loading.", *(f"{_arm_section(part, arms)}." for part in parts if intervention_class(part, arms)))
    others = {
        key: value
        for key, value in recipe.items()
        if (key in KEPT or key.startswith(deciding)) and value not in (plain.get(key), {})
    }
    values = dict(_doses(known, arms, swept=len(report.headline.layers) > 1)) | named
    values |= {key: value for key, value in others.items() if key not in values and not key.endswith(".multipliers")}
    settings = " ".join(f"{key}={_written(value)}" for key, value in values.items())
    quoted = shlex.quote(settings) if set(settings) & set('"$`\\') else f'"{settings}"'
    model = [] if recipe["model"] == plain["model"] else [f"MODEL={shlex.quote(str(recipe['model']))}"]
    behavior = f"BEHAVIOR={shlex.quote(str(recipe['behavior']))}"
    return " ".join(["make compare", behavior, *model, *([f"SET={quoted}"] if settings else [])])


def _matched(report: Report, arm: Arm, choice: Choice | None) -> dict[str, Any]:
    line: dict[str, Any] = {"base": arm.base, "direction": arm.direction, "vector": report.headline.vector}
    line["tries"] = arm.tries
    target = None if choice is None else _target(report, choice)
    found = None if target is None else matched_dose(arm.lines, target=float(target["total"]))
    if target is None or found is None:
        return line
    own = arm.lines[arm.lines["base_dose"] == found.base_dose].iloc[0]
    gap = report.contrast({own["cell"]: 1.0, target["cell"]: -1.0})
    line |= {name: own[name] for name in ("base_dose", "cell", "total", "total_low", "total_high", "n")}
    line |= {name: target[name] for name in ("layer", "multiplier")} | {"target_cell": target["cell"]}
    line |= {f"target{end}": target[f"total{end}"] for end in ENDS} | {"target_n": target["n"]}
    line |= {"gap": gap.point, "gap_low": gap.low, "gap_high": gap.high, "gap_n": gap.n}
    return line | {"at_edge": found.at_edge}


def _target(report: Report, choice: Choice) -> pd.Series:
    shifts = report.measured("shifts")
    here = shifts[(shifts["base"] == "none") & (shifts["vector"] == report.headline.vector)]
    for column, value in choice.key.items():
        here = here[(here[column] == value) | here[column].isna()]
    return here.iloc[0]


def _priced(arm: Arm, asked: Mapping[Any, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The arm's doses with what each costs."""
    for line in arm.lines.to_dict("records"):
        lost = asked.get(condition_of(line))
        if lost is not None:
            own = {name: line[name] for name in ("base", "base_dose", "layer", "multiplier", "cell", "n")}
            own |= {f"total{end}": line[f"total{end}"] for end in ENDS}
            own |= {f"total_p{end}": lost[f"total_p{end}"] for end in ENDS}
            own |= {"capability_cell": lost["cell"], "capability_n": lost["n"]}
            own |= {"effect": arm.direction * line["total"], "capability_loss": -lost["total_p"]}
            own |= {"capability_loss_high": -lost["total_p_low"]}  # the largest loss that its interval holds
            yield {"arm": arm.name, "direction": arm.direction} | own


def _named_arms(recipe: Mapping[str, Any]) -> dict[str, NamedArm]:
    """The arms of a flattened recipe, by name."""
    classes = registry()
    uses = {key.split(".")[1]: str(value) for key, value in recipe.items() if re.fullmatch(r"arms\.\w+\.uses", key)}
    return {name: NamedArm(name=name, uses=classes[used]) for name, used in uses.items() if used in classes}


def _arm_section(label: str, arms: Mapping[str, NamedArm]) -> str:
    """The recipe section that a label's settings stand in."""
    found = arm_of(label, arms, registry())
    name = "" if found is None else found.name
    return f"arms.{name}" if name in arms else name


def _doses(known: pd.DataFrame, arms: Mapping[str, NamedArm], *, swept: bool) -> Iterator[tuple[str, Any]]:
    """The recipe keys to set: every dose of each trained base; the vector's layer and doses where not the defaults."""
    sections = {base: _arm_section(base, arms) for base in known["base"] if "+" not in base}
    for section in dict.fromkeys(sections.values()):
        base = next(base for base, own in sections.items() if own == section)
        cls = intervention_class(base, arms)
        if cls is not None and "doses" in cls.grid:
            own = known[known["base"].map(lambda base, section=section: sections.get(base) == section)]
            yield f"{section}.doses", [1.0, *sorted(set(own["base_dose"]) - {1.0})]
    label = str(known["vector"].iloc[0])
    vector = intervention_class(label, arms)
    if vector is not None and "multipliers" in vector.grid:
        if swept:
            yield (
                f"{_arm_section(label, arms)}.layers",
                sorted(int(layer) for layer in known["layer"].dropna().unique()),
            )
        if not set(known["multiplier"]) <= {-1.0, 1.0}:
            yield f"{_arm_section(label, arms)}.multipliers", sorted(known["multiplier"].unique())


def _written(value: Any) -> str:
    """As `SET` reads it: no double quote and no blank outside of single ones."""
    if isinstance(value, str):
        return value if value and not any(c in value for c in " \t'\"[]{}") else "'" + value.replace("'", "''") + "'"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)
