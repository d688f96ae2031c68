"""Sections about what else was measured: answers in words, capability, every metric beside the behavior."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.analysis.verdict import OPPOSITE
from caa_bench.report import words
from caa_bench.report.headline import OPEN_ENDED
from caa_bench.report.sections import BASE, DOSE, Column, Line, Section, Table, across
from caa_bench.report.sections.costs import capability_finding, capability_lines, questions
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.report.model import Report
    from caa_bench.report.tables import Answers

EXAMPLES = 2
QUALITY: dict[str, words.Form] = {
    "missing_share": words.share,
    "tokens": words.count,
    "distinct_1": words.number,
    "distinct_2": words.number,
    "loop_share": words.share,
    "empty_share": words.share,
    "truncated_share": words.share,
    "perplexity": words.number,
}


class InWords(Section):
    """The judged answers: scores and text quality, transfer beside the A/B effects, and the first questions."""

    name = "answers"
    title = "Answers in words"
    order = 70
    needs = ("answers",)

    def tables(self, report: Report) -> Sequence[Table]:
        """Scores, transfer, examples."""
        answers = report.answers
        if answers is None:
            return []
        scores = report.leading(answers.cells)
        scores = scores.assign(flag=scores["collapsed"].astype(bool).map({True: "text collapsed", False: ""}))
        signed: dict[str, Any] = {"form": words.signed, "interval": True, "brief": False}
        columns = (
            BASE, DOSE,
            Column(name="score", form=words.probability, text=_score, definition="0-1, the behavior"),
            Column(name="score_shift", label="shift", definition="from the base alone", **signed),
            Column(name="score_total", label="total", definition="from the unchanged model", **signed),
            *(Column(name=name, label=name.replace("_", " "), form=form, brief=False)
              for name, form in QUALITY.items()),
            Column(name="n", form=words.count, brief=False),
        )  # fmt: skip
        caption = "Mean score from 0 to 1 (the behavior), 95% interval over questions; * its text has collapsed"
        tables = [Table(frame=scores, columns=columns, caption=caption, file="cells", flag="flag", **across(report))]
        return [*tables, *self._transfer(report), *examples(report, answers)]

    def finding(self, report: Report) -> str:
        """Who generated and who scored, and how good that judge is known to be."""
        if report.answers is None:
            return ""
        return " ".join(filter(None, (generated_by(report.answers), judged_by(report.answers))))

    def files(self, report: Report) -> dict[str, pd.DataFrame]:
        """The judges; scores are part of cells.csv and stacking.csv."""
        return {} if report.answers is None else {"judges": report.answers.judges}

    def _transfer(self, report: Report) -> Iterator[Table]:
        """What the vector adds to the letter and to the words, in the direction of the dose."""
        lines = report.at_headline("stacking")
        if lines.empty or "open_ended_on_top" not in lines:
            return
        heads = {"alone_p": "p alone", "open_ended_alone": "words alone", "on_top_p": "p on top"}
        heads |= {"open_ended_on_top": "words on top", "open_ended_interaction": "interaction in words"}
        spans = (
            Column(name=k, label=head, form=words.signed, interval=True, behind=OPEN_ENDED * k.startswith("open"))
            for k, head in heads.items()
        )
        columns = (BASE, DOSE, *spans, Column(name="open_ended_n", label="n", form=words.count, behind=OPEN_ENDED))
        caption = "Does it carry over? Change of p(matching) and of the score, in the direction of the dose"
        key = ("base", "base_dose", "vector", "vector_behavior", "vector_model", "vector_layer", "layer", "multiplier")
        frame = lines.assign(flag=[_carries(line) for line in lines.to_dict("records")])
        yield Table(frame=frame, columns=columns, caption=caption, file="stacking", key=key, where="page", flag="flag")


def examples(report: Report, answers: Answers) -> Iterator[Table]:
    """The first questions and what the unchanged model said, without and with the vector; a table a question."""
    here = report.leading(answers.cells)
    here = here[here["base"] == "none"][["cell", "vector", "multiplier"]]
    columns = (
        Column(name="multiplier", label="dose", text=lambda line: words.on_top(line["vector"], line["multiplier"])),
        Column(name="score", text=lambda line: words.number(line["score"])),
        Column(name="answer", text=shown, wide=True),
    )
    for place, item in enumerate(sorted(answers.items["item"].unique())[:EXAMPLES]):
        said = here.merge(answers.items[answers.items["item"] == item], on="cell", how="inner")
        if len(said):
            asked = f"Asked: {terminal_safe(str(said['question'].iloc[0]))}"
            yield Table(frame=said, columns=columns, caption=asked, where="detail" if place else "always")


def shown(line: Mapping[str, Any]) -> str:
    """An answer as it may be printed: no control characters, cut where the model was, marked where there is none."""
    if line["error"]:
        return "(error)"
    text = terminal_safe(str(line["text"])) or "(empty)"
    return f"{text} ..." if line["truncated_share"] else text


def served(answers: Answers) -> tuple[int, int]:
    """How many answers a server generated in this machine's place, and how many there are."""
    made = answers.items[answers.items["text"].notna()]
    return int((made["server"] != "").sum()), len(made)


