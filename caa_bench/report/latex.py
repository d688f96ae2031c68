"""The stacking table for a paper: LaTeX with booktabs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from caa_bench.report import words
from caa_bench.report.headline import at_headline, headline, in_recipe_order, measured
from caa_bench.report.table import head

if TYPE_CHECKING:
    from caa_bench.report import Report

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def stacking_latex(report: Report) -> str:
    r"""One `\begin{table}`: base, dose, CAA alone, on top (and in words, where there are some), retention, p
    before and after, verdict. Needs booktabs.
    """
    chosen = headline(report)
    lines = in_recipe_order(at_headline(measured(report.stacking), chosen), report.manifest["recipe"].get("bases", []))
    spoken = report.answers is not None
    effects = {"alone": "CAA alone", "on_top": "CAA on top"}
    effects |= {"open_ended_on_top": "in words"} if spoken else {}
    effects |= {"retention": "retention"}
    body = [_line(line, effects) for line in lines.to_dict("records")]
    heads = ["base", "dose", *effects.values(), "$p$ before", "$p$ after", "verdict"]
    caption = f"{escape(head(report, chosen))} Effects in log-odds in the direction of the dose, 95\\% intervals."
    caption += " In words: CAA on top, on the judged score (0--1) of open-ended answers." if spoken else ""
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(heads) - 2)}l}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
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


def _line(line: dict[str, Any], names: Iterable[str]) -> str:
    effects = [_interval(line, name) for name in names]
    levels = [_math(words.probability(line[name])) for name in ("p_before", "p_after")]
    verdict = escape(str(line["verdict_text"])).replace(r"-\textgreater{}", r"$\to$")
    name = escape(words.named(line["base"], line["base_dose"]))
    return " & ".join([name, _math(words.dose(line["multiplier"])), *effects, *levels, verdict]) + r" \\"


def _interval(line: dict[str, Any], name: str) -> str:
    point, low, high = (line[f"{name}{end}"] for end in ("", "_low", "_high"))
    if math.isnan(point):
        return words.NA
    ends = "" if math.isnan(low) or math.isnan(high) else f"\\ [{words.number(low)}, {words.number(high)}]"
    return _math(f"{words.number(point)}{ends}")


def _math(text: str) -> str:
    return text if text == words.NA else f"${text}$"
