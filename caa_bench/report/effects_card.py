"""What a run knows of one of its artifacts, for the artifact's card: `caa-bench export` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from caa_bench.cards import Origin, on_the_hub
from caa_bench.report import words
from caa_bench.report.details import interval
from caa_bench.report.headline import headline, measured

if TYPE_CHECKING:
    from caa_bench.report import Report


def run_origin(report: Report, label: str) -> Origin:
    """What the run says of one of its artifacts; of a local model only the folder's name."""
    recipe, chosen = report.manifest["recipe"], headline(report)
    name = str(recipe["model"])
    local = not on_the_hub(name) and Path(name).name != name
    layer = None if chosen.layer is None else int(chosen.layer)
    return Origin(
        behavior=str(report.manifest["facts"]["behavior"]["id"]),
        model=Path(name).name if local else name,
        data=f"the training split of data={recipe['data']}, protocol={recipe['protocol']}, seed={recipe['seed']}",
        loadable="" if local else name,
        layer=layer if label == chosen.vector else None,
    )


def run_effects(report: Report, label: str) -> str:
    """What the intervention alone did in a run, with its side effects; "" where it was not measured alone."""
    shifts, cells = measured(report.shifts), measured(report.cells).set_index("cell")
    steered = shifts[(shifts["base"] == "none") & (shifts["vector"] == label)]
    alone = shifts[(shifts["base"] == label) & (shifts["vector"] == "")]
    lines = [
        f"| {words.dose(line['base_dose'] if name == 'total' else line['multiplier'])} | {words.count(line['layer'])} "
        f"| {words.probability(line['p_balanced'])} | {interval(line, name)} | {words.number(line['option_mass'])} "
        f"| {words.signed(cells.loc[line['cell'], 'letter_bias'])} | {line['n']} |"
        for name, table in (("shift", steered), ("total", alone))
        for line in table.to_dict("records")
    ]
    if not lines:
        return ""
    title = f"## What it did\n\nOn the {report.manifest['recipe']['split']} split; shift of the log-odds against the "
    head = "| dose | layer | p(matching) | shift, 95% interval | option mass | letter bias | n |"
    return "\n".join([f"{title}unchanged model.\n", head, "|---|---|---|---|---|---|---|", *lines])
