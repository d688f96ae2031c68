"""Sections about what each arm does to the behavior: arms, layers, doses, stacks, fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.report import words
from caa_bench.report.arms import strongest
from caa_bench.report.figures import dose_curves, layers, stacking
from caa_bench.report.headline import CAPABILITY, OPEN_ENDED
from caa_bench.report.sections import BASE, DOSE, LAYER, VECTOR, Column, Line, N, Section, Table, across, levels

if TYPE_CHECKING:
    from caa_bench.report.model import Report
    from caa_bench.storage.drawing import Drawing

P, SIGNED = words.probability, words.signed


def _name(report: Report) -> str:
    return words.display(report.headline.vector)


def _is_alone(line: Line) -> bool:
    return bool(line["kind"] != "stack")


def _unchanged(line: Line) -> bool:
    return bool(line["kind"] == "none")


class Arms(Section):
    """Each arm alone and the vector on top of it: the table that stands beside the answer."""

    name = "arms"
    title = "Arms and stacks"
    order = 10
    needs = ("arms",)

    def tables(self, report: Report) -> Sequence[Table]:
        """One, a line an arm and stack."""
        arms = report.arms
        stacked, spoken, costly = (bool(arms[name].notna().any()) for name in ("retention", "in_words", "capability"))
        columns = [
            Column(name="arm", label="arm or stack", text=_indented),
            Column(name="p_balanced", label="p(matching)", form=P, text=levels, definition="before -> after"),
            Column(name="shift", label="shift in log-odds", form=SIGNED, interval=True, blank=_unchanged,
                   definition="+ is towards matching; 95% interval over items"),
        ]  # fmt: skip
        if stacked:
            columns += [
                Column(name="retention", form=words.number, interval=True, blank=_is_alone,
                       definition="the share of the vector's effect alone that is left on top of the base"),
                Column(name="room", form=P, blank=_is_alone, definition="how far p(matching) could still move"),
            ]  # fmt: skip
        columns.append(Column(name="option_mass", label="mass", form=P, definition="probability of the answer letters"))
        if spoken:
            columns.append(Column(name="in_words", label="words", form=SIGNED, blank=_unchanged, behind=OPEN_ENDED,
                                  definition="shift of the judged score of answers in words, 0-1"))  # fmt: skip
        if costly:
            columns.append(Column(name="capability", label="cap.", form=SIGNED, blank=_unchanged, behind=CAPABILITY,
                                  definition="change of p(correct) from the unchanged model"))  # fmt: skip
        columns.append(Column(name="verdict_words", label="verdict", wide=True))
        said = "shift: + is towards matching; 95% intervals"
        said += "; words: the same of the score, 0-1" if spoken else ""
        said += "; cap.: change of p(correct)" if costly else ""
        said += strongest(arms)
        return [Table(frame=arms, columns=tuple(columns), caption=said, file="arms")]

    def summary(self, report: Report) -> str:
        """The arm that moves the behavior furthest alone."""
        alone = report.arms[report.arms["kind"].isin(["base", "vector"]) & report.arms["shift"].notna()]
        if alone.empty:
            return ""
        line = alone.loc[alone["shift"].abs().idxmax()].to_dict()
        return f"largest shift alone: {words.human(line['arm'])}, {words.interval(line, 'shift', SIGNED)} log-odds"

    def figures(self, report: Report) -> Sequence[Drawing]:
        """Each base, and the vector on top of it."""
        return list(stacking(report))


class Layers(Section):
    """The vector alone, layer by layer: where steering works."""

    name = "layers"
    title = "Layers"
    order = 20
    needs = ("shifts",)

    def tables(self, report: Report) -> Sequence[Table]:
        """A line a layer and dose."""
        chosen, shifts = report.headline, report.measured("shifts")
        if len(chosen.layers) < 2:
            return []
        alone = shifts[(shifts["base"] == "none") & (shifts["vector"] == chosen.vector)]
        alone = alone[alone["multiplier"].isin(chosen.doses)].sort_values(["layer", "multiplier"], kind="stable")
        columns = (
            Column(name="layer", text=lambda x: ("*" if x["layer"] == chosen.layer else "") + words.count(x["layer"])),
            DOSE,
            Column(name="shift", form=SIGNED, interval=True, definition="log-odds, + towards matching"),
            Column(name="option_mass", label="mass", form=P, definition="probability of the answer letters"),
        )
        caption = f"{_name(report)} alone by layer, 95% intervals; * leads ({chosen.layer_reason})"
        return [Table(frame=alone, columns=columns, caption=caption, file="shifts", folded=True,
                      **across(report))]  # fmt: skip

    def summary(self, report: Report) -> str:
        """Which layer leads, and why."""
        return f"layer {words.count(report.headline.layer or 0.0)} leads: {report.headline.layer_reason}"

    def figures(self, report: Report) -> Sequence[Drawing]:
        """The shift against the layer."""
        return list(layers(report))


class Doses(Section):
    """p(matching) of every base at every multiplier of the vector."""

    name = "doses"
    title = "p(matching) at every dose"
    order = 40
    needs = ("cells",)

    def tables(self, report: Report) -> Sequence[Table]:
        """A line a base and dose, at the layer that leads."""
        shown = report.leading(report.measured("cells"))
        if shown["multiplier"].nunique() < 2:
            return []
        p = Column(name="p_balanced", label="p(matching)", form=P, interval=True)
        return [Table(frame=shown, columns=(BASE, DOSE, p, N), caption=words.OF_SHARES, file="cells",
                      folded=True, **across(report))]  # fmt: skip

    def summary(self, report: Report) -> str:
        """How far p reaches."""
        p = report.leading(report.measured("cells"))["p_balanced"]
        return f"from {P(p.min())} to {P(p.max())} over {len(p)} conditions"

    def figures(self, report: Report) -> Sequence[Drawing]:
        """The dose curves."""
        return list(dose_curves(report))


class Stacks(Section):
    """Does the vector still add on each base?"""

    name = "stacks"
    title = "Does the vector still add?"
    order = 50
    needs = ("stacking",)

    def heading(self, report: Report) -> str:
        """With the vector's name."""
        return f"Does {_name(report)} still add?"

    def tables(self, report: Report) -> Sequence[Table]:
        """Those that lead, then every vector and layer."""
        every, name = report.measured("stacking"), _name(report)
        spoken = "open_ended_on_top" in every
        number = words.number
        brief: dict[str, Any] = {"form": number, "interval": True}
        columns = (
            Column(name="alone", label=f"{name} alone", definition="log-odds in the direction of the dose", **brief),
            Column(name="on_top", label=f"{name} on top", definition="the same on the base", **brief),
            Column(name="interaction", definition="on top less alone, item by item", brief=False, form=number,
                   interval=True),
            *([Column(name="open_ended_on_top", label="in words", definition="score 0-1", behind=OPEN_ENDED, **brief)]
              if spoken else []),
            Column(name="retention", definition="on top over alone", **brief),
            Column(name="q_value", label="q", form=words.small, brief=False, definition="false discovery rate"),
            Column(name="detectable_effect", label="detectable", form=number, brief=False,
                   definition="the smallest interaction seen with 80% power"),
            Column(name="p_before", label="p before", form=P),
            Column(name="p_after", label="p after", form=P),
            Column(name="room", form=P, brief=False),
            Column(name="n", form=words.count, brief=False),
            Column(name="family", brief=False),
            Column(name="verdict_text", label="verdict", wide=True),
            Column(name="verdict_stability", label="firm", form=words.share, brief=False,
                   definition="share of resamples of the effects that give the same verdict"),
        )  # fmt: skip
        key = ("base", "base_dose", "vector", "vector_behavior", "vector_model", "vector_layer", "layer", "multiplier")
        caption = (
            f"Effects in log-odds in the direction of the dose, 95% intervals{'; in words: of the score, 0-1' * spoken}"
        )
        lead = report.at_headline("stacking")
        tables = [
            Table(frame=lead, columns=(BASE, DOSE, *columns), caption=caption, file="stacking", key=key, where="page")
        ]
        place = (BASE, VECTOR, LAYER, DOSE)
        return [*tables, Table(frame=every, columns=(*place, *columns), caption=f"Every vector and layer. {caption}",
                               file="stacking", key=key, where="detail", folded=True)]  # fmt: skip

    def summary(self, report: Report) -> str:
        """How many stacks have each verdict."""
        counted = report.at_headline("stacking")["verdict"].value_counts(sort=False)
        return ", ".join(f"{verdict}: {count}" for verdict, count in counted.items())

    def files(self, report: Report) -> dict[str, pd.DataFrame]:
        """All of it, whatever leads."""
        return {"stacking": report.stacking}


class Fits(Section):
    """Each fit by itself: a finetune of another seed, a vector of another resample of the training items."""

    name = "fits"
    title = "Fits"
    order = 60
    needs = ("fits",)

    def tables(self, report: Report) -> Sequence[Table]:
        """A line a cell of each fit."""
        columns = (
            BASE, DOSE, Column(name="fit"), Column(name="p_balanced", label="p(matching)", form=P),
            *(Column(name=name, label=name.replace("_", " "), form=SIGNED)
              for name in ("alone", "on_top", "interaction")),
            N,
        )  # fmt: skip
        caption = "Effects in log-odds in the direction of the dose. The intervals elsewhere include these differences"
        return [Table(frame=report.leading(report.measured("fits")), columns=columns, caption=caption, file=self.name,
                      where="page", folded=True)]  # fmt: skip

    def summary(self, report: Report) -> str:
        """How many."""
        return f"{report.record.fits} fits of each condition"

    def files(self, report: Report) -> dict[str, pd.DataFrame]:
        """Every vector and layer."""
        return {"fits": report.fits} if len(report.fits) else {}


def _indented(line: Line) -> str:
    return f"  + {line['arm']}" if line["kind"] in ("vector", "stack") else str(line["arm"])
