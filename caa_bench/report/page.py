"""report.html: one page that needs nothing else, opened from a file. All text is escaped; no request leaves it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from caa_bench.report import words
from caa_bench.report.answers_page import spoken
from caa_bench.report.arms import Row, rows
from caa_bench.report.capability import capability, capability_grid
from caa_bench.report.costs import Cost, Timing, costs
from caa_bench.report.curves import curves
from caa_bench.report.equal_loss import equal_loss_grid
from caa_bench.report.fits import count, fits_grid
from caa_bench.report.grids import cells_grid, items_grid, letters_grid, reliability_grid, stacks_grid
from caa_bench.report.headline import Headline, headline, items_asked
from caa_bench.report.matched import matched_grid, next_step
from caa_bench.report.metrics import metric_sections
from caa_bench.report.plots import layer_chart, overlay, panels
from caa_bench.report.quotes import Quote, Span
from caa_bench.report.repeat import COMMAND, REPORT_COMMAND, recipe_yaml
from caa_bench.report.sentence import Verdict, row_name, sentence
from caa_bench.report.vectors import vectors_grid

if TYPE_CHECKING:
    from caa_bench.report import Report


def render_page(report: Report) -> str:
    """The whole page."""
    chosen = headline(report)
    arms, fitted = rows(report, chosen), costs(report)
    found = curves(report, chosen)
    stacks = stacks_grid(report, chosen, everything=False)
    every = stacks_grid(report, chosen, everything=True)
    ability = capability(report, chosen)
    answer = sentence(report, chosen, rows=arms, costs=fitted)
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            behavior=report.manifest["facts"]["behavior"],
            manifest=report.manifest,
            recipe=report.manifest["recipe"],
            sweep=not any(row.kind == "stack" for row in arms),
            facts=_facts(report, chosen),
            answer=answer,
            arms=[{"row": row, "name": row_name(row, chosen)} for row in arms],
            overlay=overlay(found, chosen),
            panels=panels(found, chosen),
            layers=layer_chart(report, chosen),
            capability=capability_grid(ability) if ability else None,
            metrics=metric_sections(report, chosen),
            costs=_priced(arms, fitted, chosen),
            equal_loss=equal_loss_grid(report, chosen),
            matched=matched_grid(report, chosen),
            next_step=next_step(report, chosen),
            stacks=stacks,
            fits=fits_grid(report, chosen),
            every_stack=every if len(every.rows) > len(stacks.rows) else None,
            spoken=spoken(report, chosen),
            vectors=vectors_grid(report),
            letters=letters_grid(report, chosen),
            reliability=reliability_grid(report, chosen),
            items=items_grid(report, chosen),
            cells=cells_grid(report),
            notices=report.notices,
            recipe_yaml=recipe_yaml(report.manifest),
            command=COMMAND,
            report_command=REPORT_COMMAND,
            style_hash=template_hash("style.css.jinja"),
            script_hash=template_hash("script.js.jinja"),
        )
    )


@cache
def environment() -> jinja2.Environment:
    """The templates beside this file, everything escaped, and a name that is not there is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.tests |= {
        "span": lambda part: isinstance(part, Span),
        "quote": lambda part: isinstance(part, Quote),
        "timing": lambda part: isinstance(part, Timing),
        "verdict": lambda part: isinstance(part, Verdict),
    }
    made.filters["exact"] = lambda value: f"{value:.9g}"
    made.filters["typeset"] = typeset
    made.filters["breakable"] = breakable
    return made


def typeset(text: object) -> str:
    """A real minus sign before digits, and a real arrow."""
    shown = str(text).replace("->", "→")
    return f"−{shown[1:]}" if shown[:1] == "-" else shown.replace(" -", " −") if " -" in shown else shown


def breakable(text: object) -> Markup:
    """A name that may break after its underscores where the paper is narrow."""
    return Markup("_<wbr>").join(str(piece) for piece in typeset(text).split("_"))


def template_hash(name: str) -> str:
    """What the page's policy names its own style and script by: nothing else may run."""
    text = environment().get_template(name).render()
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _facts(report: Report, chosen: Headline) -> list[tuple[str, str]]:
    """n, seeds, tries and what else stands at the top."""
    recipe, (items, clusters) = report.manifest["recipe"], items_asked(report)
    counted = f"{items} items" + ("" if clusters == items else f", {clusters} clusters")
    seeds = {"seed": recipe["seed"]} | {key: value for key, value in recipe.items() if key.endswith(".seed")}
    tries = str(chosen.choices[0].tries) if chosen.choices else ""
    tuned = report.manifest["facts"].get("tuning", {}).get("arms", {})
    tries = tries or ", ".join(f"{label} {arm['tries']} on the selection split" for label, arm in tuned.items())
    return [
        ("model", str(recipe["model"])),
        ("split", str(recipe["split"])),
        ("n", counted if items else "no A/B test"),
        ("orders", "given only" if recipe["protocol"] == "caa" else "both"),
        ("layer", "n/a" if chosen.layer is None else f"{words.count(chosen.layer)} ({chosen.layer_reason})"),
        ("seeds", _seeds(seeds)),
        *([("fits", str(many))] if (many := count(report)) > 1 else []),
        ("tries", tries or "0, nothing was chosen in this run"),
        ("test opened", str(report.manifest["test_opened"]) if recipe["split"] == "test" else "no"),
        ("status", str(report.manifest["status"])),
    ]


def _priced(arms: Sequence[Row], fits: Sequence[Cost], chosen: Headline) -> list[tuple[Cost | None, Row, str]]:
    """Each arm alone with what it cost; None for one that is not fitted."""
    by_label = {cost.label: cost for cost in fits}
    alone = [row for row in arms if row.kind in ("base", "vector")]
    return [
        (by_label.get(row.base if row.kind == "base" else chosen.vector), row, row_name(row, chosen)) for row in alone
    ]


def _seeds(seeds: dict[str, Any]) -> str:
    if len(set(seeds.values())) == 1:
        return f"{next(iter(seeds.values()))}"
    return ", ".join(f"{name.removesuffix('.seed')} {value}" for name, value in seeds.items())
