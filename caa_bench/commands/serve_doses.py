"""Which doses a server has: names that a client may ask for as a model (`tiny@caa+1.5`), and the request's `caa_bench`.

Everything that can be asked for was made ready before the first request: a request fits nothing and names no file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.commands.session import Session

KEY = "caa_bench"
"""The key of a request that says how the answer is steered."""
_ON_TOP = re.compile(r"(?P<vector>\w[\w.-]*?)(?P<multiplier>[+-]\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?::(?P<layer>\d+))?")


@dataclass(frozen=True, kw_only=True)
class Dose:
    """One vector of a request.

    Args:
        vector: its label.
        multiplier: the dose.
        layer: the 0-based decoder block; None for a vector without layers.
    """

    vector: str
    multiplier: float
    layer: int | None


@dataclass(frozen=True, kw_only=True)
class SteeredBy:
    """What a request is answered under.

    Args:
        base: what stands below, by label.
        doses: what goes on top; empty for the base alone.
    """

    base: str = "none"
    doses: tuple[Dose, ...] = ()


class Offer:
    """Bases, vectors and layers of a session, under the names that clients use.

    Args:
        session: what is ready, each vector with the layer where a request names none.
    """

    def __init__(self, session: Session) -> None:
        self.name = Path(session.chat.name).name  # a folder's own name: no path of this machine is told
        self.bases = list(session.bases)
        self.default = session.base.label
        self.layers = {label: session.layer_of(one) for label, one in session.vectors.items()}
        self.count = session.chat.loaded_layers().count
        self._multipliers = {
            label: [
                dose.multiplier
                for dose in one.conditions(session.chat.loaded_layers())
                if dose.multiplier and dose.layer == session.layer_of(one)
            ]
            for label, one in session.vectors.items()
        }

    def names(self) -> list[str]:
        """Model names for clients that can say nothing else: every base, alone and under the recipe's own doses."""
        below = ["", *(f"@{base}" for base in self.bases if base != self.default)]
        on_top = ["", *(f"@{vector}{dose:+g}" for vector, doses in self._multipliers.items() for dose in doses)]
        return [f"{self.name}{base}{dose}" for base in below for dose in on_top]

    def text(self) -> str:
        """What can be asked for, for whoever starts the server."""
        vectors = [label if layer is None else f"{label} (layer {layer})" for label, layer in self.layers.items()]
        return f"bases {', '.join(self.bases)}; vectors {', '.join(vectors)}; as a model {', '.join(self.names()[:3])}"

    def of_model(self, name: str) -> SteeredBy:
        """What a model's name asks for.

        Raises:
            UserError: no such model, base, vector or layer.
        """
        parts = name.removeprefix(self.name).removeprefix("@").split("@") if name != self.name else []
        dose = _ON_TOP.fullmatch(parts[-1]) if parts else None
        below = parts[:-1] if dose else parts
        if (name != self.name and not name.startswith(f"{self.name}@")) or len(below) > 1:
            raise UserError(
                f"model: there is no {_quoted(name)}; /v1/models lists what there is, as {self.name}@BASE@VECTOR+1.5"
            )
        base = below[0] if below else self.default
        try:
            said = {} if dose is None else {**dose.groupdict(), "multiplier": float(dose["multiplier"])}
            return SteeredBy(base=self._base(base), doses=(self._dose(said),) if said else ())
        except UserError as error:
            raise UserError(f"model: {error.lines[0].partition(': ')[2]}") from None

    def of_request(self, value: Any) -> SteeredBy:
        """What the request's `caa_bench` asks for: base, and a vector with layer and multiplier, or several.

        Raises:
            UserError: an unknown key or name, or a value of the wrong kind.
        """
        said = _object(value, KEY, {"base", "vector", "layer", "multiplier", "vectors"})
        several, one = said.pop("vectors", None), {key: said[key] for key in said if key != "base"}
        if several is not None and (one or not isinstance(several, list)):
            raise UserError(f"{KEY}.vectors: expected a list, and vector, layer and multiplier inside of it alone")
        wanted = several if several is not None else [one] if one else []
        doses = [self._dose(_object(dose, f"{KEY}.vectors", {"vector", "layer", "multiplier"})) for dose in wanted]
        return SteeredBy(base=self._base(said.get("base", self.default)), doses=tuple(doses))

    def _base(self, name: Any) -> str:
        if name not in self.bases:
            raise UserError(f"{KEY}.base: {_unknown(name, self.bases)}")
        return str(name)

    def _dose(self, said: Mapping[str, Any]) -> Dose:
        vector = said.get("vector", next(iter(self.layers)))
        if not isinstance(vector, str) or vector not in self.layers:
            raise UserError(f"{KEY}.vector: {_unknown(vector, list(self.layers))}")
        if (multiplier := finite(said.get("multiplier", 1.0))) is None:
            raise UserError(f"{KEY}.multiplier: expected a finite number; write for example 1.5")
        return Dose(vector=vector, multiplier=multiplier, layer=self._layer(vector, said.get("layer")))

    def _layer(self, vector: str, given: Any) -> int | None:
        if given is None:
            return self.layers[vector]
        text = str(given)
        if isinstance(given, bool) or not text.isdecimal() or int(text) >= self.count:
            raise UserError(f"{KEY}.layer: {_quoted(given)} does not exist; the model has layers 0 to {self.count - 1}")
        if self.layers[vector] is None:
            raise UserError(f"{KEY}.layer: {vector} acts in no one layer; leave it out")
        return int(text)


def finite(value: Any) -> float | None:
    """A number of JSON's as one that can be computed with; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _object(value: Any, place: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{place}: expected an object with {', '.join(sorted(known))}")
    if unknown := [key for key in value if key not in known]:
        raise UserError(f"{place}.{_plain(unknown[0])}: unknown key; use {', '.join(sorted(known))}")
    return {key: item for key, item in value.items() if item is not None}


def _unknown(name: Any, known: list[str]) -> str:
    near = get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"this server has {', '.join(known)}"
    return f"there is no {_quoted(name)} here; {hint}"


def _quoted(value: Any) -> str:
    return repr(_plain(value))


def _plain(value: Any) -> str:
    return terminal_safe(str(value)[:80])
