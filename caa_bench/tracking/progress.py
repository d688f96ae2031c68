"""What a run prints: a line or a bar a fit, a bar with the time left, a line a finished cell, the tables at the end."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from caa_bench.callbacks import Callback
from caa_bench.storage.safe_text import terminal_safe
from caa_bench.tracking.batch_progress import BatchProgress
from caa_bench.tracking.fit_progress import FitProgress

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.evaluators.base import Row
    from caa_bench.interventions import Intervention
    from caa_bench.report import Report
    from caa_bench.runs.artifacts import Artifact
    from caa_bench.runs.plan import Batch, Cell, Plan

DRAWS = 999
"""Resamples behind the intervals that are shown on the way; the report takes the recipe's."""


class Progress(Callback):
    """Prints to stderr while working."""

    def __init__(self) -> None:
        self.fit = FitProgress()
        self.bar: Any = None
        self.cells: dict[str, Cell] = {}
        self.left: Counter[str] = Counter()
        self.rows_path = Path()

    def on_fit_begin(self, *, intervention: Intervention, pairs: int) -> None:
        """Say what is being fitted, since LoRA on a large model takes a while."""
        if _later_draw(intervention):
            return
        used = min(pairs, getattr(intervention.config, "max_pairs", None) or pairs)
        self.fit.begin(f"fit {intervention.key} on {used} pairs")

    def on_fit_step(self, *, intervention: Intervention, done: int, total: int, note: str) -> None:
        """Show how far the fit is."""
        self.fit.step(done, total, note)

    def on_fit_end(self, *, intervention: Intervention, artifact: Artifact) -> None:
        """How long it took, or that it was there."""
        if _later_draw(intervention):
            return
        took = "done" if artifact.fit_s is None else f"{artifact.fit_s:.1f} s"
        self.fit.end(f"kept from before ({artifact.folder})" if artifact.reused else took)

    def on_fit_error(self, *, intervention: Intervention, error: Exception) -> None:
        """End its line; what went wrong is said on lines of its own."""
        self.fit.end("failed")

    def on_tuning_begin(self, *, name: str, plan: Plan, waiting: Sequence[Batch]) -> None:
        """Say what is tried; open a bar over the batches that are not done yet."""
        items = len({item.id for batch in plan.batches for item in batch.items})
        _say(f"tuning, {name}: {len(plan.cells)} cells on {items} items")
        self.close()
        self.bar = BatchProgress(plan.batches, waiting)

    def on_tuning_batch(self, *, batch: Batch) -> None:
        """Move the bar on by a batch of the search."""
        self.bar.finished(batch)

    def on_tuning_end(self, *, record: dict[str, Any]) -> None:
        """What was chosen, and how clear that was."""
        from caa_bench.runs.tuning_record import tuning_lines

        self.close()
        for line in tuning_lines(record):
            _say(terminal_safe(line))

    def close(self) -> None:
        """Take the bar away, where there is one."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def on_compare_begin(self, *, plan: Plan, waiting: Sequence[Batch], folder: Path) -> None:
        """Open the bar over the batches that are not done yet."""
        self.cells = {cell.key: cell for cell in plan.cells}
        self.left = Counter(treatment.cell for batch in waiting for treatment in batch.treatments)
        self.faults: list[str] = []
        self.rows_path = folder / "rows.jsonl"
        done = len(plan.batches) - len(waiting)
        note = f", {done} of {len(plan.batches)} batches done before" if done else ""
        _say(f"{len(plan.cells)} cells in {folder}{note}")
        self.bar = BatchProgress(plan.batches, waiting)

    def on_costs(self, *, lines: Sequence[str]) -> None:
        """One line each, over the bar."""
        for line in lines:
            tqdm.write(line, file=sys.stderr)

    def on_batch_end(self, *, batch: Batch, rows: Sequence[Row]) -> None:
        """Move the bar; print the cells that this batch finished."""
        self.left.subtract(treatment.cell for treatment in batch.treatments)
        finished = [treatment.cell for treatment in batch.treatments if not self.left[treatment.cell]]
        if finished:
            self._print_cells(finished)
        self.bar.finished(batch)

    def on_batch_error(self, *, batch: Batch, error: Exception) -> None:
        """Say which batch failed; the others go on."""
        self.faults.append(f"{type(error).__name__}: {error}".partition("\n")[0])
        tqdm.write(f"error in a batch of {batch.base.label}: {type(error).__name__}: {error}", file=sys.stderr)
        self.bar.finished(batch)

    def on_compare_end(self, *, folder: Path, failed: Sequence[Batch]) -> None:
        """Close the bar; say how to retry what failed."""
        self.bar.close()
        if failed:
            why = "; ".join(dict.fromkeys(self.faults))
            _say(f"{len(failed)} batches failed ({why}); once that is mended, the same command computes only these")

    def _print_cells(self, keys: Sequence[str]) -> None:
        """One line a cell: the mean of p(matching) with its interval, over rows of earlier runs too."""
        import pandas as pd

        from caa_bench.analysis.cells import cell_table
        from caa_bench.analysis.estimates import Resampling
        from caa_bench.analysis.frames import grouped
        from caa_bench.analysis.items import item_scores
        from caa_bench.runs.rows import RowStore, frame_of

        cells = pd.DataFrame([vars(self.cells[key]) for key in keys]).rename(columns={"key": "cell"}).set_index("cell")
        wanted = set(keys)
        own = [row for row in RowStore(self.rows_path).rows() if row["cell"] in wanted]
        rows = frame_of(row for row in own if "letters" in row)
        self._print_metrics(cells, [row for row in own if "metric" in row])
        if rows.empty:
            return  # answers in words are not judged yet
        scores = item_scores(rows, protocol=self.cells[keys[0]].protocol)
        table = cell_table(grouped(scores, cells), how=Resampling(draws=DRAWS))
        for line in table.to_dict("records"):
            low, high = _probability_text(line["p_balanced_low"]), _probability_text(line["p_balanced_high"])
            level = f"p {_probability_text(line['p_balanced'])} [{low}, {high}] n {line['n']}"
            level += "" if line["evaluator"] == "answer_probability" else f" {line['evaluator']}"
            tqdm.write(f"  {self._base(line):<28} {_what(line):<26} {level}", file=sys.stderr)

    def _print_metrics(self, cells: pd.DataFrame, rows: Sequence[Row]) -> None:
        """A line a cell and task, of the task's first metric."""
        from caa_bench.analysis.cells import metric_table
        from caa_bench.analysis.estimates import Resampling
        from caa_bench.report.words import level

        for line in (
            metric_table(rows, cells, how=Resampling(draws=DRAWS)).drop_duplicates(["cell", "task"]).to_dict("records")
        ):
            ends = f"[{level(line['value_low'])}, {level(line['value_high'])}]"
            what = terminal_safe(f"{line['task']} {line['metric']}".strip())
            said = f"{what} {level(line['value'])} {ends} n {line['n']}"
            tqdm.write(f"  {self._base(line):<28} {_what(line):<26} {said}", file=sys.stderr)

    def _base(self, line: Mapping[str, Any]) -> str:
        """With its dose, and with the number of the fit that the line is of; a line of several is their mean."""
        from caa_bench.report.words import named

        fit, base = self.cells[line["cell"]].fit, named(line["base"], line["base_dose"])
        return f"{base}@{fit}" if fit not in ("", "1") and line["n_fits"] == 1 else base


class Tables(Callback):
    """Prints a finished report to stdout, as every command does: the tables, and last the answer and where to look.

    Args:
        quiet: the answer and the warnings alone.
        verbose: every vector, layer and dose.
        terminal: columns.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, terminal: int = 120) -> None:
        self.quiet, self.verbose, self.terminal = quiet, verbose, terminal

    def on_report(self, *, report: Report) -> None:
        """What stands last is what stays on the screen."""
        from caa_bench.report.text import closing_text, columns_of, tables_text

        with columns_of(self.terminal):
            tables = "" if self.quiet else f"\n{tables_text(report, detail=self.verbose)}\n\n"
            print(f"{tables}{closing_text(report)}\n\nopen {report.folder / 'report.html'}")


def _what(line: Mapping[str, Any]) -> str:
    return f"{line['vector']} layer {line['layer']:.0f} x{line['multiplier']:+g}" if line["vector"] else "alone"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _probability_text(value: float) -> str:
    return "n/a" if value != value else f"{value:.2f}"


def _later_draw(intervention: Intervention) -> bool:
    """Of a placebo's draws the first has a line; the others take as long as it and would be a screen of lines."""
    return bool(intervention.placebo_of) and intervention.number not in ("", "1")
