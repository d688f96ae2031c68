"""Fitted interventions on disk, by content: the same fit is never done twice, in whichever run it is needed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from caa_bench.behaviors.behavior import Pairs
from caa_bench.errors import UserError
from caa_bench.interventions import Intervention
from caa_bench.interventions.card import Origin, fitted_origin, write_card
from caa_bench.models.memory import out_of_memory
from caa_bench.models.model import ChatModel
from caa_bench.runs.plan import SCHEMA
from caa_bench.storage.atomic import unwritable
from caa_bench.storage.files import content_key, read_json, safe_name, sha256_file, write_json


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A fitted intervention.

    Args:
        folder: where it is kept.
        checksum: of its manifest, which holds the checksums of its files.
        fit_s: seconds that fitting it and what it is made from took when it was done; None where that is not known.
        reused: whether it was there already.
    """

    folder: Path
    checksum: str
    fit_s: float | None
    reused: bool


class ArtifactStore:
    """A folder of artifacts named `<label>-<content key>`, each with `<name>.timing.json` beside it.

    Args:
        folder: made on first use.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._others: dict[str, ChatModel] = {}

    def fitted(
        self,
        intervention: Intervention,
        *,
        pairs: Pairs,
        model_key: Mapping[str, Any],
        loaded: Callable[[], ChatModel],
    ) -> Artifact:
        """Load the intervention's artifact, or fit and keep it, and before it whatever it is made from.

        Args:
            model_key: what identifies the model (`ChatModel.fingerprint`).
            loaded: gives the model; called only where there is something to fit.

        Raises:
            UserError: the kept artifact is damaged, the disk is full, or the model does not fit into memory.
        """
        from filelock import FileLock

        key = self._key(intervention, pairs=pairs, model_key=model_key)
        folder = self.folder / safe_name(f"{intervention.label}-{key}")
        timing = folder.with_suffix(".timing.json")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.folder, error) from error
        # Two runs that need the same fit: the second one waits for it and takes it over.
        with FileLock(self.folder / f".{folder.name}.lock"):
            shutil.rmtree(self._scratch(folder), ignore_errors=True)  # what a killed fit left
            reused = folder.is_dir()
            if not reused:
                parts_s = self._fit_ingredients(intervention, pairs=pairs, model_key=model_key, loaded=loaded)
                origin = fitted_origin(pairs, model_key=model_key)
                self._fit(intervention, loaded(), pairs=pairs, folder=folder, parts_s=parts_s, origin=origin)
            intervention.load(folder)
        return Artifact(
            folder=folder,
            checksum=sha256_file(folder / "artifact.json"),
            fit_s=read_json(timing)["fit_s"] if timing.is_file() else None,
            reused=reused,
        )

    def _key(self, intervention: Intervention, *, pairs: Pairs, model_key: Mapping[str, Any]) -> str:
        """Content key of everything that decides what the fit gives."""
        made_of = [
            self._key(part.intervention, pairs=part.pairs, model_key=self._key_of(part.model, model_key))
            for part in intervention.ingredients(pairs)
        ]
        learned_from = intervention.learned_from(pairs)
        return content_key([SCHEMA, intervention.settings(), model_key, learned_from, *made_of])[:12]

    def _fit_ingredients(
        self,
        intervention: Intervention,
        *,
        pairs: Pairs,
        model_key: Mapping[str, Any],
        loaded: Callable[[], ChatModel],
    ) -> float:
        """Fit or load what it is made from; another model is loaded to fit alone and freed. Returns the seconds."""
        seconds = 0.0
        try:
            for part in intervention.ingredients(pairs):
                made = self.fitted(
                    part.intervention,
                    pairs=part.pairs,
                    model_key=self._key_of(part.model, model_key),
                    loaded=partial(self._other, part.model, model_key) if part.model else loaded,
                )
                seconds += made.fit_s or 0.0
        finally:
            for other in self._others.values():
                other.free()
        return seconds

    def _key_of(self, model: str, model_key: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._other(model, model_key).fingerprint() if model else model_key

    def _other(self, model: str, model_key: Mapping[str, Any]) -> ChatModel:
        """Another model by name, in the dtype and on the devices of the measured one."""
        if model not in self._others:
            alike = {key: model_key[key] for key in ("dtype", "quantization", "device_map") if key in model_key}
            self._others[model] = ChatModel.find(model, changes=alike)
        return self._others[model]

    @staticmethod
    def _scratch(folder: Path) -> Path:
        """Where an artifact is made before it takes its place."""
        return folder.parent / f".{folder.name}.unfinished"

    def _fit(
        self,
        intervention: Intervention,
        chat: ChatModel,
        *,
        pairs: Pairs,
        folder: Path,
        parts_s: float,
        origin: Origin,
    ) -> None:
        """Fit and keep; a kill at any moment leaves nothing that the next use of the same does not clear away."""
        scratch, timing = self._scratch(folder), folder.with_suffix(".timing.json")
        started = time.monotonic()
        try:
            intervention.fit(chat.model, chat.tokenizer, pairs)
        except Exception as error:
            if out_of_memory(error):
                raise UserError(
                    f"{intervention.label}: out of memory while fitting; lower {intervention.name}.batch_size where "
                    "there is one, or choose loading.dtype=bfloat16, loading.quantization=4bit or a smaller model"
                ) from error
            raise
        intervention.save_pretrained(scratch / folder.name)
        write_card(scratch / folder.name, intervention, origin)
        # Beside the folder, not in it: seconds differ between runs, the artifact's bytes must not.
        write_json(scratch / timing.name, {"fit_s": round(time.monotonic() - started + parts_s, 3)})
        (scratch / timing.name).replace(timing)
        (scratch / folder.name).rename(folder)
        scratch.rmdir()


def kept_at(run: Path, recorded: str) -> Path:
    """Where an artifact is that a run's manifest names: beside the runs, wherever these were moved, or as recorded.

    Raises:
        UserError: it is at neither place.
    """
    folder = Path(recorded)
    beside = run.resolve().parent.parent / "artifacts" / folder.name
    found = next((path for path in (beside, folder) if path.is_dir()), None)
    if found is None:
        raise UserError(f"{recorded}: this artifact of {run} is gone; run the comparison again to fit it")
    return found
