"""What an edit does to the hidden state at one position: one small class a kind. Knows nothing of layers or positions.

Every kind is a function of ONE position's state, so it can run on a shared prefix; several compose in order. Directions
need not be unit vectors: they are normalized here. Shapes: D width of the state, `...` any number of positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


class Change:
    """A position-wise function of the hidden state. A new kind is one subclass with `__call__`."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """The changed state, in the dtype and on the device of the old one. [..., D] -> [..., D]"""
        raise NotImplementedError

    @property
    def is_identity(self) -> bool:
        """True where it changes no state at all, so that it need not run."""
        return False

    @cached_property
    def _moved(self) -> dict[tuple[str, torch.device, torch.dtype], Tensor]:
        return {}

    def _like(self, name: str, hidden: Tensor, dtype: torch.dtype | None = None, *, unit: bool = False) -> Tensor:
        """The tensor of this name where the state is, copied there once; `unit`: divided by its norm. [D]"""
        key = (name, hidden.device, dtype or hidden.dtype)
        if key not in self._moved:
            own = getattr(self, name)
            own = own.float() / own.float().norm() if unit else own
            self._moved[key] = own.to(hidden.device, key[2])
        return self._moved[key]


@dataclass(frozen=True, eq=False)
class Add(Change):
    """h + delta (CAA, Rimsky et al. 2024, section 3).

    Args:
        delta: what is added, already multiplied by the dose. [D]
    """

    delta: Tensor

    def __call__(self, hidden: Tensor) -> Tensor:
        """[..., D]"""
        return hidden + self._like("delta", hidden)

    @cached_property
    def is_identity(self) -> bool:
        """Whether the delta is all zeros."""
        return not bool(self.delta.any())


class _Along(Change):
    """A change of nothing but the component along one unit direction u."""

    direction: Tensor

    def __post_init__(self) -> None:
        if not bool(self.direction.any()):
            raise ValueError(f"{type(self).__name__}: the direction is zero everywhere; give one that points somewhere")

    def __call__(self, hidden: Tensor) -> Tensor:
        """[..., D]; computed in fp32."""
        unit = self._like("direction", hidden, torch.float32, unit=True)
        state = hidden.float()
        along = state @ unit
        return (state + (self.component(along) - along)[..., None] * unit).to(hidden.dtype)

    def component(self, along: Tensor) -> Tensor:
        """The new component along u from the old one. [...] -> [...]"""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Project(_Along):
    """h - (1 - keep) (u . h) u: directional ablation at keep = 0 (Arditi et al. 2024, equation 4).

    Args:
        direction: u times any positive number. [D]
        keep: share of the component that stays; 1 changes nothing, -1 reflects, above 1 amplifies.

    Raises:
        ValueError: the direction is zero everywhere.
    """

    direction: Tensor
    keep: float = 0.0

    def component(self, along: Tensor) -> Tensor:
        """The component, multiplied by `keep`. [...]"""
        return self.keep * along

    @property
    def is_identity(self) -> bool:
        """Whether the whole component stays."""
        return self.keep == 1.0


@dataclass(frozen=True, eq=False)
class Clamp(_Along):
    """h + (min(max(u . h, low), high) - u . h) u: the component along u is held between two bounds.

    Args:
        direction: u times any positive number. [D]
        low / high: bounds of u . h, in units of the hidden state.

    Raises:
        ValueError: the direction is zero everywhere, or low is above high.
    """

    direction: Tensor
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low <= self.high:
            raise ValueError(f"Clamp: low ({self.low:g}) must not be above high ({self.high:g})")

    def component(self, along: Tensor) -> Tensor:
        """The component, cut at the bounds. [...]"""
        return along.clamp(self.low, self.high)

    @property
    def is_identity(self) -> bool:
        """Whether neither side is bounded."""
        return self.low == -math.inf and self.high == math.inf


@dataclass(frozen=True, eq=False)
class Rotate(Change):
    """|h| (cos(phi - angle) u + sin(phi - angle) r): turns h toward u in the plane that both span; the norm stays.

    phi is the angle between h and u, r the unit vector of h - (u . h) u. A turn ends at u, or at -u where the angle is
    negative: phi - angle is held between 0 and pi. A state along u, with no r, stays as it is. Angular
    Steering (Vu & Nguyen 2025) turns within one plane that is the same for every token; here each state has its own.

    Args:
        direction: u times any positive number. [D]
        angle: in radians; negative turns away from u.

    Raises:
        ValueError: the direction is zero everywhere.
    """

    direction: Tensor
    angle: float

    def __post_init__(self) -> None:
        if not bool(self.direction.any()):
            raise ValueError("Rotate: the direction is zero everywhere; give one that points somewhere")

    def __call__(self, hidden: Tensor) -> Tensor:
        """[..., D]; computed in fp32."""
        unit = self._like("direction", hidden, torch.float32, unit=True)
        state = hidden.float()
        norm = state.norm(dim=-1, keepdim=True)
        along = (state @ unit)[..., None]
        rest = state - along * unit
        across = rest.norm(dim=-1, keepdim=True)
        phi = (torch.atan2(across, along) - self.angle).clamp(0.0, math.pi)
        flat = across <= 1e-6 * norm
        turned = norm * (phi.cos() * unit + phi.sin() * rest / across.masked_fill(flat, 1.0))
        return torch.where(flat, state, turned).to(hidden.dtype)

    @property
    def is_identity(self) -> bool:
        """Whether the angle is 0."""
        return self.angle == 0.0


@dataclass(frozen=True, eq=False)
class Gate(Change):
    """change(h) where probe . h + bias > 0, else h: conditional steering, decided anew at every position.

    Args:
        probe: weights of a linear probe. [D]
        change: what happens where the probe fires.
        bias: of the probe.
    """

    probe: Tensor
    change: Change
    bias: float = 0.0

    def __call__(self, hidden: Tensor) -> Tensor:
        """[..., D]; the probe is read in fp32."""
        fires = hidden.float() @ self._like("probe", hidden, torch.float32) + self.bias > 0
        return torch.where(fires[..., None], self.change(hidden), hidden)

    @property
    def is_identity(self) -> bool:
        """Nothing happens where it fires."""
        return self.change.is_identity


@dataclass(frozen=True, eq=False)
class AddKeepingNorm(Change):
    """|h| (h + delta) / |h + delta|: an addition that leaves the norm (in-context vectors, Liu et al. 2023, eq. 4).

    Args:
        delta: what is added, already multiplied by the dose. [D]
    """

    delta: Tensor

    def __call__(self, hidden: Tensor) -> Tensor:
        """[..., D]; computed in fp32. A state that the addition takes to zero stays as it is."""
        state = hidden.float()
        moved = state + self._like("delta", hidden, torch.float32)
        length = moved.norm(dim=-1, keepdim=True)
        kept = moved * (state.norm(dim=-1, keepdim=True) / length.masked_fill(length == 0, 1.0))
        return torch.where(length == 0, state, kept).to(hidden.dtype)

    @cached_property
    def is_identity(self) -> bool:
        """A delta of zeros."""
        return not bool(self.delta.any())
