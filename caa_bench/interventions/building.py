"""Labels of a recipe -> interventions: which class a label is of, and each built once, originals before placebos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.interventions import Intervention, registry
from caa_bench.interventions.arms import Arm, arm_of, in_arm
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
        arms: the recipe's named arms, by name.
        given: interventions that are there already, by label; they are taken as they are.
        located: puts the place of the key that a mistake begins with in front.
    """

    behavior: Behavior
    sections: Mapping[str, Any]
    protocol: str
    vectors: Sequence[str]
    given: Mapping[str, Intervention]
    located: Callable[[str], str]
    arms: Mapping[str, Arm] = field(default_factory=dict)

    def build(self, labels: Sequence[tuple[str, str]]) -> list[Intervention]:
        """One a label, placebos last.

        Args:
            labels: the recipe's key (`bases`, `vectors`) and a label that stands there.

        Raises:
            UserError: a name that no intervention has; one line each.
        """
        built: dict[str, Intervention] = {}
        plain = [(key, label) for key, label in labels if not self._is_placebo(label)]
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
        arm = arm_of(label, self.arms, registry())
        if arm is None:
            known = ", ".join([*self.arms, *registry()])
            raise UserError(f"{key}: {label!r} is no intervention; names begin with one of {known}")
        variant = label.removeprefix(arm.name).removeprefix("_")
        if arm.config is None:
            made = arm.uses.build(self.sections[arm.name], variant=variant, behavior=self.behavior, built=built)
            return under_protocol(made, self.protocol)
        try:
            made = arm.uses.build(arm.config, variant=variant, behavior=self.behavior, built=built)
        except UserError as error:
            raise UserError(*(in_arm(line, arm.name, arm.uses.name) for line in error.lines)) from None
        return under_protocol(made.named(arm.name), self.protocol)

    def _is_placebo(self, label: str) -> bool:
        arm = arm_of(label, self.arms, registry())
        return arm is not None and arm.uses.is_placebo

    def _placebos(self, labels: Sequence[tuple[str, str]], built: Mapping[str, Intervention]) -> list[tuple[str, str]]:
        """A placebo's name stands for one beside every vector of the run, or beside those that its section names."""
        vectors = [one.label for one in on_top(list(built.values()), self.vectors) if one.role == "vector"]
        found: list[tuple[str, str]] = []
        for key, label in labels:
            arm = arm_of(label, self.arms, registry())
            if arm is None or not arm.uses.is_placebo:
                continue
            config = self.sections[arm.name] if arm.config is None else arm.config
            beside = (config.placebo_of or vectors) if label == arm.name else ()
            found += [(key, placebo_label(arm.name, original)) for original in beside] or [(key, label)]
        return list(dict.fromkeys(found))


def on_top(interventions: Sequence[Intervention], named: Sequence[str]) -> list[Intervention]:
    """Those that `vectors` names, a placebo by its class too."""
    return [one for one in interventions if one.label in named or (one.is_placebo and (one.arm or one.name) in named)]


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


def intervention_class(label: str, arms: Mapping[str, Arm] = MappingProxyType({})) -> type[Intervention] | None:
    """The class that a label belongs to: by the longest name, of an arm or a class, that it is or begins with."""
    arm = arm_of(label, arms, registry())
    return None if arm is None else arm.uses
