"""Labels of a recipe -> interventions: which class a label is of, and each built once, originals before placebos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.interventions import Intervention, registry
from caa_bench.interventions.placebos import placebo_label

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior

PAPER_BEHAVIORS = (
    "coordinate-other-ais",
    "corrigible-neutral-HHH",
    "hallucination",
    "myopic-reward",
    "survival-instinct",
    "sycophancy",
    "refusal",
)
"""The seven over which the paper normalizes each layer's norm; `protocol: caa` does so too."""


@dataclass(frozen=True, kw_only=True)
class Builder:
    """What interventions are built from.

    Args:
        behavior: what they are for.
        sections: one config an intervention, by its name.
        protocol: `default` or `caa`.
        vectors: the names that go on top of every base.
        given: interventions that are there already, by label; they are taken as they are.
        located: puts the place of the key that a mistake begins with in front.
    """

    behavior: Behavior
    sections: Mapping[str, Any]
    protocol: str
    vectors: Sequence[str]
    given: Mapping[str, Intervention]
    located: Callable[[str], str]

    def build(self, labels: Sequence[tuple[str, str]]) -> list[Intervention]:
        """One a label, placebos last.

        Args:
            labels: the recipe's key (`bases`, `vectors`) and a label that stands there.

        Raises:
            UserError: a name that no intervention has; one line each.
        """
        built: dict[str, Intervention] = {}
        plain = [(key, label) for key, label in labels if not is_placebo(label)]
        mistakes = self._add(plain, built)
        mistakes += self._add(self._placebos(labels, built), built)
        if mistakes:
            raise UserError(*mistakes)
        return list(built.values())

    def _add(self, labels: Sequence[tuple[str, str]], built: dict[str, Intervention]) -> list[str]:
        mistakes: list[str] = []
        for key, label in labels:
            try:
                built[label] = self.given.get(label) or self._made(label, key=key, built=built)
            except UserError as error:
                mistakes += map(self.located, error.lines)
        return mistakes

    def _made(self, label: str, *, key: str, built: Mapping[str, Intervention]) -> Intervention:
        cls = intervention_class(label)
        if cls is None:
            known = ", ".join(registry())
            raise UserError(f"{key}: {label!r} is no intervention; names begin with one of {known}")
        variant = label.removeprefix(cls.name).removeprefix("_")
        made = cls.build(self.sections[cls.name], variant=variant, behavior=self.behavior, built=built)
        return under_protocol(made, self.protocol)

    def _placebos(self, labels: Sequence[tuple[str, str]], built: Mapping[str, Intervention]) -> list[tuple[str, str]]:
        """A placebo's name stands for one beside every vector of the run, or beside those that its section names."""
        vectors = [one.label for one in on_top(list(built.values()), self.vectors) if one.role == "vector"]
        found: list[tuple[str, str]] = []
        for key, label in labels:
            cls = intervention_class(label)
            if cls is None or not cls.is_placebo:
                continue
            beside = (self.sections[cls.name].placebo_of or vectors) if label == cls.name else ()
            found += [(key, placebo_label(cls.name, original)) for original in beside] or [(key, label)]
        return list(dict.fromkeys(found))


def on_top(interventions: Sequence[Intervention], named: Sequence[str]) -> list[Intervention]:
    """Those that `vectors` names, a placebo by its class too."""
    return [one for one in interventions if one.label in named or (one.is_placebo and one.name in named)]


def under_protocol(intervention: Intervention, protocol: str) -> Intervention:
    """The intervention itself, or under the paper's protocol one that normalizes as the paper does.

    Any vector whose section has the key `normalize` and leaves it empty.
    """
    config = intervention.config
    if protocol != "caa" or getattr(config, "normalize", None) != ():
        return intervention
    again = copy(intervention)
    again.config = replace(config, normalize=PAPER_BEHAVIORS)
    return again


def is_placebo(label: str) -> bool:
    """Whether the label is of a placebo."""
    cls = intervention_class(label)
    return cls is not None and cls.is_placebo


def intervention_class(label: str) -> type[Intervention] | None:
    """The intervention that a label belongs to: the longest registered name that it is or begins with."""
    known = registry()
    names = [name for name in known if label == name or label.startswith(f"{name}_")]
    return known[max(names, key=len)] if names else None
