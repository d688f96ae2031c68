"""One arm of a search: what it tries, round by round, and what came of it; settings in, interventions out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from caa_bench.interventions import Intervention
from caa_bench.models.layers import Layers
from caa_bench.runs.plan import Cell
from caa_bench.runs.tuning_grid import Search, at_doses, between, directions, dose_of, first_layers, multiplier_of
from caa_bench.storage.paths import configs_folder

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.analysis.choice import Candidate, Chosen, Weighed

WORDINGS = "prompts.yaml"


@dataclass(frozen=True, kw_only=True)
class PromptWordings:
    """`configs/prompts.yaml`.

    Args:
        wordings: ways of saying a system prompt, each with `{text}` in the place of the behavior's own.
    """

    wordings: tuple[str, ...] = ()


class Arm:
    """What is tried of one intervention.

    Args:
        intervention: it.
        search: how finely.

    Attributes:
        weighed / chosen: set by `weigh`.
    """

    def __init__(self, intervention: Intervention, search: Search) -> None:
        self.intervention = intervention
        self.search = search
        self.weighed: Weighed | None = None
        self.chosen: Chosen | None = None

    @property
    def label(self) -> str:
        """The label of the intervention that is tuned."""
        return self.intervention.label

    def candidates(self, cells: Sequence[Cell]) -> list[Candidate]:
        """One for each setting tried so far."""
        raise NotImplementedError

    def weigh(
        self,
        cells: Sequence[Cell],
        scores: pd.DataFrame | None,
        *,
        capability: pd.DataFrame | None,
        unchanged: str,
        seed: int,
    ) -> None:
        """Weigh every candidate and choose among them."""
        from caa_bench.analysis.choice import choose, weigh
        from caa_bench.analysis.estimates import Resampling

        candidates = self.candidates(cells)
        if scores is None or not candidates:
            return
        self.weighed = weigh(candidates, scores, unchanged=unchanged, capability=capability, how=Resampling(seed=seed))
        self.chosen = choose(self.weighed, how=Resampling(seed=seed))


class VectorArm(Arm):
    """A vector at layers and doses, pushed in each of its directions equally far."""

    def __init__(self, vector: Intervention, layers: Layers, search: Search) -> None:
        super().__init__(vector, search)
        self._layers = layers
        self._first = first_layers(vector, layers, search)

    def first(self) -> list[Intervention]:
        """Every layer, or an even share of them, at the coarse doses."""
        return self._at(dict.fromkeys(self._first, self.search.doses))

    def second(self) -> list[Intervention]:
        """Finer doses at the best layers, and at those that the first round skipped beside them."""
        if self.weighed is None:
            return []
        table = self.weighed.table
        ranked = table.assign(usable=table["effect"].where(table["qualifies"]))
        best = ranked.groupby("layer")["usable"].max().dropna().sort_values(ascending=False, kind="stable")
        near = between(self._first, best.index[: self.search.best], self.intervention, self._layers)
        new = set(near) - set(self._first)
        every = (*self.search.doses, *self.search.finer)
        return self._at({layer: every if layer in new else self.search.finer for layer in near})

    def shortlist(self) -> list[Intervention]:
        """What the capability is measured of: the chosen layer and its rival's, at each dose that keeps option mass."""
        if self.weighed is None or self.chosen is None:
            return []
        table, chosen = self.weighed.table, self.chosen
        layers = {table["layer"].iloc[k] for k in (chosen.index, chosen.rival) if k is not None}
        keeps = table[table["qualifies"] & table["layer"].isin(layers)]
        grid: dict[int, list[float]] = {}
        for line in keeps.to_dict("records"):
            grid.setdefault(int(line["layer"]), []).append(float(line["multiplier"]))
        return at_doses(self.intervention, {layer: self._signed(sizes) for layer, sizes in grid.items()})

    def candidates(self, cells: Sequence[Cell]) -> list[Candidate]:
        """One a layer and size of the multiplier."""
        from caa_bench.analysis.choice import Candidate

        signs = directions(self.intervention)
        found: dict[tuple[int, float], dict[int, str]] = {}
        for cell in cells:
            if cell.vector == self.label and cell.evaluator != "capability" and cell.layer is not None:
                own = found.setdefault((cell.layer, abs(cell.multiplier)), {})
                own[1 if cell.multiplier > 0 else -1] = cell.key
        return [
            Candidate(
                group=f"layer {layer}", cells={sign: own[sign] for sign in signs}, settings=self._says(layer, size)
            )
            for (layer, size), own in sorted(found.items())
        ]

    def _says(self, layer: int, size: float) -> dict[str, Any]:
        return {"layer": layer, "multiplier": size, "dose": dose_of(self.intervention, layer, size)}

    def _at(self, doses: Mapping[int, Sequence[float]]) -> list[Intervention]:
        sizes = {
            layer: [size for dose in own if (size := multiplier_of(self.intervention, layer, dose)) is not None]
            for layer, own in doses.items()
        }
        return at_doses(self.intervention, {layer: self._signed(own) for layer, own in sizes.items() if own})

    def _signed(self, sizes: Sequence[float]) -> list[float]:
        return [sign * size for size in sizes for sign in directions(self.intervention)]


