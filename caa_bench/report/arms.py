"""The first table: a line an arm alone and a stack, at the headline's layer and doses; and what each fit cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from caa_bench.analysis.estimates import MIN_ITEMS, Interval
from caa_bench.analysis.intervals import among
from caa_bench.analysis.placebos import strictest
from caa_bench.analysis.verdict import OPPOSITE, SMALLEST, opposite
from caa_bench.errors import UserError
from caa_bench.report import words
from caa_bench.report.headline import CAPABILITY, OPEN_ENDED, at_headline, by_condition, condition_of, direction
from caa_bench.storage.files import read_json

if TYPE_CHECKING:
    from caa_bench.report.model import Report

ENDS = ("", "_low", "_high")
SCALES = ("p_balanced", "log_odds")
COLUMNS = [
    "kind", "arm", "base", "base_dose", "vector", "layer", "multiplier", "cell", "p_before",
    *(f"p_balanced{end}" for end in ENDS), *(f"shift{end}" for end in ENDS), *(f"in_words{end}" for end in ENDS),
    *(f"retention{end}" for end in ENDS), "room", "option_mass", "detectable_effect",
    *(f"capability{end}" for end in ENDS), "n", "verdict", "tags", "verdict_words",
]  # fmt: skip

Line = dict[str, Any]


def arms_table(report: Report) -> pd.DataFrame:
    """Base by base in the recipe's order: the base alone, then the vector on it at each dose that leads (arms.csv).

    Returns:
        `COLUMNS`. `kind` is `none`, `base` (a base alone), `vector` (the vector alone) or `stack`. `shift` is the
        base's own against the unchanged model, or the vector's on its base, log-odds, + towards matching; `in_words`
        the same of the judged score; `capability` the change of p(correct) from the unchanged model. `told` is the
        verdict and its tags in words, of a vector alone whether it goes beyond its placebos. Missing where it does not
        apply.
    """
    lost = by_condition(report.shifts, CAPABILITY)
    said = {} if report.answers is None else by_condition(report.answers.cells, OPEN_ENDED)
    lines = []
    for line in _lines(report):
        condition = line.pop("condition")
        if line["kind"] != "none":
            _put(line, "capability", lost.get(condition), "total_p")
            _put(line, "in_words", said.get(condition), "score_total" if line["kind"] == "base" else "score_shift")
        lines.append(line if line["kind"] == "stack" else _with_opposite(line))
    return pd.DataFrame(lines, columns=COLUMNS)


def stacked(report: Report) -> pd.DataFrame:
    """One line a base and dose of the headline's vector: the base alone, with the vector, and full addition.

    Returns:
        `base`, `base_dose`, `multiplier`, `cell`, `base_cell`, `n`, `told`, `capability` and
        `base_capability` with their ends, and the cells in which it was measured; on each scale
        (column c) `before`, `after` with their ends and `full`, as `c_before` and so on. `full` is where every item
        would be if the vector moved its log-odds as on the unchanged model; on p it is the level with the vector plus
        the mean over items of what that would change. Missing for the unchanged model itself.
    """
    arms, cells = report.arms, report.measured("cells").set_index("cell")
    own = {(x["base"], x["base_dose"]): x["cell"] for x in arms[arms["multiplier"] == 0].to_dict("records")}
    alone_costs = {x["cell"]: x for x in arms[arms["multiplier"] == 0].to_dict("records")}
    alone = {x["multiplier"]: x["cell"] for x in arms[arms["kind"] == "vector"].to_dict("records")}
    here = report.items[report.items["cell"].isin(arms["cell"])]
    values = here.pivot(index="item", columns="cell", values="log_odds").reindex(columns=arms["cell"])
    lines = []
    for line in arms[arms["kind"].isin(["vector", "stack"])].to_dict("records"):
        base, plain = own.get((line["base"], line["base_dose"])), own.get(("none", 1.0))
        if base is None:
            continue
        names = ("base", "base_dose", "multiplier", "cell", "n", "verdict_words", *(f"capability{end}" for end in ENDS))
        found = {name: line[name] for name in names} | {"base_cell": base}
        found |= {f"base_capability{end}": alone_costs[base][f"capability{end}"] for end in ENDS}
        for column in SCALES:
            for word, cell in (("before", base), ("after", line["cell"])):
                found |= {f"{column}_{word}{end}": cells.loc[cell, f"{column}{end}"] for end in ENDS}
            found[f"{column}_full"] = math.nan
        if line["kind"] == "stack" and line["multiplier"] in alone and plain is not None:
            top = values[line["cell"]]
            full = values[base] + values[alone[line["multiplier"]]] - values[plain]
            found["log_odds_full"] = found["log_odds_after"] + (full - top).mean()
            p_full = found["p_balanced_after"] + (1 / (1 + np.exp(-full)) - 1 / (1 + np.exp(-top))).mean()
            found["p_balanced_full"] = float(np.clip(p_full, 0, 1))
        lines.append(found)
    asked = by_condition(report.shifts, CAPABILITY)
    at = {x["cell"]: asked.get(condition_of(x), {}).get("cell") for x in report.measured("cells").to_dict("records")}
    where = {"capability_cell": "cell", "base_capability_cell": "base_cell"}
    return pd.DataFrame([line | {name: at[line[of]] for name, of in where.items()} for line in lines])


def directed(arms: pd.DataFrame) -> list[Line]:
    """One stack a base, in the base's own direction; neutral bases only where there is nothing else."""
    stacks = arms[arms["kind"] == "stack"].to_dict("records")
    pushing = [line for line in stacks if direction(line["base"], 1.0)] or stacks
    found: dict[str, Line] = {}
    for line in pushing:
        wanted = direction(line["base"], 1.0) or 1
        name = words.named(line["base"], line["base_dose"])
        kept = found.get(name)
        if kept is None or line["multiplier"] * wanted > 0 >= kept["multiplier"] * wanted:
            found[name] = line
    return list(found.values())


