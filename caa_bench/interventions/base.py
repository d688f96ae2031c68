"""The one contract: what every way of moving a model's behavior can do. READ SECOND, after benchmark.py.

A new intervention is one new file in this folder with one subclass of `Intervention`; its `name` becomes a recipe
section, a base (`<name>_<variant>`) and, where it has edits, something that can be put on top of every other base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from caa_bench.errors import UserError
from caa_bench.models.layers import Layers

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Behavior, Pairs
    from caa_bench.engine.edit import Edit
    from caa_bench.models.prompts import Message, Prompt


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One dose of an intervention.

    Args:
        multiplier: the dose; negative pushes away from the behavior, 0 is nothing, 1 is as fitted.
        layer: the 0-based decoder block, where the intervention has one; else None.
    """

    multiplier: float = 1.0
    layer: int | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where an applied vector comes from.

    Args:
        behavior: the behavior it was fitted on.
        layer: the layer it was taken at; None without one.
        model: the model it was fitted on; "" for the one it is applied in.
    """

    behavior: str
    layer: int | None
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """Another intervention that has to be fitted before the one that is made from it.

    Args:
        intervention: what `fit` fills or `load` reads, in place.
        pairs: what it learns from.
        model: the name of the model it is fitted on; "" for the model at hand.
    """

    intervention: Intervention
    pairs: Pairs
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class OnCard:
    """What an intervention says of itself on its card.

    Args:
        condition: the arguments of the `Condition` that the card's code steers with.
        facts: further lines of the card's table.
    """

    condition: str = "multiplier=1.0"
    facts: Mapping[str, str] = field(default_factory=dict)


class Intervention:
    """A way of moving a model's behavior.

    Args:
        config: its recipe section; `Config()` where not given.
        variant: one of `variants` ("positive"), or "" where there is only one.
    """

    name: ClassVar[str] = ""
    """The recipe section, and the first part of every label."""
    trains: ClassVar[bool] = False
    """Whether `fit` learns anything: only then an artifact is kept and reused."""
    variants: ClassVar[tuple[str, ...]] = ()
    """Names that follow `name` in a base (`lora_sft_positive`); empty where there is only one."""
    grid: ClassVar[tuple[str, ...]] = ()
    """Config keys that only say which doses to measure."""
    placebo_of: ClassVar[str] = ""
    """The intervention whose grid and norm this one copies, for placebos."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The recipe section's keys: none."""

    dose_unit = 1.0
    """The multiplier that a recipe's 1 stands for: what tuning chose (`runs.tuning_grid.settled`)."""
    number = ""
    """Which of a run's several fits this is ("1", "2", ...); "" where there is one alone."""

    def __init__(self, config: Any = None, *, variant: str = "") -> None:
        self.config: Any = self.Config() if config is None else config
        self.variant = variant

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
        """`<name>_<variant>`, as it stands in YAML, CSV and dashboards."""
        return f"{self.name}_{self.variant}" if self.variant else self.name

    @property
    def key(self) -> str:
        """The label, with the number of the fit behind the first one's."""
        return self.label if self.number in ("", "1") else f"{self.label}@{self.number}"

    def another_fit(self, number: int, *, made: Mapping[str, Intervention]) -> Intervention:
        """The same thing to be fitted once more, by another draw of whatever its fit draws; itself where nothing is.

        Args:
            number: from 1.
            made: the fits of this number made so far, by label; a placebo finds its original here.
        """
        if not self.trains or not hasattr(self.config, "seed"):
            return self
        again = type(self)(replace(self.config, seed=self.config.seed + number - 1), variant=self.variant)
        again.number = str(number)
        return again

    def scaled(self, multiplier: float) -> float:
        """A recipe's multiplier in units of `dose_unit`, of six digits."""
        return multiplier if self.dose_unit == 1 else float(f"{multiplier * self.dose_unit:.6g}")

    def check(self, layers: Layers) -> list[str]:
        """One line for each setting that cannot work on a model with these layers; run before any weights load."""
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
        """What is added to the residual stream: the engine runs these as rows on a shared prefix.

        Returns:
            The edits; an empty list where the model itself is not changed; None where the change is not an additive
            edit, so that `attach` and full forwards are needed.
        """
        return []

    def attach(
        self, model: PreTrainedModel, condition: Condition, *, prompts: Sequence[Prompt] = ()
    ) -> AbstractContextManager[Any]:
        """Change the model itself for the time of a `with` block; nothing is left behind, however it is left.

        Args:
            model: the model to change.
            condition: the dose.
            prompts: the prompts of the rows about to be run, in batch order; needed where there are edits, since
                these begin at each prompt's own instruction end.

        Raises:
            ValueError: there are edits and no prompts, or an edit's layer is not there.
        """
        from caa_bench.engine.steer import steered

        edits = self.edits(condition)
        if edits is None:
            raise TypeError(f"{type(self).__name__} has no edits, so it must define attach")
        return steered(model, edits, prompts)

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

    def told_on_card(self, layer: int | None) -> OnCard:
        """What its card says of it beside its settings.

        Args:
            layer: the layer to steer at; None: the default one.
        """
        return OnCard()

    def settings(self) -> dict[str, Any]:
        """Everything that decides what `fit` learns and what it does, as JSON: part of every content key.

        The grid of doses is left out, so that a longer sweep reuses the artifact of a shorter one.
        """
        config = {key: value for key, value in asdict(self.config).items() if key not in self.grid}
        return {"name": self.name, "variant": self.variant} | config

    def learned_from(self, pairs: Pairs) -> dict[str, str]:
        """Content keys of all the training data that `fit(model, tokenizer, pairs)` reads, by behavior."""
        return {pairs.behavior: pairs.key}

    def ingredients(self, pairs: Pairs) -> list[Ingredient]:
        """What this one is made from: the harness fits or loads each before `fit`, which fits what is still missing."""
        return []

    def source(self, condition: Condition, *, behavior: str) -> Source:
        """Which behavior and layer this intervention's vector comes from when it is used under `condition`."""
        return Source(behavior=behavior, layer=condition.layer)

    @classmethod
    def revive(cls, settings: Mapping[str, Any], *, variant: str) -> Intervention:
        """An unfitted instance from what `settings()` returned, read back from JSON."""
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
        return cls(cls.Config(**values), variant=variant)

    def save_pretrained(self, folder: Path) -> None:
        """Write the learned artifact (safetensors and JSON, with checksums, and a card) whole or not at all."""
        self.keep(folder)

    def keep(
        self,
        folder: Path,
        *,
        tensors: Mapping[str, Tensor] | None = None,
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """What every `save_pretrained` ends with: tensors, settings and a card, beside files that are there already.

        Args:
            facts: what else is known of the fit, as JSON.
        """
        from caa_bench.interventions.card import CARD, card
        from caa_bench.storage.files import write_artifact

        write_artifact(folder, tensors=tensors, meta={"settings": self.settings(), **facts}, texts={CARD: card(self)})

    def load(self, folder: Path) -> Self:
        """Take over the artifact in `folder`, after checking it byte by byte.

        Raises:
            UserError: the artifact is damaged or was made with other settings.
        """
        return self

    @classmethod
    def from_pretrained(cls, folder: Path) -> Intervention:
        """The intervention that was saved in `folder`, whichever class it is.

        Raises:
            UserError: the artifact is damaged, or no intervention of that name is known.
        """
        from caa_bench.interventions import from_folder

        return from_folder(Path(folder), expected=cls)

    def push_to_hub(self, folder: Path, repo_id: str) -> str:
        """Upload the saved artifact in `folder`, card included, with the user's own hub login; returns the address.

        Raises:
            UserError: the artifact is damaged.
        """
        from huggingface_hub import HfApi

        from caa_bench.storage.files import read_artifact

        read_artifact(folder, expect=None)
        api = HfApi()
        api.create_repo(repo_id, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=str(folder)))
