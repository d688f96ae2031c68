"""How the run was set up: the search for layer and dose, how large the doses are, what the chat template adds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.models.template_notes import TemplateNotes
from caa_bench.report import words
from caa_bench.report.attention import leading_pairs
from caa_bench.report.choices import retest_command, tries_of
from caa_bench.report.sections import DOSE, Column, Line, N, Section, Table
from caa_bench.runs.tuning_record import tuning_lines
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.report.model import Report


class Tuning(Section):
    """What was tried and chosen on the selection split, in whole sentences."""

    name = "tuning"
    title = "How the layer and the doses were found"
    order = 25

    def tables(self, report: Report) -> Sequence[Table]:
        """A sentence a line; every candidate is in tuning.csv, which the search itself wrote."""
        frame = pd.DataFrame({"line": tuning_lines(report.record.tuning)})
        columns = (Column(name="line", label="what was tried and chosen", wide=True),)
        return [Table(frame=frame, columns=columns, file="tuning_lines", key=("line",), source="tuning.csv")]

    def summary(self, report: Report) -> str:
        """The first sentence of several."""
        return tuning_lines(report.record.tuning)[0]

    def files(self, report: Report) -> dict[str, pd.DataFrame]:
        """None of its own."""
        return {}


class DoseSizes(Section):
    """Each multiplier of the leading vector in words: its share of the residual norm, and the option mass it leaves."""

    name = "dose_sizes"
    title = "How large the doses are"
    order = 45
    needs = ("vectors", "shifts")
    note = (
        "|multiplier x vector| over the median norm of the activations at that layer, and what is left of the option "
        "mass of the unsteered model."
    )

    def tables(self, report: Report) -> Sequence[Table]:
        """A line a multiplier of the vector alone."""
        chosen, pair = report.headline, leading_pairs(report)
        shifts = report.at_headline("shifts")
        alone = shifts[(shifts["base"] == "none") & (shifts["multiplier"] != 0)]
        if chosen.layer is None or pair is None or not pair["relative_norm"] > 0 or alone.empty:
            return []
        every = report.measured("shifts")
        plain = every[(every["base"] == "none") & (every["multiplier"] == 0)]["option_mass"]
        unsteered = plain.iloc[0] if len(plain) else float("nan")
        frame = alone.sort_values("multiplier").assign(
            relative_dose=alone["multiplier"].abs() * pair["relative_norm"],
            mass_kept=alone["option_mass"] / unsteered,
        )
        columns = (
            DOSE,
            Column(name="relative_dose", label="of the residual norm", form=words.number),
            Column(name="shift", label="shift in log-odds", form=words.signed, interval=True),
            Column(name="option_mass", label="option mass", form=words.probability),
            Column(name="mass_kept", label="of the unsteered mass", form=words.number),
            N,
        )
        names = [column.name for column in columns]
        kept = [name for name in ("cell", *names, "shift_low", "shift_high") if name in frame]
        return [Table(frame=frame[kept], columns=columns, file=self.name)]

    def summary(self, report: Report) -> str:
        """The leading dose."""
        frame = self.tables(report)[0].frame
        line = frame.loc[(frame["multiplier"] - 1).abs().idxmin()]
        return f"{words.dose(line['multiplier'])} is {words.number(line['relative_dose'])} of the residual norm"


class Matched(Section):
    """The dose of each base that moves the behavior as far as the vector's own chosen dose."""

    name = "matched"
    title = "Matched doses"
    order = 30
    needs = ("matched",)
    note = (
        "For each base the dose whose effect alone is nearest to that of the dose chosen for the vector in the same "
        "direction, in log-odds with 95% intervals; gap: between the two, item by item. * the first or last of three "
        "or more doses tried."
    )

    def tables(self, report: Report) -> Sequence[Table]:
        """A line a base."""
        name = words.display(report.headline.vector) or "vector"
        columns = (
            Column(name="base", text=_matched_base),
            Column(name="total", label="effect alone", form=words.signed, interval=True),
            Column(name="multiplier", label=name, text=lambda x: words.or_na(x["multiplier"], words.dose)),
            Column(name="target", label="its effect", form=words.signed, interval=True),
            Column(name="gap", form=words.signed, interval=True),
            Column(name="gap_n", label="n", form=words.count),
            Column(name="tries", form=words.count),
        )
        return [Table(frame=report.matched, columns=columns, file=self.name, key=("base",))]

    def finding(self, report: Report) -> str:
        """Everyone's tries."""
        return f"Tries on the selection split: {tries_of(report)}."

    def steps(self, report: Report) -> tuple[str, str]:
        """The command that measures both doses on the test split."""
        command = retest_command(report)
        return ("Then measure the full and the matched dose on the test split:", command) if command else ("", "")


