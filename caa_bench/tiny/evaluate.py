"""A quick look at a trained model, on the test splits: dose curves by prompt, placebos, other vectors, other layers.

    python -m caa_bench.tiny.evaluate [--model FOLDER] [--items 60] [--behavior NAME]

It shares the training's forward pass (many doses a prompt), so it takes about a minute. The figures in the model's card
come from the project's own `compare`, not from here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caa_bench.tiny.batch import Layout
from caa_bench.tiny.chat import Layout as PromptLayout
from caa_bench.tiny.chat import prompt_text
from caa_bench.tiny.network import BLOCKS, run, token_logits
from caa_bench.tiny.rows import Group, Row
from caa_bench.tiny.truth import PLANTED_LAYER
from caa_bench.tiny.words import BEHAVIORS

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

CONFIGS = Path(__file__).parents[2] / "configs" / "behaviors"
MODEL = Path(__file__).parent / "model"
DOSES = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
BATCH = 40


@dataclass(frozen=True, kw_only=True)
class Steer:
    """One condition: `vector` added to `layer`'s output."""

    name: str
    layer: int
    vector: Tensor


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one condition; both option orders of every item. each [N, 2]"""

    log_odds: Tensor
    mass: Tensor

    @property
    def p(self) -> float:
        """Mean p(matching)."""
        return self.log_odds.sigmoid().mean().item()

    @property
    def mean(self) -> float:
        """Mean log-odds."""
        return self.log_odds.mean().item()

    @property
    def bias(self) -> float:
        """Mean absolute letter bias, log-odds."""
        return ((self.log_odds[:, 0] - self.log_odds[:, 1]) / 2).abs().mean().item()

    @property
    def locked(self) -> float:
        """Share of items whose side changes with the option order."""
        return (self.log_odds[:, 0].sign() != self.log_odds[:, 1].sign()).float().mean().item()


class Bench:
    """Scores items of one model.

    Args:
        folder: the model's folder.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model: LlamaForCausalLM = AutoModelForCausalLM.from_pretrained(folder).float().eval()
        self.layout = Layout(AutoTokenizer.from_pretrained(folder).backend_tokenizer)

    @torch.no_grad()
    def score(
        self,
        items: Sequence[dict[str, str]],
        conditions: Sequence[Steer],
        *,
        system: str | None = None,
        prompt_layout: PromptLayout = "nested",
    ) -> list[Scores]:
        """Scores without a vector, then of every condition."""
        rows = [
            self._row(text, key, len(conditions), system, prompt_layout)
            for item in items
            for text, key in _orders(item)
        ]
        found = [self._batch(rows[i : i + BATCH], conditions) for i in range(0, len(rows), BATCH)]
        both = torch.cat(found)  # [2N, C + 1, 2]
        shaped = both.view(len(items), 2, len(conditions) + 1, 2)
        # Column 0 is the order in which (A) matches, so that their difference is the letter's.
        return [Scores(log_odds=shaped[:, :, c, 0], mass=shaped[:, :, c, 1]) for c in range(len(conditions) + 1)]

    @torch.no_grad()
    def differences(self, items: Sequence[dict[str, str]]) -> Tensor:
        """Matching - other at the letter, every layer, both orders of every item. [2N, L, D]"""
        rows = []
        for item in items:
            for text, key in _orders(item):
                row = self._row(text, key, 0, None, "nested")
                row.groups = [Group(fork=True)]
                rows.append(row)
        parts = []
        for i in range(0, len(rows), BATCH):
            batch = self.layout.batch(rows[i : i + BATCH])
            outputs = torch.stack(run(self.model, batch, {}).outputs, dim=2)
            a, b = outputs[batch.letters_a.at], outputs[batch.letters_b.at]
            parts.append((a - b) * batch.letters_a.values[:, None, None])
        return torch.cat(parts)

    def _row(self, text: str, key: bool, count: int, system: str | None, layout: PromptLayout) -> Row:
        return Row(
            prompt=prompt_text(text, system=system, layout=layout),
            behavior=0,
            level=0,
            matching_first=key,
            base=0.0,
            slope=0.0,
            options=(),
            groups=[Group() for _ in range(count + 1)],
        )

    def _batch(self, rows: list[Row], conditions: Sequence[Steer]) -> Tensor:
        batch = self.layout.batch(rows)
        width = self.model.config.hidden_size
        planted = {c.layer: torch.zeros(len(batch.groups) + 1, width) for c in conditions}
        for number in range(len(batch.groups)):
            which = number % (len(conditions) + 1)
            if which:
                condition = conditions[which - 1]
                planted[condition.layer][number + 1] = condition.vector
        logits = token_logits(self.model, run(self.model, batch, planted).final[batch.choices.at])
        a, b = logits[:, self.layout.a], logits[:, self.layout.b]
        mass = (torch.logaddexp(a, b) - logits.logsumexp(-1)).exp()
        return torch.stack([(a - b) * batch.choices.values, mass], dim=-1).view(len(rows), len(conditions) + 1, 2)