def moves(line: Mapping[str, Any]) -> bool:
    """Whether an arm's shift is told apart from 0 and is large enough to be worth a claim."""
    apart = line["shift_low"] > 0 or line["shift_high"] < 0
    return bool(apart) and abs(line["shift"]) >= SMALLEST


def keeps(line: Mapping[str, Any]) -> bool:
    """Whether the retention is known and nothing forbids a verdict."""
    return not math.isnan(line["retention"]) and not line["verdict"].startswith(("no verdict", "not measurable"))


def verdict_words(verdict: str, tags: Sequence[str]) -> str:
    """`no room; adds fully; log-odds only`: "no room" leads, numbers that stand beside it anyway are left out."""
    plain = [tag.split(" (")[0] for tag in tags if tag]
    first, rest = (["no room"] if "no room" in plain else []), [tag for tag in plain if tag != "no room"]
    return "; ".join([*first, verdict, *rest])


def beyond_placebos(report: Report, shift: Mapping[str, Any]) -> str:
    """The rank of a vector alone among its placebos: beyond all kinds that ran, or within the one it stands out from
    least.

    `beyond all 19 random and all 19 shuffled placebos, p = .05` (the largest p of a kind); "" where no placebo ran,
    there are too few draws or items to say, or the effect itself is not told apart from 0.
    """
    ranks = report.placebo_ranks[report.placebo_ranks["cell"] == shift["cell"]]
    if ranks.empty or shift["n"] < MIN_ITEMS:
        return ""
    rank = strictest(ranks).iloc[0]
    p = f"p = {rank['p_value']:.2f}".replace("0.", ".")
    if rank["beyond"] and moves(shift):
        return f"beyond {words.listed([_beaten(one, shift) for one in ranks.to_dict('records')])} placebos, {p}"
    if not rank["within"]:
        return ""
    return f"within the {rank['draws']} {_placebo_kind(rank, shift)} placebo{'' if rank['draws'] == 1 else 's'}, {p}"


def _beaten(rank: Mapping[str, Any], shift: Mapping[str, Any]) -> str:
    """`all 19 shuffled`, `38 of 39 random`."""
    draws, larger = int(rank["draws"]), int(rank["larger"])
    return f"{f'{draws - larger} of' if larger else 'all'} {draws} {_placebo_kind(rank, shift)}"


def _placebo_kind(rank: Mapping[str, Any], shift: Mapping[str, Any]) -> str:
    return str(rank["placebo"]).removesuffix(f"_{shift['vector']}")


def strongest(arms: pd.DataFrame) -> str:
    """What its interval says of the arm that moves most, chosen on these very items; "" where there is one alone."""
    known = arms[arms["kind"].isin(["base", "vector"]) & arms["shift_low"].notna()]
    if len(known) < 2:
        return ""
    line = known.loc[known["shift"].abs().idxmax()]
    corrected = among(Interval.take(line, "shift"), tries=len(known))
    return f"; the largest shift, chosen on these items among {len(known)}, is {corrected.text()} with that counted in"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one fitted intervention cost.

    Args:
        label: its label.
        fit_s: seconds that its fit took when it was done; None where that is not known.
        stored_bytes: bytes of its files; None where they are not there any more.
    """

    label: str
    fit_s: float | None
    stored_bytes: int | None


def costs(report: Report) -> list[Cost]:
    """One entry a fitted intervention, of several fits the first, in the manifest's order."""
    kept = report.record.artifacts.items()
    return [_cost(report.folder, key, Path(place)) for key, place in kept if "@" not in key]