class BaseArm(Arm):
    """A base alone, in several wordings or at several scales; it pushes where its variant's name says."""

    def __init__(self, base: Intervention, *, search: Search) -> None:
        super().__init__(base, search)
        self._cells: tuple[Cell, ...] = ()

    @staticmethod
    def can_be_tuned(base: Intervention) -> bool:
        """Whether it has a direction and something to choose: a text, or doses."""
        return base.variant in ("positive", "negative") and (hasattr(base, "text") or hasattr(base.config, "doses"))

    def first(self) -> list[Intervention]:
        """The base once a wording, its own text first; or with the scales as its doses."""
        if not hasattr(self.intervention, "text"):
            return [_changed(self.intervention, doses=self.search.scales)]
        return [_worded(self.intervention, text) for text in self.texts()]

    def texts(self) -> list[str]:
        """The base's own text, then `configs/prompts.yaml`'s wordings of it."""
        own = str(getattr(self.intervention, "text", ""))
        return [own, *(wording.replace("{text}", own) for wording in wordings())]

    def measured(self, cells: Sequence[Cell]) -> None:
        """Take the cells of `first`, in order."""
        self._cells = tuple(cells)

    def candidates(self, cells: Sequence[Cell]) -> list[Candidate]:
        """One a wording or scale."""
        from caa_bench.analysis.choice import Candidate

        sign = 1 if self.intervention.variant == "positive" else -1
        worded = hasattr(self.intervention, "text")
        texts = self.texts() if worded else [""] * len(self._cells)
        return [
            Candidate(
                group=f"wording {place}" if worded else f"x{cell.base_dose:g}",
                cells={sign: cell.key},
                settings={"text": text} if worded else {"multiplier": cell.base_dose},
            )
            for place, (cell, text) in enumerate(zip(self._cells, texts, strict=True), start=1)
        ]


def wordings() -> list[str]:
    """Ways of saying a system prompt, each with `{text}` in the place of the behavior's own."""
    from caa_bench.config.recipe_yaml import load

    return list(load(configs_folder() / WORDINGS, [], PromptWordings).values.wordings)


def settled_bases(
    bases: Sequence[Intervention], chosen: Mapping[str, Mapping[str, Any]], *, vectors: Sequence[Intervention] = ()
) -> list[Intervention]:
    """The bases as they are measured: with the chosen text or scale; what was given stays as it is.

    Args:
        chosen: label -> `text` or `multiplier`; also of the parts of a stack.
        vectors: the settled vectors of the run, which a base may have among its parts.
    """
    by_key = {one.key: one for one in vectors}
    return [_settled(one, chosen, by_key) for one in bases]


def _settled(
    base: Intervention, chosen: Mapping[str, Mapping[str, Any]], vectors: Mapping[str, Intervention]
) -> Intervention:
    if parts := getattr(base, "parts", ()):
        made = copy.copy(base)
        made.parts = tuple(_settled(part, chosen, vectors) for part in parts)  # type: ignore[attr-defined]
        return made
    if base.key in vectors:
        return vectors[base.key]
    own = chosen.get(base.label)
    if own is None:
        return base
    return _worded(base, own["text"]) if "text" in own else _changed(base, doses=(own["multiplier"],))


def _worded(base: Intervention, text: str) -> Intervention:
    made = copy.copy(base)
    made.text = text  # type: ignore[attr-defined]  # those with a text alone come here
    return made


def _changed(base: Intervention, **config: Any) -> Intervention:
    made = copy.copy(base)
    made.config = replace(base.config, **config)
    return made
