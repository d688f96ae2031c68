"""For a paper: the stacking table with booktabs, a methods paragraph that the run bears out, and its BibTeX entries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from caa_bench.analysis.estimates import MIN_ITEMS
from caa_bench.report import words
from caa_bench.report.headline import CAPABILITY
from caa_bench.report.sections import Column, Line, Table
from caa_bench.report.sections.effects import Stacks
from caa_bench.report.text import head

if TYPE_CHECKING:
    from caa_bench.report.model import Report
    from caa_bench.report.record import RunRecord

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
        f"Interactions were tested by {_test(record)} with Benjamini-Hochberg correction.",
        *_placebos(report),
    ]
    return [
        f"We measured {record.behavior.title} on {record.model} with caa_bench",
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
            f"a two-way t test over items and {record.fits} fits (by sign flips over clusters where there is one fit)"
        )
    return "sign flips over clusters"


def _placebos(report: Report) -> Iterator[str]:
    """What a vector alone was ranked among."""
    ranks = report.placebo_ranks
    kinds = ranks[ranks["vector"] == report.headline.vector].groupby("placebo", sort=False)["draws"].max()
    if len(kinds):
        named = " and ".join(f"{draws} {kind}" for kind, draws in kinds.items())
        yield (
            f"The vector alone was ranked among {named} placebo vectors of its norm, p = (1 + those as large) / (1 + "
            "draws)."
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
