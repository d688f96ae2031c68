"""Whether baked weights do what the arm does: the same items in every order, on the model before and on the folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from caa_bench.analysis.intervals import bootstrap_mean
from caa_bench.analysis.items import item_scores
from caa_bench.errors import UserError
from caa_bench.evaluators import AnswerProbability
from caa_bench.evaluators.base import Job, Treatment
from caa_bench.interventions import Condition, Intervention, registry
from caa_bench.models.loaded import LoadedModel
from caa_bench.runs.rows import frame_of

if TYPE_CHECKING:
    from caa_bench.behaviors.items import Item, Protocol
    from caa_bench.engine.edit import Edit
    from caa_bench.interventions.baking import Baking
    from caa_bench.models.model import ChatModel

EXACT = 1e-3
"""Log-odds by which rounding in float32 may move an answer; merging moves it by about a hundredth of that."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """How far the baked weights are from what they were made to do.

    Args:
        exact: whether they were made to do what the arm does.
        apart: the largest difference of the log-odds over items and orders; NaN where an answer is no number.
        shift: of the log-odds by the arm, with its interval, as text.
        baked: the same by the baked weights.
        difference: theirs less the arm's, item by item.
        n: items.
    """

    exact: bool
    apart: float
    shift: str
    baked: str
    difference: str
    n: int

    def lines(self) -> list[str]:
        """For the screen, and for the card."""
        made = "the arm's" if self.exact else "those of the same addition at every position"
        said = [
            f"loaded by plain transformers, its log-odds are within {self.apart:.1e} of {made}, "
            f"on {self.n} items in every order"
        ]
        said.append(f"shift of the log-odds against the unchanged model: {self.baked} baked, {self.shift} here")
        if not self.exact:
            said.append(f"so acting at the prompt's positions too moves the answers by {self.difference}")
        return said


@dataclass(frozen=True, kw_only=True)
class Before:
    """What the model says unchanged, under the arm, and as the weights are to make it say."""

    items: Sequence[Item]
    protocol: Protocol
    baking: Baking
    plain: pd.DataFrame
    arm: pd.DataFrame
    wanted: pd.DataFrame
    spread: bool
    """Whether the model is to be spread over devices when it is loaded again."""

    @classmethod
    def of(cls, chat: ChatModel, baking: Baking, *, items: Sequence[Item], protocol: Protocol) -> Before:
        """Asked of the model that is still as it was."""
        nothing, asked = registry()["none"](), _Asked(items=items, protocol=protocol)
        arm = asked.of(chat, baking.arm, baking.condition)
        given = baking.edits
        return cls(
            items=items,
            protocol=protocol,
            baking=baking,
            plain=asked.of(chat, nothing, Condition()),
            arm=arm,
            wanted=arm if baking.exact else asked.of(chat, _Edits(given or ()), Condition()),
            spread=chat.loading.device_map == "auto",
        )

    def against(self, chat: ChatModel) -> Found:
        """The same asked of changed weights."""
        said = _Asked(items=self.items, protocol=self.protocol).of(chat, registry()["none"](), Condition())
        apart = float(np.abs(said["log_odds"] - self.wanted["log_odds"]).to_numpy().max(initial=0.0))
        plain, arm, baked = (_by_item(scores) for scores in (self.plain, self.arm, said))
        clusters = self.plain.groupby("item")["cluster"].first()
        return Found(
            exact=self.baking.exact,
            apart=apart if said["log_odds"].notna().all() else float("nan"),
            shift=_mean(arm - plain, clusters),
            baked=_mean(baked - plain, clusters),
            difference=_mean(baked - arm, clusters),
            n=len(plain),
        )

    def against_folder(self, folder: Path, *, dtype: str) -> Found:
        """The same asked of a folder, as plain transformers loads it.

        Raises:
            UserError: transformers finds other weights in it than its config asks for.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        place: Any = {"device_map": "auto"} if self.spread else {}
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), output_loading_info=True, use_safetensors=True, **place
        )
        if stray := [*info["missing_keys"], *info["unexpected_keys"]]:
            raise UserError(f"{self.baking.arm.label}: transformers has no place for {sorted(stray)[0]} in this model")
        if not self.spread and torch.cuda.is_available():
            model = model.to("cuda")
        return self.against(LoadedModel.of(model.eval(), AutoTokenizer.from_pretrained(folder)))


def refuse_other(found: Found, baking: Baking) -> None:
    """Refuse weights that do something else than they were made to do.

    Raises:
        UserError: a log-odds differs by more than rounding.
    """
    if not found.apart <= EXACT:
        raise UserError(
            f"{baking.arm.label}: baked, the log-odds differ by up to {found.apart:.2g} from what the weights were to "
            "do: this architecture does something else with them; nothing is written, use caa-bench export"
        )


class _Edits(Intervention):
    """Edits by themselves."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        super().__init__()
        self._edits = list(edits)

    def edits(self, condition: Condition) -> list[Edit]:
        """Those."""
        return self._edits


@dataclass(frozen=True, kw_only=True)
class _Asked:
    items: Sequence[Item]
    protocol: Protocol

    def of(self, chat: ChatModel, arm: Intervention, condition: Condition) -> pd.DataFrame:
        """The log-odds of each order and item. Index (cell, item), the cell the order's number."""
        job = Job(
            chat=chat,
            items=self.items,
            base=arm,
            dose=condition,
            treatments=[Treatment(cell="")],
            protocol=self.protocol,
        )
        rows = frame_of(AnswerProbability().evaluate(job))
        rows["cell"] = rows["order"].astype(str)
        return item_scores(rows, protocol=self.protocol).set_index(["cell", "item"])[["log_odds", "cluster"]]


def _by_item(scores: pd.DataFrame) -> pd.Series[float]:
    return scores["log_odds"].groupby("item").mean()


def _mean(values: pd.Series[float], clusters: pd.Series[str]) -> str:
    """With its interval over clusters, where there are items enough for one."""
    codes = pd.factorize(clusters.loc[values.index])[0]
    found = bootstrap_mean(values.to_numpy(float)[:, None], codes)
    point, low, high = (float(of[0]) for of in (found.point, found.low, found.high))
    if point != point:
        return "n/a"
    return f"{point:+.3f}" + (f" [{low:+.3f}, {high:+.3f}]" if low == low and high == high else "")