def _cost(run: Path, label: str, kept: Path) -> Cost:
    """The artifact beside the runs comes first: the manifest's path is relative to wherever the run was started."""
    beside = run.resolve().parent.parent / "artifacts" / kept.name
    folder = next((path for path in (beside, kept) if path.is_dir()), None)
    if folder is None:
        return Cost(label=label, fit_s=None, stored_bytes=None)
    stored = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    try:
        seconds = read_json(folder.with_suffix(".timing.json"))["fit_s"]
    except (UserError, KeyError, TypeError):
        seconds = None
    return Cost(label=label, fit_s=float(seconds) if isinstance(seconds, int | float) else None, stored_bytes=stored)


def _lines(report: Report) -> Iterator[Line]:
    chosen, shifts = report.headline, report.measured("shifts")
    steered, stacking = at_headline(shifts, chosen), report.at_headline("stacking")
    stacks = {(x["base"], x["base_dose"], x["multiplier"]): x for x in stacking.to_dict("records")}
    cells = report.measured("cells").set_index("cell", drop=False)
    still = {(x["base"], x["base_dose"]): x for x in shifts[shifts["multiplier"] == 0].to_dict("records")}
    for place in chosen.bases:
        alone = still.get(place)
        if alone is not None:
            yield _base(alone, cells.loc[alone["cell"]], unchanged=still.get(("none", 1.0)))
        here = steered[(steered["base"] == place[0]) & (steered["base_dose"] == place[1])]
        for shift in here[here["multiplier"].isin(chosen.doses)].to_dict("records"):
            line = _own(shift, cells.loc[shift["cell"]], "shift") | {"kind": "vector"}
            line["arm"] = f"{words.display(chosen.vector)} {words.dose(shift['multiplier'])}"
            line["p_before"] = alone["p_balanced"] if alone else math.nan
            stack = stacks.get((*place, shift["multiplier"]))
            yield line | (_stack(stack) if stack else {"verdict_words": beyond_placebos(report, shift)})


def _own(shift: Line, cell: Any, effect: str) -> Line:
    """What every line has; `condition` finds the same condition measured by other evaluators."""
    names = ("base", "base_dose", "vector", "layer", "multiplier", "cell", "n", "option_mass")
    levels = {f"p_balanced{end}": float(cell[f"p_balanced{end}"]) for end in ENDS}
    effects = {f"shift{end}": shift[f"{effect}{end}"] for end in ENDS}
    return {name: cell[name] for name in names} | levels | effects | {
        "verdict": "", "tags": "", "verdict_words": "", "condition": condition_of(cell)
    }  # fmt: skip


def _base(shift: Line, cell: Any, *, unchanged: Line | None) -> Line:
    line = _own(shift, cell, "total") | {"arm": words.named(shift["base"], shift["base_dose"])}
    if shift["base"] == "none" or unchanged is None:
        kind = "none" if shift["base"] == "none" else "base"
        return line | {"kind": kind} | {f"shift{end}": math.nan for end in ENDS}
    return line | {"kind": "base", "p_before": unchanged["p_balanced"]}


def _stack(stack: Line) -> Line:
    """What the stacking line adds: the verdict and what it rests on."""
    tags = str(stack["tags"])
    names = [*(f"retention{end}" for end in ENDS), "room", "detectable_effect"]
    return {name: stack[name] for name in names} | {
        "kind": "stack", "verdict": str(stack["verdict"]), "tags": tags,
        "verdict_words": verdict_words(str(stack["verdict"]), tags.split(";")),
    }  # fmt: skip


def _put(line: Line, name: str, other: Line | None, column: str) -> None:
    if other is not None:
        line |= {f"{name}{end}": other[f"{column}{end}"] for end in ENDS}


def _with_opposite(line: Line) -> Line:
    """A single arm has no verdict, so that its opposite effect on the answers in words is told here."""
    letters, spoken = ((line.get(f"{name}_low", math.nan), line.get(f"{name}_high", math.nan)) for name in (
        "shift", "in_words"
    ))  # fmt: skip
    if not opposite(letters, spoken):
        return line
    return line | {"tags": OPPOSITE, "verdict_words": "; ".join(filter(None, (line["verdict_words"], OPPOSITE)))}
