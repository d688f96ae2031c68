"""What each fitted intervention costs: seconds (kept beside the artifact) and stored bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from caa_bench.errors import UserError
from caa_bench.report import words
from caa_bench.report.quotes import Quote
from caa_bench.storage.files import read_json

if TYPE_CHECKING:
    from caa_bench.report import Report


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds as shown: the only thing in a report that two runs of the same recipe do not share."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one fitted intervention.

    Args:
        label: its label.
        fit_s: seconds that its fit took when it was done; None where that is not known.
        stored_bytes: bytes of its files; None where they are not there any more.
    """

    label: str
    fit_s: float | None
    stored_bytes: int | None

    @property
    def seconds(self) -> Timing | None:
        """The fit's seconds as shown."""
        return None if self.fit_s is None else Timing(text=words.seconds(self.fit_s))

    @property
    def stored(self) -> Quote | None:
        """The stored bytes as shown."""
        if self.stored_bytes is None:
            return None
        value = float(self.stored_bytes)
        return Quote(text=words.size(value), value=value, place="artifact", key=self.label, column="stored_bytes")


def costs(report: Report) -> list[Cost]:
    """One entry a fitted intervention, of several fits the first, in the manifest's order."""
    artifacts = report.manifest["facts"]["artifacts"]
    return [_cost(report.folder, key, Path(kept)) for key, kept in artifacts.items() if "@" not in key]


def _cost(run: Path, label: str, kept: Path) -> Cost:
    """The artifact beside the runs comes first: the manifest's path is relative to wherever the run was started."""
    beside = run.resolve().parent.parent / "artifacts" / kept.name
    folder = next((path for path in (beside, kept) if path.is_dir()), None)
    if folder is None:
        return Cost(label=label, fit_s=None, stored_bytes=None)
    stored = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return Cost(label=label, fit_s=_seconds(folder.with_suffix(".timing.json")), stored_bytes=stored)


def _seconds(timing: Path) -> float | None:
    try:
        found = read_json(timing)["fit_s"]
    except (UserError, KeyError, TypeError):
        return None
    return float(found) if isinstance(found, int | float) else None
