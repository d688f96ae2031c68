"""What a dashboard shows while a run goes on: the losses of fits, and the cells as they are measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.tracking.base import Tracker

if TYPE_CHECKING:
    from caa_bench.evaluators.base import Row
    from caa_bench.interventions import Intervention
    from caa_bench.runs.plan import Batch, Cell, Plan

PROGRESS = "progress"
MOST_CELLS = 40
"""Cells that are drawn while they are measured; all are in the curves at the end."""
_LOSS = re.compile(r"((?:held-out )?loss) ([\d.]+)")


class LiveTracker(Tracker):
    """Logs to one run called `progress` while the comparison goes on; where nothing is left to do there is none."""

    def __init__(self, *, project: str) -> None:
        super().__init__(project=project)
        self._settings: Mapping[str, Any] = {}
        self._folder = Path()
        self._live: Any = None
        self._cells: dict[str, Cell] = {}
        self._sums: dict[str, tuple[float, int]] = {}
        self._batches = 0

    def open_live(self, settings: Mapping[str, Any], folder: Path) -> Any:
        """Begin the run `progress`; what it gives goes to the other two."""
        raise NotImplementedError

    def log_live(self, live: Any, point: dict[str, float]) -> None:
        """Show a point."""
        raise NotImplementedError

    def close_live(self, live: Any) -> None:
        """End it."""
        raise NotImplementedError

    def on_begin(self, *, settings: Mapping[str, Any], folder: Path) -> None:
        """Remember what runs, and where."""
        self._settings, self._folder, self._sums, self._batches = settings, folder, {}, 0

    def on_fit_step(self, *, intervention: Intervention, done: int, total: int, note: str) -> None:
        """The losses of a training, under the intervention's own name."""
        known = {name.replace("-", "_").replace(" ", "_"): float(value) for name, value in _LOSS.findall(note)}
        if known:
            key = intervention.key
            self._log({f"train/{key}/{name}": value for name, value in known.items()} | {f"train/{key}/pairs": done})

    def on_compare_begin(self, *, plan: Plan, waiting: Sequence[Batch], folder: Path) -> None:
        """Which cells are drawn: the first ones that are no placebo's."""
        placebos = {one.label for batch in plan.batches for one in _vectors(batch) if one.placebo_of}
        own = [cell for cell in plan.cells if cell.vector not in placebos]
        self._cells = {cell.key: cell for cell in own[:MOST_CELLS]}

    def on_batch_end(self, *, batch: Batch, rows: Sequence[Row]) -> None:
        """Each cell's mean so far."""
        self._batches += 1
        self._log({"cells/batches": float(self._batches)} | self._means(rows))

    def on_compare_end(self, *, folder: Path, failed: Sequence[Batch]) -> None:
        """Nothing comes any more."""
        live, self._live = self._live, None
        if live is not None:
            self.close_live(live)

    def _log(self, point: dict[str, float]) -> None:
        if self._live is None:
            self._live = self.open_live(self._settings, self._folder)
        self.log_live(self._live, point)

    def _means(self, rows: Sequence[Row]) -> dict[str, float]:
        """Mean p(matching) of the cells that these rows are of, over all of their items so far."""
        from caa_bench.analysis.items import item_scores
        from caa_bench.runs.rows import frame_of

        own = [row for row in rows if row["cell"] in self._cells and "letters" in row]
        if not own:
            return {}
        scores = item_scores(frame_of(own), protocol=self._cells[own[0]["cell"]].protocol)
        found = {}
        for key, values in scores.groupby("cell")["p_balanced"]:
            known = values.dropna()
            total, count = self._sums.get(str(key), (0.0, 0))
            self._sums[str(key)] = total, count = total + float(known.sum()), count + len(known)
            if count:
                found[f"cells/{_cell_name(self._cells[str(key)])}"] = total / count
        return found


def progress_name(settings: Mapping[str, Any], what: str = PROGRESS) -> str:
    """`refusal · tiny · progress`."""
    return f"{_short(settings['behavior'])} · {_short(settings['model'])} · {what}"


def tags_of(settings: Mapping[str, Any]) -> list[str]:
    """What runs are filtered by: behavior, model and split."""
    return [
        text[:64] for text in (_short(settings["behavior"]), _short(settings["model"]), str(settings["split"])) if text
    ]


def _short(name: object) -> str:
    return Path(str(name)).name


def _vectors(batch: Batch) -> list[Intervention]:
    return [one.intervention for one in batch.treatments if one.intervention is not None]


def _cell_name(cell: Cell) -> str:
    """As a curve is called, with its dose and evaluator; no slash, which would be a panel of its own."""
    steered = f" + {cell.vector} L{cell.layer} x{cell.multiplier:+g}" if cell.vector else ""
    fit = f" fit {cell.fit}" if cell.fit else ""
    return f"{cell.base}{steered}{fit} ({cell.evaluator})".replace("/", "_")
