"""What a run knows of one of its artifacts, for the artifact's card: `caa-bench export` writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.analysis.answers import worse_text
from caa_bench.interventions.card import Origin, on_the_hub
from caa_bench.report import words
from caa_bench.report.headline import CAPABILITY
from caa_bench.report.sections.costs import questions
from caa_bench.report.sections.measures import judged_by
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.report.model import Report


def run_origin(report: Report, label: str) -> Origin:
    """What the run says of one of its artifacts; of a local model only the folder's name."""
    record, chosen = report.record, report.headline
    local = not on_the_hub(record.model) and Path(record.model).name != record.model
    layer = None if chosen.layer is None else int(chosen.layer)
    return Origin(
        behavior=record.behavior.id,
        model=Path(record.model).name if local else record.model,
        data=f"the training split of data={record.data}, protocol={record.protocol}, seed={record.seed}",
        loadable="" if local else record.model,
        layer=layer if label == chosen.vector else None,
    )


def run_effects(report: Report, label: str) -> str:
    """What the intervention alone did in a run, with its side effects; "" where it was not measured alone."""
    return "\n\n".join(filter(None, (part(report, label) for part in (_behavior, _capability, _in_words, _metrics))))


def _behavior(report: Report, label: str) -> str:
    own, cells = _lines_alone(report.measured("shifts"), label), report.measured("cells").set_index("cell")
    lines = [
        [
            words.probability(line["p_balanced"]),
            words.interval(line, "total"),
            words.number(line["option_mass"]),
            words.signed(cells.loc[line["cell"], "letter_bias"]),
            str(line["n"]),
        ]
        for line in own
    ]
    said = f"On the {report.record.split} split; shift of the log-odds against the unchanged model."
    if own and (fits := max(int(line["n_fits"]) for line in own)) > 1:
        said += f" Means of {fits} fits, this one among them."
    heads = ["p(matching)", "shift, 95% interval", "option mass", "letter bias", "n"]
    return _section("What it did", said, heads, own, lines)


def _capability(report: Report, label: str) -> str:
    own = _lines_alone(report.measured("shifts", CAPABILITY), label)
    lines = [[words.probability(x["p_balanced"]), words.interval(x, "total_p", words.signed), str(x["n"])] for x in own]
    said = f"p(correct) on {questions(report)}, mean over categories; its change against the unchanged model."
    return _section("What it cost", said, ["p(correct)", "change, 95% interval", "n"], own, lines)


def _in_words(report: Report, label: str) -> str:
    """Its score by the leading judge; a base has no base of its own, so its text is held against the unchanged one."""
    if report.answers is None:
        return ""
    cells = report.answers.cells
    plain = cells[(cells["base"] == "none") & (cells["multiplier"] == 0)]
    own, lines = _lines_alone(cells, label), []
    for line in own:
        broken = len(plain) == 1 and bool(worse_text(pd.DataFrame([line]), plain)[0])
        change = words.interval(line, "score_total", words.signed)
        lines.append([words.probability(line["score"]), change, "collapsed" if broken else "sound", str(line["n"])])
    said = "Answers in words, score from 0 to 1 (the behavior); its change against the unchanged model. "
    said += f"{judged_by(report.answers)} Collapsed text repeats itself, is empty or is cut off far more often."
    return _section("What it says", said, ["score", "change, 95% interval", "text", "n"], own, lines)


def _metrics(report: Report, label: str) -> str:
    """Perplexity and the tasks of lm-eval, where a run has some."""
    own = _lines_alone(report.metrics, label) if len(report.metrics) else []
    lines = []
    for x in own:
        ratio = x["change"] == "ratio"
        name = f"{x['task']}: {x['metric']}" if x["task"] else str(x["metric"])
        change = words.interval(x, "total", words.number if ratio else words.signed)
        lines.append(
            [terminal_safe(name), words.interval(x, "value"), f"{change}{' times' if ratio else ''}", str(x["n"])]
        )
    said = "Measured beside the behavior; its change against the unchanged model, of a perplexity as a ratio."
    return _section("What else it moved", said, ["metric", "level", "change, 95% interval", "n"], own, lines)


def _lines_alone(table: pd.DataFrame, label: str) -> list[dict[str, Any]]:
    """Its lines on the unchanged model: as a vector, and as a base with nothing on top."""
    steered = (table["base"] == "none") & (table["vector"] == label)
    return table[steered | ((table["base"] == label) & (table["vector"] == ""))].to_dict("records")


def _section(
    title: str, said: str, heads: Sequence[str], own: Sequence[dict[str, Any]], lines: Sequence[Sequence[str]]
) -> str:
    """A heading, what is shown, and one line a dose and layer; "" without lines."""
    if not lines:
        return ""
    rows = [["dose", "layer", *heads], ["---"] * (len(heads) + 2)]
    for x, line in zip(own, lines, strict=True):
        rows.append([words.dose(x["multiplier"] if x["vector"] else x["base_dose"]), words.count(x["layer"]), *line])
    return "\n".join([f"## {title}\n\n{said}\n", *(f"| {' | '.join(row)} |" for row in rows)])
