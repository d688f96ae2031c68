"""The one contract: what every way of moving a model's behavior can do. READ SECOND, after benchmark.py.

A new intervention is one new file in this folder with one subclass of `Intervention`; its `name` becomes a recipe
section, a base (`<name>_<variant>`) and, where it has edits, something that can be put on top of every other base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from caa_bench.config.values import configured
from caa_bench.errors import UserError
from caa_bench.interventions.arms import name_problem
from caa_bench.interventions.parts import Ingredient, OnCard, Source
from caa_bench.interventions.saving import Saved
from caa_bench.models.layers import Layers
from caa_bench.storage.registry import Registry, code_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Behavior, Pairs
    from caa_bench.engine.edit import Edit
    from caa_bench.models.model import ChatModel
    from caa_bench.models.prompts import Message


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One dose of an intervention.

    Args:
        multiplier: the dose; negative pushes away from the behavior, 0 is nothing, 1 is as fitted.
        layer: the 0-based decoder block, where the intervention has one; else None.

    Example:
        >>> from caa_bench import Condition
        >>> Condition(layer=13, multiplier=-1.5)
        Condition(multiplier=-1.5, layer=13)
    """

    multiplier: float = 1.0
    layer: int | None = None


class Intervention(Saved):
    """A way of moving a model's behavior: `CAA(layers=[3], multipliers=[-1, 1])`.

    Args:
        config: its recipe section; the defaults where neither it nor `settings` are given.
        variant: one of `variants` ("positive"), or "" where there is only one.
        **settings: the keys of the recipe section by name, checked as in a recipe.

    Raises:
        UserError: a key that there is not, or a value of the wrong kind.

    Example:
        from caa_bench import Intervention

        class Polite(Intervention):
            name = "polite"

            def rewrite(self, messages):
                return [{"role": "system", "content": "Say please."}, *messages]
    """

    name: ClassVar[str] = ""
    """The recipe section, and the first part of every label."""
    role: ClassVar[Literal["base", "vector"]] = "base"
    """`vector`: it goes on top of every base, with placebos; `base`: vectors go on top of it."""
    trains: ClassVar[bool] = False
    """Whether `fit` learns anything: only then an artifact is kept and reused."""
    fits_alone: ClassVar[bool] = False
    """Whether `fit` needs the whole model in one process; where it is in slices, what was fitted before is taken."""
    variants: ClassVar[tuple[str, ...]] = ()
    """Names that follow `name` in a base (`lora_sft_positive`); empty where there is only one."""
    grid: ClassVar[tuple[str, ...]] = ()
    """Config keys that only say which doses to measure."""
    is_placebo: ClassVar[bool] = False
    """Whether it should do nothing, so that what it does anyway is the noise floor of the vector it stands beside."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The recipe section's keys: none."""

    arm = ""
    """Its own name in a run, in the place of `name`, where several of one class stand side by side."""
    placebo_of = ""
    """Of a placebo: the label of the vector whose grid and norm it copies."""
    dose_unit = 1.0
    """The multiplier that a recipe's 1 stands for: what tuning chose (`runs.tuning_grid.settled`)."""
    number = ""
    """Which of a run's several fits this is ("1", "2", ...); "" where there is one alone."""

    def __init__(self, config: Any = None, *, variant: str = "", **settings: Any) -> None:
        section = self.name or type(self).__name__
        self.config: Any = configured(self.Config, config, settings, section=section)
        self.variant = variant

    def __repr__(self) -> str:
        """Its class with what differs from the defaults, as it could be written."""
        shown = [f"variant={self.variant!r}"] if self.variant else []
        for key in fields(self.config):
            if (value := getattr(self.config, key.name)) != key.default:
                shown.append(f"{key.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    @classmethod
    def build(cls, config: Any, *, variant: str, behavior: Behavior, built: Mapping[str, Intervention]) -> Intervention:
        """One instance from a recipe section and the variant that a base's name asks for.

        Args:
            built: the interventions made so far, by label; a placebo finds its original here.

        Raises:
            UserError: there is no such variant.
        """
        if variant not in (cls.variants or ("",)):
            names = ", ".join(f"{cls.name}_{name}" for name in cls.variants) or cls.name
            raise UserError(f"bases: {cls.name}_{variant} is unknown; use {names}")
        return cls(config, variant=variant)

    @property
    def label(self) -> str:
        """`<name>_<variant>`, as it stands in YAML, CSV and dashboards; `<arm>_<variant>` where it has such a name."""
        name = self.arm or self.name
        return f"{name}_{self.variant}" if self.variant else name

    def named(self, arm: str) -> Self:
        """Itself, under a name of its own: `LoraSFT(rank=64).named("lora_r64")`, as `arms` in a recipe does it.

        Raises:
            UserError: no such name can stand in a recipe.
        """
        if problem := name_problem(arm, registry()):
            raise UserError(f"arms.{arm}: {problem}")
        self.arm = arm
        return self

    @property
    def key(self) -> str:
        """The label, with the number of the fit behind the first one's."""
        return self.label if self.number in ("", "1") else f"{self.label}@{self.number}"

    def another_fit(self, number: int, *, made: Mapping[str, Intervention]) -> Intervention | None:
        """The same thing to be fitted once more, by another draw of whatever its fit draws.

        Args:
            number: from 1.
            made: the fits of this number made so far, by label; a placebo finds its original here.

        Returns:
            Itself for the first number and None for the others where nothing is drawn.
        """
        if not self.trains or not hasattr(self.config, "seed"):
            return self if number == 1 else None
        again = type(self)(replace(self.config, seed=self.config.seed + number - 1), variant=self.variant)
        again.number, again.arm = str(number), self.arm
        return again

    def scaled(self, multiplier: float) -> float:
        """A recipe's multiplier in units of `dose_unit`, of six digits."""
        return multiplier if self.dose_unit == 1 else float(f"{multiplier * self.dose_unit:.6g}")

    def check(self, layers: Layers) -> list[str]:
        """One line for each setting that cannot work on a model with these layers; run before any weights load."""
        return []

    def check_model(self, chat: ChatModel) -> list[str]:
        """One line for each setting that cannot work on this model, which is not loaded for it."""
        return []

    def check_slices(self) -> list[str]:
        """One line where it cannot act on a model in slices (`loading.parallel: tensor`).

        There a rank sees what goes from block to block whole, and inside attention and MLP its own slice.
        """
        return []

    def conditions(self, layers: Layers) -> list[Condition]:
        """The grid of doses that a run measures."""
        return [Condition()]

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Learn from contrast pairs; the model is bit-identical afterwards."""

    def rewrite(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation as this intervention changes it."""
        return list(messages)

    def edits(self, condition: Condition) -> list[Edit] | None:
        """What is changed at which positions: the engine runs these as rows on a shared prefix where that is exact.

        Returns:
            The edits; an empty list where the model itself is not changed; None where the change is no function of the
            state at one position, so that `attach` and full forwards are needed.
        """
        return []

    def attach(self, model: PreTrainedModel, condition: Condition) -> AbstractContextManager[Any]:
        """Change the model itself for the time of a `with` block; nothing is left behind, however it is left.

            with caa.attach(model, Condition(layer=13, multiplier=1.5)):
                model.generate(**tokenizer(text, return_tensors="pt"))

        The engine says for each forward where its rows begin, whatever it groups or drops; a hook of an intervention's
        own asks `caa_bench.engine.positions`. Around plain transformers calls a row's first position is the last token
        that is no padding of the forward that begins with an empty cache, and what is generated goes on from there;
        `batch_of(prompts)` around them says it otherwise. Inside nested blocks the outer one acts first.

        Args:
            model: the model to change.
            condition: the dose.

        Raises:
            ValueError: an edit's place is not there; inside, a cache that was begun elsewhere, so that nobody knows
                where its prompts end.
        """
        from caa_bench.engine.steer import steered

        edits = self.edits(condition)
        if edits is None:
            raise TypeError(f"{type(self).__name__} has no edits, so it must define attach")
        return steered(model, edits)

    def steer(
        self, model: PreTrainedModel, *, layer: int | None = None, multiplier: float = 1.0
    ) -> AbstractContextManager[Any]:
        """`attach` in plain words, for a notebook: inside, the model is steered; afterwards it is as it was.

            with caa.steer(model, layer=13, multiplier=1.5):
                model.generate(**tokenizer(text, return_tensors="pt"))

        Args:
            model: the model that it was fitted on.
            layer: the 0-based decoder block; only an intervention that has no layers goes without.
            multiplier: the dose; negative pushes away from the behavior.

        Raises:
            UserError: no layer, one that the model does not have, or a dose that is no finite number.
        """
        import math

        from caa_bench.models.blocks import hidden_size, num_layers

        layers = Layers(count=num_layers(model), default=0, hidden=hidden_size(model))
        if layer is None and self.conditions(layers)[0].layer is not None:
            raise UserError(
                f"layer: {self.label} acts in one layer; name it, as in steer(model, layer={layers.count // 2})"
            )
        if layer is not None and not 0 <= layer < layers.count:
            raise UserError(f"layer: {layer} does not exist; the model has layers 0 to {layers.count - 1}")
        if not math.isfinite(multiplier):
            raise UserError(f"multiplier: {multiplier} is no dose; give a finite number, for example 1.5")
        return self.attach(model, Condition(layer=layer, multiplier=multiplier))

    @property
    def acts(self) -> str:
        """Where it acts, and from which position on, in a sentence for its card."""
        cls = type(self)
        if cls.attach is not Intervention.attach:
            return "Changes what the model's own modules give, in every layer and at every position"
        if cls.edits is not Intervention.edits:
            return "Added to the output of decoder blocks, where and from which position on its own `edits` say"
        if cls.rewrite is not Intervention.rewrite:
            return "Rewrites the conversation before it becomes tokens; the model itself stays as it is"
        return "Changes nothing"

    def facts_for_card(self, layer: int | None) -> OnCard:
        """What its card says of it beside its settings.

        Args:
            layer: the layer to steer at; None: the default one.
        """
        return OnCard()

    def settings(self) -> dict[str, Any]:
        """Everything that decides what `fit` learns and what it does, as JSON: part of every content key.

        The grid of doses is left out, so that a longer sweep reuses the artifact of a shorter one. A class from outside
        of the package has its code in it.
        """
        config = {key: value for key, value in asdict(self.config).items() if key not in self.grid}
        code = {"code": key} if (key := code_key(type(self))) else {}
        return {"name": self.name, "variant": self.variant} | code | config

    def section(self, behavior: Behavior) -> dict[str, Any]:
        """The recipe section, as JSON, from which `build` makes this one again for the behavior."""
        return asdict(self.config)

    def learned_from(self, pairs: Pairs) -> dict[str, str]:
        """Content keys of all the training data that `fit(model, tokenizer, pairs)` reads, by behavior."""
        return {pairs.behavior: pairs.key}

    def ingredients(self, pairs: Pairs) -> list[Ingredient]:
        """What this one is made from: the harness fits or loads each before `fit`, which fits what is still missing."""
        return []

    def source(self, condition: Condition, *, behavior: str) -> Source:
        """Which behavior and layer this intervention's vector comes from when it is used under `condition`."""
        return Source(behavior=behavior, layer=condition.layer)


registry = Registry(
    Intervention,
    kind="interventions",
    package="caa_bench.interventions",
    order=lambda cls: cls.is_placebo,
)
"""Every intervention by its `name`, originals before their placebos."""
