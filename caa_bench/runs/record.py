"""manifest.json as a report reads it: every key of it is read here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from caa_bench.analysis.estimates import Resampling
from caa_bench.interventions.card import on_the_hub

OLD_PLACEBOS = {"random": "caa", "shuffled": "caa"}
"""Whose placebo each is, for manifests that do not say what their interventions are."""


@dataclass(frozen=True, kw_only=True)
class ArmFacts:
    """What the run recorded of one intervention.

    Args:
        name: the name of its class.
        role: `base` or `vector`.
        placebo_of: the label or class name of the vector whose placebo it is; "" for a real arm.
    """

    name: str
    role: str
    placebo_of: str = ""


@dataclass(frozen=True, kw_only=True)
class Behavior:
    """What is measured: its name in commands, its title, and what a matching answer does."""

    id: str
    title: str
    matching: str


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run as its manifest tells it.

    Args:
        settings: the recipe, flat: dotted key -> value.
        model / split / protocol / data / seed / draws / fits / bases / vectors: of the recipe.
        arms: label -> what that intervention is.
        cells: one entry a planned cell; the keys are the columns that every table starts with, and `key`.
        batches: keys of the planned batches.
        artifacts: label (of a further fit `label@number`) -> the folder that it was kept in.
        diagnostics: label -> one entry a layer, of vectors that were made from pairs.
        lengths: placebo -> draw by draw, its length over its original's in each layer; of those with a length of
            their own.
        asked: evaluator -> `n` and `key` of the questions asked.
        items: item -> key of its text; None where the run did not record it.
        texts: item -> `question`, `options` in the given order, and the index of the `matching` one; empty where not
            kept.
        longer: `train_share` and `items` whose matching option is the longer one; empty where not known.
        judges: those of the last run, the leading one first.
        layers: `count`, `default` and `hidden` of the model.
        tuning: what was tried and chosen on the selection split (`runs.tuning_record`); empty where nothing was.
        model_facts: revision, dtype (`computes_in` is what `auto` became), quantization and files of the model.
        test_opened: how often the test split was evaluated by this run.
        test_opening: which opening of this test split with this model it was, of all runs beside it; from 1.
    """

    settings: Mapping[str, Any]
    model: str
    split: str
    protocol: str
    data: str
    seed: int
    draws: int
    fits: int
    bases: tuple[str, ...]
    vectors: tuple[str, ...]
    behavior: Behavior
    arms: Mapping[str, ArmFacts]
    cells: tuple[Mapping[str, Any], ...]
    batches: tuple[str, ...]
    artifacts: Mapping[str, str]
    diagnostics: Mapping[str, Any]
    lengths: Mapping[str, Sequence[Sequence[float | None]]]
    asked: Mapping[str, Mapping[str, Any]]
    items: Mapping[str, str] | None
    texts: Mapping[str, Mapping[str, Any]]
    longer: Mapping[str, Any]
    judges: tuple[Mapping[str, Any], ...]
    layers: Mapping[str, Any]
    tuning: Mapping[str, Any]
    model_facts: Mapping[str, Any]
    warnings: tuple[str, ...]
    status: str
    test_opened: int
    test_opening: int
    recipe_key: str
    versions: Mapping[str, str | None]
    version_changes: tuple[str, ...]

    @property
    def model_name(self) -> str:
        """The model as pages and cards call it: of a local folder its own name, not where it lies on this machine."""
        return self.model if on_the_hub(self.model) else Path(self.model).name

    @property
    def half(self) -> str:
        """The half precision that the model computed in, by name; "" for float32, or where it was not recorded."""
        found = str(self.model_facts.get("computes_in") or self.model_facts.get("dtype") or "")
        return found if found in ("bfloat16", "float16") else ""

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> RunRecord:
        """The record of a manifest, as `read_manifest` gives it."""
        recipe, facts = manifest["recipe"], manifest["facts"]
        return cls(
            settings=recipe,
            **{name: recipe[name] for name in ("model", "split", "protocol", "data", "seed", "draws")},
            fits=int(recipe.get("fits", 1)),
            bases=tuple(recipe.get("bases", ())),
            vectors=tuple(recipe.get("vectors", ())),
            behavior=Behavior(**{name: str(facts["behavior"][name]) for name in ("id", "title", "matching")}),
            arms=_arms(facts),
            cells=tuple(facts["cells"]),
            batches=tuple(facts["batches"]),
            items=facts.get("items"),
            test_opening=int(facts.get("test_opening") or 1),
            judges=tuple(facts.get("judges", ())),
            model_facts=facts.get("model", {}),
            warnings=tuple(map(str, facts["warnings"])),
            **{
                name: facts.get(name, {})
                for name in ("artifacts", "diagnostics", "lengths", "asked", "texts", "longer", "layers", "tuning")
            },
            **{name: manifest[name] for name in ("status", "test_opened", "recipe_key", "versions")},
            version_changes=tuple(map(str, manifest["version_changes"])),
        )

    @property
    def how(self) -> Resampling:
        """Seed and draws of every resampling."""
        return Resampling(seed=self.seed, draws=self.draws)

    @property
    def placebos(self) -> dict[str, str]:
        """Vectors that mean nothing: label -> the vector whose placebo it is.

        In the recipe's order, then those that a recipe's name stands for (`random_mine` beside `mine`).
        """
        every = dict.fromkeys([*self.vectors, *self.arms])
        return {name: found for name in every if (found := self.placebo_of(name))}

    @property
    def originals(self) -> dict[str, str]:
        """Placebo -> the label of the vector that it stands beside, where that one is in the run."""
        real = (name for name in self.vectors if name not in self.placebos)
        return {name: vector for vector in real for name in self.placebos_of(vector)}

    def placebos_of(self, vector: str) -> tuple[str, ...]:
        """Those made to stand beside one vector."""
        known = self.arms.get(vector)
        names = {vector} | ({known.name} if known else set())
        return tuple(name for name, original in self.placebos.items() if original in names)

    def labels_of(self, name: str) -> tuple[str, ...]:
        """Vectors of one class, in the recipe's order."""
        return tuple(
            label for label in self.vectors if (self.arms[label].name if label in self.arms else label) == name
        )

    def placebo_length(self, label: str, layer: float | None) -> float | None:
        """The median length of a placebo's draws over its original's: 1 where it has that one's norm.

        Args:
            layer: that is steered; None or NaN: all are, and so it is the median over them.

        Returns:
            None where the original has no length there.
        """
        if label not in self.lengths:
            return 1.0
        one = None if layer is None or math.isnan(layer) else int(layer)
        found = [share for draw in self.lengths[label] for share in (draw if one is None else (draw[one],))]
        known = [share for share in found if share is not None]
        return median(known) if known else None

    def layers_of(self, vector: str) -> list[int]:
        """The blocks that a vector was measured at, in order; none where it has no layer."""
        found = {cell["layer"] for cell in self.cells if cell["vector"] == vector}
        return sorted(int(layer) for layer in found if layer is not None)

    def placebo_of(self, label: str) -> str:
        """Whose placebo an intervention is; "" for a real one."""
        if self.arms:
            return self.arms[label].placebo_of if label in self.arms else ""
        return OLD_PLACEBOS.get(label, "")


def _arms(facts: Mapping[str, Any]) -> dict[str, ArmFacts]:
    return {
        label: ArmFacts(name=str(one["name"]), role=str(one["role"]), placebo_of=str(one.get("placebo_of") or ""))
        for label, one in facts.get("interventions", {}).items()
    }
