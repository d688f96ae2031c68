"""Do the report's claims hold at the rate they state? Data of known truth in, coverage and error rates out.

    make simulate                                            # minutes; writes the table of docs/numbers.md
    python -m benchmarks.simulate --runs 400 --only levels   # quicker, prints only

Every number comes from the functions that the report calls. Coverage counts intervals that were given; how often none
was ("n/a") stands beside it. The paper's released items are used where they are at hand.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import simulated
from benchmarks.simulated import Result

ROOT = Path(__file__).parents[1]
PAGE, KEPT = ROOT / "docs" / "numbers.md", ROOT / "benchmarks" / "simulated.json"
BEGIN, END = "<!-- simulated: begin -->", "<!-- simulated: end -->"
PARTS = {
    "effects": simulated.effects,
    "paper": simulated.paper,
    "levels": simulated.levels,
    "losses": simulated.losses,
    "pairs": simulated.pairs,
    "fits": simulated.fits,
    "retention": simulated.retention,
    "tests": simulated.tests,
    "placebos": simulated.placebos,
    "power": simulated.power,
    "selection": simulated.selection,
}


def holds(one: Result) -> str:
    """Whether a figure is within what is stated, give or take two standard errors of the simulation."""
    room = 2 * one.error
    if np.isnan(one.figure):
        return "n/a"
    if one.kind in ("coverage", "at least"):
        if one.figure < 0.93 - room:
            return "**too low**"
        return "wider than needed" if one.kind == "coverage" and one.figure > 0.97 + room else "yes"
    if one.kind == "false alarms":
        return "yes" if one.figure <= one.stated + 0.01 + room else "**too high**"
    return "yes" if abs(one.figure - one.stated) <= 0.05 + room else "**no**"


def table(results: list[Result]) -> str:
    """The results as a Markdown table, a line each."""
    lines = ["| what | setting | n | stated | simulated | n/a | holds |", "|---|---|---|---|---|---|---|"]
    for one in results:
        figure = "n/a" if np.isnan(one.figure) else f"{one.figure:.3f}"
        stated = "at least " * (one.kind == "at least") + f"{one.stated:.3f}".rstrip("0")
        cells = (one.what, one.setting, str(one.n), stated, figure, f"{one.missing:.0%}", holds(one))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write(results: list[Result], *, runs: int, took_s: float) -> None:
    """The table between the two markers of docs/numbers.md, and every figure as JSON."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest:
        raise SystemExit(f"{PAGE}: has no line {BEGIN}; put one there, and {END} behind it")
    error = f"{(0.0475 / runs) ** 0.5:.3f}"
    said = f"{runs} data sets a line, seed {simulated.SEED}; the standard error of a share of .95 is {error}."
    PAGE.write_text(f"{before}{BEGIN}\n{said}\n\n{table(results)}\n{END}{after}", encoding="utf-8")
    kept: dict[str, Any] = {"runs": runs, "seed": simulated.SEED, "took_s": round(took_s)}
    kept["results"] = [{**vars(one), "figure": round(one.figure, 6), "holds": holds(one)} for one in results]
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """All parts, or those named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="data sets a line (%(default)s)")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS), help="parts; prints only")
    options = parser.parse_args()
    started, results = time.monotonic(), []
    for name in options.only:
        found = PARTS[name](options.runs)
        results += found
        print(table(found), f"{name}: {time.monotonic() - started:.0f} s so far\n", sep="\n", flush=True)
    if options.only == list(PARTS):
        write(results, runs=options.runs, took_s=time.monotonic() - started)


if __name__ == "__main__":
    main()
