"""What a run hands on: to a paper its table, methods paragraph and BibTeX; to an artifact's card its effects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.analysis.answers import worse_text
from caa_bench.analysis.estimates import MIN_ITEMS
from caa_bench.interventions.card import Origin
from caa_bench.report import words
from caa_bench.report.headline import CAPABILITY
from caa_bench.report.sections import Column, Line, Table
from caa_bench.report.sections.costs import questions
from caa_bench.report.sections.effects import Stacks
from caa_bench.report.sections.measures import InWords
from caa_bench.report.text import head
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.report.model import Report
    from caa_bench.runs.record import RunRecord

PAPER = """@misc{caa,
  title = {Steering Llama 2 via Contrastive Activation Addition},
  author = {Nina Panickssery and Nick Gabrieli and Julian Schulz
    and Meg Tong and Evan Hubinger and Alexander Matt Turner},
  year = {2023},
  eprint = {2312.06681},
  archivePrefix = {arXiv},
}
"""
_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def stacking_latex(report: Report) -> str:
    """The stacks that lead: the brief columns of the page's own table."""
    table = Stacks().tables(report)[0]
    return latex_table(table, caption=f"{head(report)} {table.caption}.")


def latex_table(table: Table, *, caption: str) -> str:
    r"""One `\begin{table}`: the brief columns of a table. Needs booktabs."""
    shown = [column for column in table.columns if column.brief]
    body = [" & ".join(_cell(column, line) for column in shown) + r" \\" for line in table.lines]
    places = "".join("r" if column.is_number else "l" for column in shown)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{escape(caption)}}}",
            rf"\begin{{tabular}}{{{places}}}",
            r"\toprule",
            " & ".join(escape(column.head) for column in shown) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def methods_latex(report: Report) -> str:
    """One paragraph, as LaTeX; cites `caa` and `caa_bench` of `bibtex`."""
    first, *rest = map(escape, _sentences(report))
    return " ".join([rf"{first}~\cite{{caa,caa_bench}}.", *rest]) + "\n"


def bibtex(record: RunRecord) -> str:
    """The paper, and this tool at the version that made the rows, with the run's recipe key."""
    version = record.versions.get("caa-bench") or "unknown"
    note = f"version {escape(str(version))}, recipe key {record.recipe_key[:16]}"
    return f"{PAPER}\n@software{{caa_bench,\n  title = {{caa\\_bench}},\n  note = {{{note}}},\n}}\n"


def _cell(column: Column, line: Line) -> str:
    """Numbers and doses in math, an arrow as one."""
    text = column.shown(line)
    if text in ("", words.NA):
        return text
    if column.is_number or column.name == "multiplier":
        return f"${escape(text).replace(' [', chr(92) + ' [')}$"
    return escape(text).replace(r"-\textgreater{}", r"$\to$")


def _sentences(report: Report) -> list[str]:
    record, chosen, (items, clusters) = report.record, report.headline, report.asked
    cells = report.measured("cells") if items else pd.DataFrame(list(record.cells))
    orders = "in the given option order" if record.protocol == "caa" else "in both option orders"
    bases = ", ".join(words.named(base, dose) for base, dose in chosen.bases)
    doses = ", ".join(f"{dose:g}" for dose in sorted(cells["multiplier"].unique()))
    layers = ", ".join(words.count(layer) for layer in chosen.layers) or words.NA
    sampled = f"over clusters ({record.draws} draws, seed {record.seed}); below {MIN_ITEMS} items none is given."
    tested = [
        f"Each of {items} items of the {record.split} split ({clusters} clusters) was asked {orders}, and the "
        "log-odds of the matching over the other answer letters were read at the position of the letter.",
        "Effects are means of per-item differences of the log-odds with 95% intervals from "
        f"{_interval(record)} {sampled}",
        "Levels of p and of accuracy have Jeffreys' interval of a share, of as many answers as their standard error is "
        "worth; changes of p have the outer ends of a BCa bootstrap and Student's t.",
        f"Interactions were tested by {_test(record)} with Benjamini-Hochberg correction.",
        *_placebos(report),
    ]
    return [
        f"We measured {record.behavior.title} on {record.model_name} with caa_bench"
        + (f"; the model computed in {record.half}, its logits in float32" if record.half else ""),
        f"Vectors ({', '.join(record.vectors)}) were added at layer {layers} with multipliers {doses} on top of each "
        f"base ({bases}).",
        *(tested if items else [f"Means have 95% intervals from {_interval(record)} {sampled}"]),
        *_spoken(report),
        *_beside(report),
    ]


