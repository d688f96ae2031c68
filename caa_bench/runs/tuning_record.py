"""What a search tried and chose: JSON for the manifest, tuning.csv, and the sentences that a reader gets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.runs.tuning_items import items_line
from caa_bench.storage.atomic import write_atomic

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.runs.tuning_arms import Arm

FILE = "tuning.csv"
SETTINGS = ("layer", "multiplier", "dose", "text")
NUMBERS = (
    "n", "effect", "effect_low", "effect_high", "p_value", "shift_up", "shift_down", "mass_kept", "capability_loss",
    "capability_loss_low", "capability_loss_high", "capability_items",
)  # fmt: skip
COLUMNS = ("arm", "group", *SETTINGS, *NUMBERS, "qualifies", "chosen")


KNOWS = 0.6
"""p(correct) of two options below which a loss of capability can hardly be seen."""


def record_of(
    arms: Sequence[Arm], *, scores: pd.DataFrame | None, capability: pd.DataFrame | None, unchanged: str
) -> dict[str, Any]:
    """What was tried and chosen, as JSON: numbers of 9 digits, None for what is not known.

    Returns:
        `items`, `option_mass`, `p_matching` and `p_correct` of the unchanged model; `arms`: label -> `tries`,
        `qualified`, `worked`, `why` not, `chosen` and `rival` (a line of `tried` each), `lead` with its interval,
        `edge` (the settings whose chosen value is the first or last tried) and `not_felt`; `tried`: one line a
        candidate, of `COLUMNS`.
    """
    plain, facts = (None if one is None else one[one["cell"] == unchanged] for one in (scores, capability))
    record: dict[str, Any] = {
        "items": 0 if plain is None else int(plain["log_odds"].notna().sum()),
        "option_mass": None if plain is None else _number(plain["option_mass"].mean()),
        "p_matching": None if plain is None else _number(plain["p_balanced"].mean()),
        "p_correct": None if facts is None else _number(facts["p_balanced"].mean()),
        "arms": {},
        "tried": [],
    }
    for arm in arms:
        if arm.weighed is None or arm.chosen is None:
            continue
        lines = _tried_lines(arm)
        chosen, rival = arm.chosen, arm.chosen.rival
        record["arms"][arm.label] = {
            "tries": len(lines),
            "qualified": sum(line["qualifies"] for line in lines),
            "worked": chosen.worked,
            "why": chosen.why,
            "chosen": lines[chosen.index],
            "rival": None if rival is None else lines[rival],
            **{name: _number(getattr(chosen, name)) for name in ("lead", "lead_low", "lead_high")},
            "edge": _edges(lines, lines[chosen.index]),
            "not_felt": _not_felt(lines),
        }
        record["tried"] += lines
    return record


def write_tuning(folder: Path, record: Mapping[str, Any]) -> None:
    """`tuning.csv` in the run folder: one line a candidate."""
    import pandas as pd

    from caa_bench.storage.files import csv_cell

    table = pd.DataFrame(record["tried"], columns=list(COLUMNS))
    text = table.map(csv_cell).to_csv(index=False, float_format="%.9g", lineterminator="\n")
    write_atomic(folder / FILE, str(text))


def dose_unit(record: Mapping[str, Any], vector: str) -> float:
    """The multiplier that a recipe's 1 stands for in a run: what was chosen for the vector, 1 where nothing was."""
    return float(record.get("settled", {}).get(vector, (None, 1.0))[1])


