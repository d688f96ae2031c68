"""One fit through the store, for a process of its own: a line a step, its state kept at every chance."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any


def fit_one(model: str, behavior: str, folder: str, name: str, wait: int) -> None:
    """Fit an intervention of this name, and wait a minute once so many pairs are done (-1: never)."""
    from caa_bench.behaviors.behavior import load_behavior
    from caa_bench.interventions import fitting, registry
    from caa_bench.models.model import ChatModel
    from caa_bench.runs.artifacts import ArtifactStore, Watch
    from caa_bench.runs.signals import finish_what_runs

    fitting.KEEP_EVERY_S = fitting.KEEPING_SHARE = 0.0
    chat, cls = ChatModel.find(model), registry()[name]
    settings: dict[str, Any] = {} if name == "caa" else {"epochs": 2, "batch_size": 3, "learning_rate": 0.01}
    config = cls.Config(**settings, **({"dropout": 0.1} if name == "lora_sft" else {}))
    waited = []

    def tell(_intervention: Any, done: int, total: int, note: str) -> None:
        print(done, total, note, flush=True)
        if 0 <= wait <= done and not waited:
            waited.append(done)
            time.sleep(60)

    with finish_what_runs() as stop:
        ArtifactStore(Path(folder)).fitted(
            cls(config, variant="positive") if cls.variants else cls(config),
            pairs=load_behavior(behavior).pairs(),
            model_key=chat.fingerprint(),
            loaded=lambda: chat,
            watch=Watch(tell=tell, stop=stop),
        )