def _interval(record: RunRecord) -> str:
    if record.fits > 1:
        single = "where there is one fit, the outer ends of a studentized bootstrap and Student's t"
        return f"a two-way variance over items and {record.fits} fits with t quantiles and, {single},"
    return "the outer ends of a studentized bootstrap and Student's t"


def _test(record: RunRecord) -> str:
    if record.fits > 1:
        return (
            f"a two-way t test over items and {record.fits} fits (where there is one fit, the larger p of sign flips "
            "over clusters and a studentized bootstrap)"
        )
    return "sign flips over clusters and a studentized bootstrap, the larger p of the two"


def _placebos(report: Report) -> Iterator[str]:
    """What a vector alone was ranked among."""
    ranks = report.placebo_ranks
    kinds = ranks[ranks["vector"] == report.headline.vector].groupby("placebo", sort=False)["draws"].max()
    if len(kinds):
        named = " and ".join(f"{draws} {kind}" for kind, draws in kinds.items())
        yield (
            f"The vector alone was ranked among {named} placebo vectors, p = (1 + those as large) / (1 + draws); "
            "shuffled ones are as long as the method makes them, the others as long as the vector."
        )


def _beside(report: Report) -> Iterator[str]:
    """What else was measured under the same conditions."""
    facts = report.measured("cells", CAPABILITY)
    if len(facts) and facts["n"].max() > 0:
        source = report.record.settings.get("capability.source", "own")
        yield (
            f"Capability is p(correct), scored in the same way on {int(facts['n'].max())} questions ({source}) and "
            "averaged over their categories."
        )
    if len(report.metrics):
        names = dict.fromkeys(report.metrics["task"].where(report.metrics["task"] != "", report.metrics["evaluator"]))
        yield f"Also measured under the same conditions: {', '.join(map(str, names))}."


def _spoken(report: Report) -> Iterator[str]:
    """How the answers in words were scored, where there are some."""
    if report.answers is None or not len(report.answers.judges):
        return
    judge, questions = report.answers.judges.loc[0, "judge"], report.answers.items["item"].nunique()
    yield (
        f"Under each condition {questions} open-ended questions were answered in words and scored from 0 to 1 (the "
        f"behavior) by the judge {judge}; where this effect and that on the log-odds have intervals on different sides "
        "of 0, the verdict says so."
    )


def run_origin(report: Report, label: str) -> Origin:
    """What the run says of one of its artifacts; of a local model only the folder's name."""
    record, chosen = report.record, report.headline
    local = record.model_name != record.model
    layer = None if chosen.layer is None else int(chosen.layer)
    return Origin(
        behavior=record.behavior.id,
        model=record.model_name,
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
    return _card_section("What it did", said, heads, own, lines)


def _capability(report: Report, label: str) -> str:
    own = _lines_alone(report.measured("shifts", CAPABILITY), label)
    lines = [[words.probability(x["p_balanced"]), words.interval(x, "total_p", words.signed), str(x["n"])] for x in own]
    said = f"p(correct) on {questions(report)}, mean over categories; its change against the unchanged model."
    return _card_section("What it cost", said, ["p(correct)", "change, 95% interval", "n"], own, lines)


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
    said += f"{InWords().finding(report)} Collapsed text repeats itself, is empty or is cut off far more often."
    return _card_section("What it says", said, ["score", "change, 95% interval", "text", "n"], own, lines)


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
    return _card_section("What else it moved", said, ["metric", "level", "change, 95% interval", "n"], own, lines)


def _lines_alone(table: pd.DataFrame, label: str) -> list[dict[str, Any]]:
    """Its lines on the unchanged model: as a vector, and as a base with nothing on top."""
    steered = (table["base"] == "none") & (table["vector"] == label)
    return table[steered | ((table["base"] == label) & (table["vector"] == ""))].to_dict("records")


def _card_section(
    title: str, said: str, heads: Sequence[str], own: Sequence[dict[str, Any]], lines: Sequence[Sequence[str]]
) -> str:
    """A heading, what is shown, and one line a dose and layer; "" without lines."""
    if not lines:
        return ""
    rows = [["dose", "layer", *heads], ["---"] * (len(heads) + 2)]
    for x, line in zip(own, lines, strict=True):
        rows.append([words.dose(x["multiplier"] if x["vector"] else x["base_dose"]), words.count(x["layer"]), *line])
    return "\n".join([f"## {title}\n\n{said}\n", *(f"| {' | '.join(row)} |" for row in rows)])
