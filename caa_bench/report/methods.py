"""A methods paragraph and a BibTeX entry, generated from a run: what was done, in words that the manifest bears out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.analysis.estimates import MIN_ITEMS
from caa_bench.report import words
from caa_bench.report.conditions import CAPABILITY
from caa_bench.report.headline import headline, items_asked, measured
from caa_bench.report.latex import escape

if TYPE_CHECKING:
    from caa_bench.report import Report

PAPER = """@misc{caa,
  title = {Steering Llama 2 via Contrastive Activation Addition},
  author = {Nina Panickssery and Nick Gabrieli and Julian Schulz
    and Meg Tong and Evan Hubinger and Alexander Matt Turner},
  year = {2023},
  eprint = {2312.06681},
  archivePrefix = {arXiv},
}
"""


def methods_latex(report: Report) -> str:
    """One paragraph, as LaTeX; cites `caa` and `caa_bench` of `bibtex`."""
    first, *rest = map(escape, _sentences(report))
    return " ".join([rf"{first}~\cite{{caa,caa_bench}}.", *rest]) + "\n"


def bibtex(manifest: Mapping[str, Any]) -> str:
    """The paper, and this tool at the version that made the rows, with the run's recipe key."""
    version = manifest["versions"].get("caa-bench") or "unknown"
    note = f"version {escape(str(version))}, recipe key {manifest['recipe_key'][:16]}"
    return f"{PAPER}\n@software{{caa_bench,\n  title = {{caa\\_bench}},\n  note = {{{note}}},\n}}\n"


def _sentences(report: Report) -> list[str]:
    recipe, behavior = report.manifest["recipe"], report.manifest["facts"]["behavior"]
    chosen, (items, clusters) = headline(report), items_asked(report)
    cells = measured(report.cells) if items else pd.DataFrame(report.manifest["facts"]["cells"])
    orders = "in the given option order" if recipe["protocol"] == "caa" else "in both option orders"
    bases = ", ".join(words.named(base, dose) for base, dose in chosen.bases)
    doses = ", ".join(f"{dose:g}" for dose in sorted(cells["multiplier"].unique()))
    layers = ", ".join(words.count(layer) for layer in chosen.layers) or words.NA
    vectors = ", ".join(str(name) for name in recipe.get("vectors", []))
    sampled = f"over clusters ({recipe['draws']} draws, seed {recipe['seed']}); below {MIN_ITEMS} items none is given."
    tested = [
        f"Each of {items} items of the {recipe['split']} split ({clusters} clusters) was asked {orders}, and the "
        "log-odds of the matching over the other answer letters were read at the position of the letter.",
        "Effects are means of per-item differences of the log-odds with 95% intervals from a studentized bootstrap "
        f"{sampled}",
        "Interactions were tested by sign flips over clusters with Benjamini-Hochberg correction.",
    ]
    return [
        f"We measured {behavior['title']} on {recipe['model']} with caa_bench",
        f"Vectors ({vectors}) were added at layer {layers} with multipliers {doses} on top of each base ({bases}).",
        *(tested if items else [f"Means have 95% intervals from a studentized bootstrap {sampled}"]),
        *_spoken(report),
        *_beside(report),
    ]


def _beside(report: Report) -> Iterator[str]:
    """What else was measured under the same conditions."""
    facts = report.cells[report.cells["evaluator"] == CAPABILITY]
    if len(facts) and facts["n"].max() > 0:
        source = report.manifest["recipe"].get("capability.source", "own")
        yield (
            f"Capability is p(correct), scored in the same way on {int(facts['n'].max())} questions ({source}) and "
            "averaged over their categories."
        )
    if report.metrics is not None:
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