def generated_by(answers: Answers) -> str:
    """Which server generated how many of the answers, and what its check found; "" where all were generated here."""
    there, every = served(answers)
    if not there:
        return ""
    servers = answers.items.loc[answers.items["text"].notna(), "server"]
    told = [f"{count:,} of {every:,} by {terminal_safe(one)}" for one, count in servers.value_counts().items() if one]
    rest = f"; the other {every - there:,} on this machine" if there < every else ""
    return f"Generated by a server: {'; '.join(told)}{rest}."


def judged_by(answers: Answers) -> str:
    """Who scored, how good that judge is known to be, and how far a second one agrees."""
    said = []
    for place, line in enumerate(answers.judges.to_dict("records")):
        accuracy = line["held_out_accuracy"]
        known = "" if pd.isna(accuracy) else f", right on {accuracy:.0%} of the held-out answer texts"
        agreed = f", weighted kappa with {answers.judges.loc[0, 'judge']} {words.interval(line, 'agreement')}"
        agreed = f"{agreed} over {line['n_agreement']:,} answers" if place else ""
        said.append(f"{line['judge']} ({line['scored']:,} of {line['answers']:,} answers scored{known}{agreed})")
    return f"Judged by {'; '.join(said)}." if said else "Not judged yet: run the same command again."


class Capability(Section):
    """What each arm costs of p(correct) on questions that have nothing to do with the behavior."""

    name = "capability"
    title = "Capability"
    order = 110
    needs = ("cells",)

    def heading(self, report: Report) -> str:
        """With what was asked."""
        lines = capability_lines(report)
        return f"Capability ({questions(report)}, n {words.count(lines['n'].max())})" if len(lines) else self.title

    def tables(self, report: Report) -> Sequence[Table]:
        """A line a base and dose: cells.csv and shifts.csv."""
        change: dict[str, Any] = {"form": words.signed, "interval": True, "brief": False, "file": "shifts"}
        columns = (
            BASE, DOSE,
            Column(name="p_balanced", label="p(correct)", form=words.probability, interval=True),
            Column(name="accuracy", form=words.probability, interval=True, brief=False),
            Column(name="total_p", label="total", definition="change from the unchanged model", **change),
            Column(name="shift_p", label="shift", definition="change from its own base", **change),
            Column(name="option_mass", label="mass", form=words.probability, brief=False),
            Column(name="letter_locked", label="letter locked", form=words.share, brief=False),
            *(Column(name=name, form=words.count, brief=False) for name in ("n", "errors")),
        )  # fmt: skip
        caption = "p(correct), mean over categories, interval of 95% or more; changes are of p(correct)"
        return [Table(frame=capability_lines(report), columns=columns, caption=caption, file="cells", **across(report))]

    def finding(self, report: Report) -> str:
        """At which dose it is lost."""
        return f"{found}." if (found := capability_finding(report)) else ""

    def files(self, report: Report) -> dict[str, pd.DataFrame]:
        """Part of cells.csv and shifts.csv."""
        return {}