class EqualLoss(Section):
    """The largest shift of each arm alone among the doses that cost no more capability."""

    name = "equal_loss"
    title = "Effect at equal capability loss"
    order = 90
    needs = ("equal_loss",)
    note = (
        "The largest shift of each arm alone, in its own direction, among all doses measured here that lose no more "
        "than so much p(correct), by the upper end of the loss's interval: a description, nothing is chosen by it. "
        "Log-odds, + towards matching."
    )

    def tables(self, report: Report) -> Sequence[Table]:
        """A line an arm and budget."""
        swept = len(report.headline.layers) > 1
        columns = (
            Column(name="arm"),
            Column(name="budget", label="loss up to", text=lambda x: f"{x['budget']:g}".removeprefix("0")),
            Column(name="multiplier", label="at", text=lambda x: _reached(x, swept=swept)),
            Column(name="total", label="shift", form=words.signed, interval=True),
            Column(name="n", form=words.count),
            Column(
                name="total_p", label="change of p(correct)", form=words.signed, interval=True, behind="capability_cell"
            ),
            Column(name="capability_n", label="n", form=words.count, behind="capability_cell"),
            Column(name="doses", label="doses within", form=words.count),
        )
        return [Table(frame=report.equal_loss, columns=columns, file=self.name, key=("arm", "budget"), where="detail")]

    def summary(self, report: Report) -> str:
        """The largest at the smallest loss."""
        known = report.equal_loss[report.equal_loss["total"].notna()]
        known = known[known["budget"] == known["budget"].min()]
        if known.empty:
            return ""
        line = known.loc[known["total"].abs().idxmax()].to_dict()
        most = f"{line['budget']:g}".removeprefix("0")
        shift = words.interval(line, "total", words.signed)
        return f"at a loss up to {most}: {words.human(line['arm'])}, {shift} log-odds"


def _matched_base(line: Line) -> str:
    if math.isnan(line["base_dose"]):
        return str(line["base"])
    return words.named(line["base"], line["base_dose"]) + ("*" if line["at_edge"] is True else "")


def _reached(line: Line, *, swept: bool) -> str:
    """Where it is reached: `+1`, `+1, layer 3` in a sweep, `x0.25` of a base."""
    if math.isnan(line["base_dose"]):
        return words.NA
    if line["base"] != "none":
        return f"x{line['base_dose']:g}"
    return words.dose(line["multiplier"]) + (f", layer {words.count(line['layer'])}" if swept else "")


class PromptAsRendered(Section):
    """The prompt of the base `none` as the template writes it, and what of it is the template's own."""

    name = "prompt"
    title = "What the template adds"
    order = 195
    note = "How the chat template asks the model; all of it is part of the model's key."

    def tables(self, report: Report) -> Sequence[Table]:
        """A line for each thing a template may do by itself."""
        notes = notes_of(report.record.model_facts)
        if notes is None:
            return []
        place = "its own system turn" if notes.system_place == "system" else "in front of the user's words"
        lines = {
            "prompt without a system text": notes.plain,
            "system text that it says by itself": notes.default_system or "none",
            "place of a system text": place,
            "date that it was told": notes.clock or "it asks for none",
            "between prompt and answer": notes.header if notes.header.strip() else "nothing",
        }
        frame = pd.DataFrame({"part": lines.keys(), "text": map(_on_one_line, lines.values())})
        columns = (Column(name="part", label=""), Column(name="text", label="", wide=True))
        return [Table(frame=frame, columns=columns, where="detail", source="manifest.json")]

    def finding(self, report: Report) -> str:
        """What a reader should know of it before comparing system prompts."""
        notes = notes_of(report.record.model_facts)
        return "" if notes is None else " ".join(map(terminal_safe, notes.lines()))


def notes_of(model_facts: Mapping[str, Any]) -> TemplateNotes | None:
    """What the run recorded of the chat template; None for a run that recorded nothing."""
    recorded = model_facts.get("prompt")
    return TemplateNotes(**recorded) if recorded else None


def _on_one_line(text: str) -> str:
    """Line breaks stay visible, and nothing else that a terminal would act on."""
    return terminal_safe(text.replace("\n", "\\n"))