def chosen_settings(record: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    """Label -> layer and multiplier of every vector that was tuned (`tuning_grid.settled`)."""
    every = {label: arm["chosen"] for label, arm in record.get("arms", {}).items()}
    return {label: (one["layer"], one["multiplier"]) for label, one in every.items() if one["layer"] is not None}


def chosen_bases(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Label -> `text` or `multiplier` of every base that was tuned (`tuning_arms.settled_bases`)."""
    every = {label: arm["chosen"] for label, arm in record.get("arms", {}).items()}
    return {
        label: {name: one[name] for name in ("text", "multiplier") if one[name] is not None}
        for label, one in every.items()
        if one["layer"] is None
    }


def tuning_lines(record: Mapping[str, Any]) -> list[str]:
    """What a reader is told: what was tried, what was chosen, how clear it was, what did not work; whole sentences.

    Args:
        record: `facts["tuning"]` of the manifest; empty where nothing was to be tuned.
    """
    if "items" not in record:
        return [str(record["untuned"])] if "untuned" in record else []
    said = [
        f"{items_line(record)}; without steering p(matching) is {_probability_text(record['p_matching'])} and the "
        f"option mass {_probability_text(record['option_mass'])}."
    ]
    if record["p_correct"] is not None and record["p_correct"] < KNOWS:
        said.append(
            "The capability test says little here: without steering p(correct) is "
            f"{_probability_text(record['p_correct'])}, near the .50 of guessing, so there is hardly anything to lose."
        )
    for label, arm in record["arms"].items():
        said += _arm_lines(label, arm)
    if alone := record.get("not_tuned"):
        said.append(f"Not tuned, one try each: {', '.join(alone)} (tune=all also tries wordings and scales).")
    return said


def _arm_lines(label: str, arm: Mapping[str, Any]) -> list[str]:
    from caa_bench.analysis.choice import FELT
    from caa_bench.analysis.fairness import MOST_LOSS
    from caa_bench.analysis.intervals import can_show_loss

    chosen = arm["chosen"]
    said = []
    if arm["worked"]:
        said.append(f"{label}: {_setting(chosen)} is the best of {arm['tries']} tries: {_does(chosen)}.")
    else:
        found = "whether it works cannot be told" if chosen["effect_low"] is None else "nothing worked here"
        said.append(
            f"{label}: {found} in {arm['tries']} tries. The largest, {_setting(chosen)}, is measured: "
            f"{_does(chosen)}; but {arm['why']}."
        )
    said.append(f"{label}: {_lead(arm)}")
    if chosen["capability_loss"] is None:
        said.append(f"{label}: what the tries cost in capability was not measured, so none was left out for it.")
    else:
        loss, high = chosen["capability_loss"], chosen["capability_loss_high"]
        most = "" if high is None else f", at most {high:.3f} by its interval"
        items = chosen.get("capability_items")  # finished runs that are reported again may not know it
        few = ", too few questions to show a small loss" if items and not can_show_loss(int(items), MOST_LOSS) else ""
        asked = f", n {items:.0f}" if items else ""
        said.append(f"{label}: its capability loss is {loss:+.3f}{most}{asked}{few}.")
    if arm["not_felt"]:
        said.append(f"{label}: not felt: at every setting tried the effect stays within {FELT:g} log-odds of 0.")
    if arm["edge"]:
        said.append(f"{label}: the chosen {' and '.join(arm['edge'])} is the first or last one tried.")
    return said


def _lead(arm: Mapping[str, Any]) -> str:
    rival = arm["rival"]
    if rival is None:
        return "no other candidate qualifies to compare it with."
    ends = "" if arm["lead_low"] is None else f" [{arm['lead_low']:+.2f}, {arm['lead_high']:+.2f}]"
    clear = arm["lead_low"] is not None and arm["lead_low"] > 0
    said = "the choice is clear" if clear else "the choice is not clear"
    return f"it leads the next best, {_setting(rival)}, by {arm['lead']:+.2f}{ends} log-odds: {said}."


def _setting(line: Mapping[str, Any]) -> str:
    if line["text"] is not None:
        return str(line["group"])
    if line["layer"] is None:
        return f"scale x{line['multiplier']:g}"
    dose = "" if line["dose"] is None else f" ({line['dose']:.2g} of the residual norm)"
    return f"layer {line['layer']} at multiplier {line['multiplier']:g}{dose}"


def _does(line: Mapping[str, Any]) -> str:
    ends = "" if line["effect_low"] is None else f" [{line['effect_low']:+.2f}, {line['effect_high']:+.2f}]"
    sides = [
        f"{line[name]:+.2f} {where}"
        for name, where in (("shift_down", "down"), ("shift_up", "up"))
        if line[name] is not None
    ]
    both = f" ({', '.join(sides)})" if len(sides) > 1 else ""
    return f"{line['effect']:+.2f}{ends} log-odds{both}, n {line['n']}, option mass x{line['mass_kept']:.2f}"


def _tried_lines(arm: Arm) -> list[dict[str, Any]]:
    assert arm.weighed is not None and arm.chosen is not None  # noqa: S101 - narrows the types for mypy
    made = []
    for place, line in enumerate(arm.weighed.table.to_dict("records")):
        own: dict[str, Any] = {"arm": arm.label, "group": line["group"]}
        own |= {name: _number(line.get(name)) for name in (*SETTINGS, *NUMBERS)}
        own |= {name: None if own[name] is None else int(own[name]) for name in ("layer", "n")}
        made.append(own | {"qualifies": bool(line["qualifies"]), "chosen": place == arm.chosen.index})
    return made


def _edges(lines: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> list[str]:
    """Of layer and dose those whose chosen value ends the values tried, three or more; a dose among its layer's."""
    found = []
    for name in ("layer", "multiplier"):
        near = [line for line in lines if name == "layer" or line["layer"] == chosen["layer"]]
        values = sorted({line[name] for line in near if line[name] is not None})
        if len(values) >= 3 and chosen[name] in (values[0], values[-1]):
            found.append({"layer": "layer", "multiplier": "dose"}[name])
    return found


def _not_felt(lines: Sequence[Mapping[str, Any]]) -> bool:
    from caa_bench.analysis.choice import FELT

    known = [line for line in lines if line["effect_low"] is not None]
    return bool(known) and all(max(-line["effect_low"], line["effect_high"]) <= FELT for line in known)


def _number(value: Any) -> Any:
    """9 digits; None for what is not finite or not there; text as it is."""
    if value is None or isinstance(value, str):
        return value
    return float(f"{value:.9g}") if math.isfinite(value) else None


def _probability_text(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