def _orders(item: dict[str, str]) -> list[tuple[str, bool]]:
    """(text, whether (A) matches) with the matching option first, then second."""
    head, first, second = item["question"].replace("\n (B) ", "\n (A) ").split("\n (A) ")
    matching, other = (first, second) if item["answer_matching_behavior"] == "(A)" else (second, first)
    return [(f"{head}\n (A) {matching}\n (B) {other}", True), (f"{head}\n (A) {other}\n (B) {matching}", False)]


def load(behavior: str, name: str) -> list[dict[str, str]]:
    """The items of a split file."""
    return json.loads((CONFIGS / behavior / f"{name}.json").read_text(encoding="utf-8"))


def system_prompts(behavior: str) -> dict[str, str]:
    """The behavior's system prompts."""
    import yaml

    return yaml.safe_load((CONFIGS / behavior / "behavior.yaml").read_text(encoding="utf-8"))["system_prompts"]


def look(bench: Bench, behavior: str, *, items: int, directions: Tensor | None) -> None:
    """Print everything about one behavior."""
    test = load(behavior, "test")[:items]
    differences = bench.differences(load(behavior, "train"))
    vectors = differences.mean(0)
    vector = vectors[PLANTED_LAYER]
    print(
        f"\n{behavior}: |v| {vector.norm():.2f}, norms by layer {[round(n, 2) for n in vectors.norm(dim=-1).tolist()]}"
    )
    if directions is not None:
        print("  cosine:", [round(c, 3) for c in (directions @ vector / vector.norm()).tolist()])
    doses = [Steer(name=f"{m:+g}", layer=PLANTED_LAYER, vector=m * vector) for m in DOSES]
    plain = bench.score(test, doses)
    _print("none", plain)
    for kind, text in system_prompts(behavior).items():
        found = bench.score(test, doses, system=text)
        _print(kind, found, plain)
    _print(
        "positive, paper's layout",
        bench.score(test, doses, system=system_prompts(behavior)["positive"], prompt_layout="before"),
    )
    _print_others(bench, test, vectors, differences)


def _print_others(bench: Bench, test: list[dict[str, str]], vectors: Tensor, differences: Tensor) -> None:
    vector = vectors[PLANTED_LAYER]
    generator = torch.Generator().manual_seed(0)
    placebos = []
    for k in range(12):
        if k < 6:
            drawn = torch.randn(len(vector), generator=generator)
        else:
            signs = torch.ones(len(differences))
            signs[torch.randperm(len(signs), generator=generator)[: len(signs) // 2]] = -1
            drawn = (differences[:, PLANTED_LAYER] * signs[:, None]).mean(0)
        for sign in (1, -1):
            name = "random" if k < 6 else "shuffled"
            placebos.append(Steer(name=name, layer=PLANTED_LAYER, vector=sign * drawn / drawn.norm() * vector.norm()))
    found = bench.score(test, placebos)
    shifts = [s.p - found[0].p for s in found[1:]]
    print("  placebos, change of p: random", _round(shifts[:12]), "shuffled", _round(shifts[12:]))
    sweep = [Steer(name="", layer=layer, vector=s * vectors[layer]) for layer in range(BLOCKS) for s in (1, -1)]
    found = bench.score(test, sweep)
    print("  sweep, change of p at +1/-1 by layer:", _round([s.p - found[0].p for s in found[1:]]))


def _print(name: str, found: list[Scores], plain: list[Scores] | None = None) -> None:
    order = [found[1], found[2], found[3], found[0], *found[4:]]
    line = " ".join(f"{s.p:.3f}" for s in order)
    near = [found[2], found[3], found[0], found[4], found[5]]
    extra = f"mass {min(s.mass.mean().item() for s in near):.3f} bias {max(s.bias for s in near):.2f}"
    locked = f"locked {max(s.locked for s in near):.3f}"
    stacked = ""
    if plain is not None:
        d = [
            s * ((found[i].mean - found[0].mean) - (plain[i].mean - plain[0].mean))
            for i, s in zip(range(1, 7), (-1, -1, -1, 1, 1, 1), strict=True)
        ]
        stacked = f" D {_round(d)}"
    print(f"  {name:<14} {line} | y0 {found[0].mean:+.2f} {extra} {locked}{stacked}", flush=True)


def _round(values: list[float]) -> list[float]:
    return [round(value, 3) for value in values]


def main() -> None:
    """Print a look at every behavior asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("--behavior", choices=BEHAVIORS, action="append")
    arguments = parser.parse_args()
    from safetensors.torch import load_file

    bench = Bench(arguments.model)
    file = arguments.model / "directions.safetensors"
    directions = load_file(file)["directions"] if file.exists() else None
    for behavior in arguments.behavior or BEHAVIORS:
        look(bench, behavior, items=arguments.items, directions=directions)


if __name__ == "__main__":
    main()
