"""The fits of one run: every intervention on the same training pairs, or its artifact where one is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from caa_bench.behaviors.behavior import Pairs
from caa_bench.callbacks import Callbacks
from caa_bench.errors import UserError
from caa_bench.interventions import Intervention
from caa_bench.models.model import ChatModel
from caa_bench.runs.artifacts import Artifact, ArtifactStore, Watch
from caa_bench.runs.signals import Stop

logger = logging.getLogger(__name__)


class Fits:
    """What is fitted, and what could not be.

    Args:
        store: where artifacts are kept.
        callbacks: told of every fit and of its steps.
        loaded: gives the model; called only where there is something to fit.

    Attributes:
        artifacts: key -> what is kept of each fit that is done.
        unfit: key -> why, for each that failed.
    """

    def __init__(self, store: ArtifactStore, *, callbacks: Callbacks, loaded: Callable[[], ChatModel]) -> None:
        self.store = store
        self.callbacks = callbacks
        self.loaded = loaded
        self.artifacts: dict[str, Artifact] = {}
        self.unfit: dict[str, str] = {}

    @property
    def learned(self) -> dict[str, str]:
        """Key -> checksum of each artifact."""
        return {key: artifact.checksum for key, artifact in self.artifacts.items()}

    def possible(self, interventions: Sequence[Intervention]) -> list[Intervention]:
        """Those that need nothing that could not be fitted."""
        return [item for item in interventions if not self.unfit.keys() & set(item.key.split("+"))]

    def fit(
        self, interventions: Sequence[Intervention], pairs: Pairs, *, model_key: Mapping[str, Any], stop: Stop
    ) -> None:
        """Fit what is not fitted yet. One that fails is logged with its traceback and does not stop the others.

        Raises:
            UserError: an artifact is damaged, the model cannot be loaded, memory ran out.
            SystemExit: a stop was asked for.
        """
        self.unfit = {}
        for intervention in interventions:
            if intervention.trains and intervention.key not in self.artifacts:
                self._fit(intervention, pairs, model_key=model_key, stop=stop)
                stop.leave_if_asked()

    def _fit(self, intervention: Intervention, pairs: Pairs, *, model_key: Mapping[str, Any], stop: Stop) -> None:
        self.callbacks.tell("on_fit_begin", intervention=intervention, pairs=len(pairs))
        watch = Watch(tell=self._step, stop=stop)
        try:
            artifact = self.store.fitted(
                intervention, pairs=pairs, model_key=model_key, loaded=self.loaded, watch=watch
            )
        except Exception as error:
            self.callbacks.tell("on_fit_error", intervention=intervention, error=error)
            if isinstance(error, UserError):
                raise
            logger.exception("%s cannot be fitted; everything that does not need it goes on", intervention.key)
            self.unfit[intervention.key] = f"{type(error).__name__}: {error}"
        else:
            self.artifacts[intervention.key] = artifact
            self.callbacks.tell("on_fit_end", intervention=intervention, artifact=artifact)
        finally:
            stop.fit = None

    def _step(self, intervention: Intervention, done: int, total: int, note: str) -> None:
        self.callbacks.tell("on_fit_step", intervention=intervention, done=done, total=total, note=note)
