"""A methods paragraph and a BibTeX entry, generated from a run: what was done, in words that the manifest bears out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from caa_bench.analysis.intervals import MIN_ITEMS
from caa_bench.report import words
from caa_bench.report.headline import headline, measured
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
    cells, chosen = measured(report.cells), headline(report)
    items = int(cells["n"].max()) if len(cells) else 0
    clusters = int(cells["n_clusters"].max()) if len(cells) else 0
    orders = "in the given option order" if recipe["protocol"] == "caa" else "in both option orders"
    bases = ", ".join(words.named(base, dose) for base, dose in chosen.bases)
    doses = ", ".join(f"{dose:g}" for dose in sorted(cells["multiplier"].unique()))
    layers = ", ".join(words.count(layer) for layer in chosen.layers) or words.NA
    vectors = ", ".join(str(name) for name in recipe.get("vectors", []))
    return [
        f"We measured {behavior['title']} on {recipe['model']} with caa_bench",
        f"Each of {items} items of the {recipe['split']} split ({clusters} clusters) was asked {orders}, and the "
        "log-odds of the matching over the other answer letters were read at the position of the letter.",
        f"Vectors ({vectors}) were added at layer {layers} with multipliers {doses} on top of each base ({bases}).",
        "Effects are means of per-item differences of the log-odds with 95% intervals from a studentized bootstrap "
        f"over clusters ({recipe['draws']} draws, seed {recipe['seed']}); below {MIN_ITEMS} items none is given.",
        "Interactions were tested by sign flips over clusters with Benjamini-Hochberg correction.",
        *_spoken(report),
    ]


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
