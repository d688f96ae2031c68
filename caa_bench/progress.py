"""What a run prints: a line a fit, a bar with the time left, a line a finished cell, the tables at the end."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from tqdm import tqdm

from caa_bench.callbacks import Callback
from caa_bench.evaluators.base import Row


class Progress(Callback):
    """Prints to stderr while working, the tables to stdout."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.left: Counter[str] = Counter()
        self.rows: dict[str, list[Row]] = {}
        self.cells: dict[str, Any] = {}

    def on_fit_begin(self, **event: Any) -> None:
        """Say what is being fitted, since LoRA on a large model takes a while."""
        intervention = event["intervention"]
        used = min(event["pairs"], getattr(intervention.config, "max_pairs", None) or event["pairs"])
        sys.stderr.write(f"fit {intervention.label} on {used} pairs ... ")
        sys.stderr.flush()

    def on_fit_end(self, **event: Any) -> None:
        """How long it took, or that it was there."""
        artifact = event["artifact"]
        sys.stderr.write(f"kept from before ({artifact.folder})\n" if artifact.reused else f"{artifact.fit_s:.1f} s\n")

    def on_compare_begin(self, **event: Any) -> None:
        """Open the bar over the batches that are not done yet."""
        plan, waiting = event["plan"], event["waiting"]
        self.cells = {cell.key: cell for cell in plan.cells}
        self.left = Counter(treatment.cell for batch in waiting for treatment in batch.treatments)
        done = len(plan.batches) - len(waiting)
        note = f", {done} of {len(plan.batches)} batches done before" if done else ""
        sys.stderr.write(f"{len(plan.cells)} cells in {event['folder']}{note}\n")
        # disable=None: no bar where stderr is a file, the cells' lines are enough there
        self.bar = tqdm(total=len(plan.batches), initial=done, unit="batch", disable=None, dynamic_ncols=True)

    def on_batch_end(self, **event: Any) -> None:
        """Move the bar; print the cells that this batch finished."""
        for row in event["rows"]:
            self.rows.setdefault(row["cell"], []).append(row)
        finished = []
        for treatment in event["batch"].treatments:
            self.left[treatment.cell] -= 1
            if not self.left[treatment.cell]:
                finished.append(treatment.cell)
        if finished:
            self._print_cells(finished)
        self.bar.update()

    def on_batch_error(self, **event: Any) -> None:
        """Say which batch failed; the others go on."""
        error, batch = event["error"], event["batch"]
        tqdm.write(f"error in a batch of {batch.base.label}: {type(error).__name__}: {error}", file=sys.stderr)
        self.bar.update()

    def on_compare_end(self, **event: Any) -> None:
        """Close the bar; say how to retry what failed."""
        self.bar.close()
        if event["failed"]:
            sys.stderr.write(f"{len(event['failed'])} batches failed; the same command tries only these again\n")

    def on_report(self, **event: Any) -> None:
        """The tables, and where they are."""
        report = event["report"]
        print(f"\n{report.text()}\n\nrows, cells.csv, stacking.csv and table.txt are in {report.folder}")

    def _print_cells(self, keys: list[str]) -> None:
        """One line a cell: the mean of p(matching) over what this process measured, with its interval."""
        import pandas as pd

        from caa_bench.analysis.cells import cell_table
        from caa_bench.analysis.items import item_scores
        from caa_bench.report.table import probability
        from caa_bench.rows import frame_of

        cells = pd.DataFrame([vars(self.cells[key]) for key in keys]).rename(columns={"key": "cell"}).set_index("cell")
        rows = frame_of(row for key in keys for row in self.rows.pop(key))
        table = cell_table(item_scores(rows, protocol=self.cells[keys[0]].protocol), cells, draws=999)
        for line in table.to_dict("records"):
            what = f"{line['vector']} layer {line['layer']:.0f} x{line['multiplier']:+g}" if line["vector"] else "alone"
            low, high = probability(line["p_balanced_low"]), probability(line["p_balanced_high"])
            level = f"p {probability(line['p_balanced'])} [{low}, {high}] n {line['n']}"
            tqdm.write(f"  {line['base']:<28} {what:<26} {level}", file=sys.stderr)
