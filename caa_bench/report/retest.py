"""The command that measures on the test split what a run on the selection split has chosen."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from caa_bench.config.recipe_yaml import flatten
from caa_bench.interventions.building import intervention_class
from caa_bench.recipe import load_recipe
from caa_bench.report.headline import Headline

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report

KEPT = ("protocol", "data", "data_dir", "seed", "fits", "batch_size")


def retest_command(report: Report, chosen: Headline, matched: pd.DataFrame) -> str:
    """`make compare` with the chosen layer and doses, each base at full strength and matched; "" without a choice.

    Whatever else decides a fit or an answer is set where it is not the default, so that the fits are found again.
    """
    known = matched[matched["base_dose"].notna()]
    if known.empty:
        return ""
    recipe, bases = report.manifest["recipe"], list(known["base"])
    shipped = load_recipe("compare").args.bases
    new = [base for base in bases if base not in shipped]
    named = {"bases": [*shipped, *new]} if new else {}
    plain = flatten(load_recipe("compare", [f"{key}={_written(value)}" for key, value in named.items()]).flat())
    parts = [*(part for base in bases for part in base.split("+")), chosen.vector]
    deciding = ("loading.", *(f"{cls.name}." for cls in map(intervention_class, parts) if cls))
    others = {
        key: value
        for key, value in recipe.items()
        if (key in KEPT or key.startswith(deciding)) and value not in (plain.get(key), {})
    }
    values = dict(_doses(known, swept=len(chosen.layers) > 1)) | named
    values |= {key: value for key, value in others.items() if key not in values and not key.endswith(".multipliers")}
    settings = " ".join(f"{key}={_written(value)}" for key, value in values.items())
    quoted = shlex.quote(settings) if set(settings) & set('"$`\\') else f'"{settings}"'
    model = [] if recipe["model"] == plain["model"] else [f"MODEL={shlex.quote(str(recipe['model']))}"]
    behavior = f"BEHAVIOR={shlex.quote(str(recipe['behavior']))}"
    return " ".join(["make compare", behavior, *model, *([f"SET={quoted}"] if settings else [])])


def _doses(known: pd.DataFrame, *, swept: bool) -> Iterator[tuple[str, Any]]:
    """Of each kind of base all doses that one of its variants needs; the vector's, where others than +-1 would lead."""
    tuned = {base: cls for base in known["base"] if "+" not in base and (cls := intervention_class(base)) is not None}
    for cls in dict.fromkeys(tuned.values()):
        if "doses" in cls.grid:
            own = known[known["base"].map(lambda base, cls=cls: tuned.get(base) is cls)]
            yield f"{cls.name}.doses", [1.0, *sorted(set(own["base_dose"]) - {1.0})]
    vector = intervention_class(str(known["vector"].iloc[0]))
    if vector is not None and "multipliers" in vector.grid:
        if swept:
            yield f"{vector.name}.layers", sorted(int(layer) for layer in known["layer"].dropna().unique())
        if not set(known["multiplier"]) <= {-1.0, 1.0}:
            yield f"{vector.name}.multipliers", sorted(known["multiplier"].unique())


def _written(value: Any) -> str:
    """As `SET` reads it: no double quote and no blank outside of single ones."""
    if isinstance(value, str):
        return value if value and not any(c in value for c in " \t'\"[]{}") else "'" + value.replace("'", "''") + "'"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)
