"""Fitted interventions on disk, by content: the same fit is never done twice, in whichever run it is needed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from caa_bench.behaviors.behavior import Pairs
from caa_bench.errors import UserError
from caa_bench.interventions import Intervention
from caa_bench.interventions.card import Origin, fitted_origin, write_card
from caa_bench.interventions.fitting import Fitting, current, during
from caa_bench.models.memory import out_of_memory
from caa_bench.models.model import ChatModel
from caa_bench.runs.identity import FITTED_FOR, fitted_for, refuse_stranger
from caa_bench.runs.plan import SCHEMA
from caa_bench.runs.signals import Stop
from caa_bench.storage.artifact_folder import add_meta
from caa_bench.storage.atomic import unwritable
from caa_bench.storage.files import content_key, read_json, safe_name, sha256_file, write_json
from caa_bench.storage.locks import place_of_process

STATE = "state"
"""Where an unfinished fit keeps what it has done."""


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


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Who hears of the steps of a fit, and may stop it.

    Args:
        tell: called at each step with the intervention, the pairs done, all pairs, and a note.
        stop: what a signal is remembered in.
    """

    tell: Callable[[Intervention, int, int, str], None] | None = None
    stop: Stop | None = None

    def over(self, intervention: Intervention, *, folder: Path) -> Fitting:
        """The surroundings of one intervention's fit, which keeps its state in `folder`."""
        fitting = Fitting(
            folder=folder, tell=None if self.tell is None else partial(self.tell, intervention), stop=self.stop
        )
        if self.stop is not None:
            self.stop.fit = (intervention.key, fitting)
        return fitting


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
        watch: Watch | None = None,
    ) -> Artifact:
        """Load the intervention's artifact, or fit and keep it, and before it whatever it is made from.

        A fit that was stopped or killed goes on from the state that it left in `.<artifact>.unfinished`.

        Args:
            model_key: what identifies the model (`ChatModel.fingerprint`).
            loaded: gives the model; called only where there is something to fit.
            watch: who hears of the steps of the fits, and may stop them.

        Raises:
            UserError: the kept artifact is damaged, the disk is full, or the model does not fit into memory.
            SystemExit: stopped by the user.
        """
        key = self._key(intervention, pairs=pairs, model_key=model_key)
        folder = self.folder / safe_name(f"{intervention.label}-{key}")
        bound = fitted_for(intervention, pairs=pairs, model_key=model_key, key=key)
        timing = folder.with_suffix(".timing.json")
        with self._held(folder):
            reused = folder.is_dir()
            if not reused:
                parts_s = self._fit_ingredients(
                    intervention, pairs=pairs, model_key=model_key, loaded=loaded, watch=watch
                )
                fitting = (watch or Watch()).over(intervention, folder=self._scratch(folder) / STATE)
                origin = fitted_origin(pairs, model_key=model_key)
                with during(fitting):
                    self._fit(
                        intervention, loaded(), pairs=pairs, folder=folder, parts_s=parts_s, origin=origin, bound=bound
                    )
            for left in (self._scratch(folder), place_of_process(folder)):
                shutil.rmtree(left, ignore_errors=True)
            refuse_stranger(folder, bound)
            intervention.load(folder)
        return Artifact(
            folder=folder,
            checksum=sha256_file(folder / "artifact.json"),
            fit_s=read_json(timing)["fit_s"] if timing.is_file() else None,
            reused=reused,
        )

    def has(self, intervention: Intervention, *, pairs: Pairs, model_key: Mapping[str, Any]) -> bool:
        """Whether a fit is kept."""
        key = self._key(intervention, pairs=pairs, model_key=model_key)
        return (self.folder / safe_name(f"{intervention.label}-{key}")).is_dir()

    @contextmanager
    def _held(self, folder: Path) -> Iterator[None]:
        """Two runs that need the same fit: the second one waits for the first and takes its artifact over."""
        from filelock import FileLock

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.folder, error) from error
        with FileLock(self.folder / f".{folder.name}.lock"):
            yield

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
        watch: Watch | None,
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
                    watch=watch,
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
        """Where an unfinished fit keeps its state."""
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
        bound: Mapping[str, Any],
    ) -> None:
        """Fit and keep. After a kill at any moment the fit goes on from its state, and the rest is cleared away."""
        scratch, timing = place_of_process(folder), folder.with_suffix(".timing.json")
        shutil.rmtree(scratch, ignore_errors=True)
        started = time.monotonic()
        try:
            if chat.loading.parallel == "none":
                intervention.fit(chat.model, chat.tokenizer, pairs)
            else:
                from caa_bench.runs.lockstep import fit_on_all_ranks

                fit_on_all_ranks(intervention, chat, pairs)
        except Exception as error:
            if out_of_memory(error):
                raise UserError(
                    f"{intervention.label}: out of memory while fitting; lower {intervention.name}.batch_size where "
                    "there is one, or choose loading.dtype=bfloat16, loading.quantization=4bit or a smaller model"
                ) from error
            raise
        intervention.save_pretrained(scratch / folder.name)
        write_card(scratch / folder.name, intervention, origin)
        add_meta(scratch / folder.name, {FITTED_FOR: bound})
        seconds = time.monotonic() - started
        # Beside the folder, not in it: seconds differ between runs, the artifact's bytes must not.
        write_json(scratch / timing.name, {"fit_s": round(seconds + parts_s + current().borrowed_s, 3)})
        (scratch / timing.name).replace(timing)
        try:
            (scratch / folder.name).rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first: the same content under the same key
                raise


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
