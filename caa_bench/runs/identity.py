"""What a kept artifact was fitted for, inside its checksummed part, so that one under another's name is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caa_bench.behaviors.behavior import Pairs
from caa_bench.errors import UserError
from caa_bench.interventions import Intervention
from caa_bench.storage.artifact_folder import read_meta
from caa_bench.storage.files import content_key, terminal_safe, to_json

FITTED_FOR = "fitted_for"
_SAID = {
    "class": "another intervention",
    "settings": "other settings",
    "behavior": "another behavior",
    "data": "other training data",
    "model": "another model",
    "key": "another fit, or other ingredients",
}


def fitted_for(intervention: Intervention, *, pairs: Pairs, model_key: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Everything that a fit is bound to, as JSON reads it back.

    Args:
        model_key: what identifies the model (`ChatModel.fingerprint`).
        key: the content key of all of it and of what it is made from.
    """
    bound = {
        "class": type(intervention).__name__,
        "settings": intervention.settings(),
        "behavior": pairs.behavior,
        "data": intervention.learned_from(pairs),
        "model": content_key(model_key),
        "key": key,
    }
    return dict(json.loads(to_json(bound)))


def refuse_stranger(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Refuse an artifact that was fitted for something else than what is asked.

    Args:
        folder: the kept artifact.
        wanted: from `fitted_for`.

    Raises:
        UserError: its manifest is damaged, or names another class, other settings, data, model or behavior.
    """
    shown = terminal_safe(str(folder / "artifact.json"))
    there = read_meta(folder).get(FITTED_FOR)
    if not isinstance(there, dict):
        raise UserError(f"{shown}: does not say what it was fitted for; delete the folder {folder} and fit again")
    others = [part for part in _SAID if there.get(part) != wanted[part]]
    if others:
        part = others[0]
        raise UserError(
            f"{shown}: was fitted for {_SAID[part]} ({_difference(there.get(part), wanted[part])}); "
            f"delete the folder {terminal_safe(str(folder))} and fit again"
        )


def _difference(there: Any, wanted: Any) -> str:
    """Both values, of the first differing key where they have keys."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        key = next(key for key in {**there, **wanted} if there.get(key, ...) != wanted.get(key, ...))
        return f"{key} is {_short_value(there.get(key))} there and {_short_value(wanted.get(key))} here"
    return f"{_short_value(there)} there and {_short_value(wanted)} here"


def _short_value(value: Any) -> str:
    text = terminal_safe(repr(value))
    return text if len(text) <= 40 else f"{text[:36]}..."