class Metrics(Section):
    """Perplexity, lm-eval's tasks and whatever an evaluator measures beside the behavior."""

    name = "metrics"
    title = "Measured beside the behavior"
    order = 120
    needs = ("metrics",)
    note = (
        "Level in every condition with its 95% interval over items. total: change from the unchanged model; shift: "
        "from its own base; both over the same items. A perplexity changes by a ratio, more is worse; all else by a "
        "difference."
    )

    def tables(self, report: Report) -> Sequence[Table]:
        """One a metric; of a group of tasks the first four go to the terminal."""
        shown = report.leading(report.metrics)
        kinds = list(shown.groupby(["evaluator", "task", "metric"], sort=False))
        first: set[Any] = {(evaluator, task) for (evaluator, task, _), _ in kinds[:4]}
        tables = []
        for (evaluator, task, _), own in kinds:
            brief = (evaluator, task) in first
            first.discard((evaluator, task))
            tables.append(_metric(own, report, where="always" if brief else "detail"))
        return tables

    def summary(self, report: Report) -> str:
        """What was measured."""
        return ", ".join(
            metric_title(own) for _, own in report.metrics.groupby(["evaluator", "task", "metric"], sort=False)
        )

    def files(self, report: Report) -> dict[str, pd.DataFrame]:
        """All of it, whatever leads."""
        return {"metrics": report.metrics} if len(report.metrics) else {}


def metric_title(lines: pd.DataFrame) -> str:
    """What it is, over how many items: `Perplexity (n 24, 310 tokens)`, `facts_choice: acc (n 24)`."""
    most = lines.loc[lines["n"].idxmax()]
    named = f"{most['task']}: {most['metric']}" if most["task"] else str(most["metric"]).capitalize()
    tokens = f", {most['weight']:,.0f} tokens" if most["evaluator"] == "perplexity" else ""
    return f"{named} (n {words.count(most['n'])}{tokens})"


def _metric(own: pd.DataFrame, report: Report, *, where: str) -> Table:
    ends = own[["value", "value_low", "value_high"]]
    ratio = own["change"].iloc[0] == "ratio"
    probable = not ratio and not ((ends < 0) | (ends > 1)).any(axis=None)
    change: dict[str, Any] = {"form": words.ratio if ratio else words.signed, "interval": True}
    against = "ratio to" if ratio else "difference from"
    columns = (
        BASE, DOSE,
        Column(name="value", label="level", form=words.probability if probable else words.level, interval=True),
        Column(name="total", definition=f"{against} the unchanged model, over the same items", **change),
        Column(name="shift", definition=f"{against} its own base", brief=False, **change),
        *(Column(name=name, label=name.replace("_", " "), form=words.count, brief=False) for name in (
            "n", "n_total", "n_shift", "errors")),
    )  # fmt: skip
    kind = "ratios" if ratio else "differences"
    caption = f"{metric_title(own)}; total and shift are {kind}"
    key = ("cell", "task", "metric")
    return Table(frame=own, columns=columns, caption=caption, file="metrics", key=key, where=where, **across(report))


def _score(line: Line) -> str:
    """With its mark where the text has collapsed."""
    return ("*" if line["collapsed"] else "") + words.interval(line, "score", words.probability)


def _carries(line: Line) -> str:
    """The verdict's own words; else of points alone, whose difference may be chance."""
    if OPPOSITE in str(line["tags"]).split(";"):
        return OPPOSITE
    return "signs of the points differ" if line["on_top"] * line["open_ended_on_top"] < 0 else ""
