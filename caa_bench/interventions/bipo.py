"""A vector learned by gradient (BiPO, Cao et al. 2024, arXiv 2406.00045, section 3): preference in both signs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caa_bench.errors import too_few
from caa_bench.interventions.activations import exchanged_mean
from caa_bench.interventions.gradient_steps import LAYERS_AT_ONCE, epoch_steps, weights_fixed
from caa_bench.interventions.layer_adam import LayerAdam
from caa_bench.interventions.pair_vectors import PairVector, as_long_as, sizes
from caa_bench.storage.files import content_key

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.models.prompts import ChoicePrompt

STATE = "learned.safetensors"
"""What an unfinished fit keeps beside the pairs that it has read."""


class BiPO(PairVector):
    """v = argmin of the mean of -log sigmoid(d * beta * (y(d v) - y(0))), d drawn from -1 and 1 anew at each step.

    y is the log-odds of the matching letter against the other: of the paper's ratios of probabilities everything else
    cancels where an answer is one letter. Position rule: added to one block from the last token of the instruction on
    while it is learned, as it is when it is used; the paper's code adds it at every position. Every layer learns a
    vector of its own, all of them as rows on one shared prefix, so that a pass over the pairs costs about as much as
    two plain ones. Adam from 0 with one scale a layer, steps in units of CAA's length, the rate falling to 0 in a line;
    the paper's Adam has a scale a number, a cosine and a decay of the weights.
    """

    name = "bipo"

    @dataclass(frozen=True, kw_only=True)
    class Config(PairVector.Config):
        """Recipe section `bipo`.

        Args:
            beta: how soon a pair that is moved far enough counts less.
            learning_rate: a step's length as a share of CAA's vector's.
            epochs / batch_size: passes over the pairs, and pairs a step.
            seed: of the order and the signs.
        """

        beta: float = 0.1
        learning_rate: float = 0.2
        epochs: int = 2
        batch_size: int = 16
        seed: int = 0

        def __post_init__(self) -> None:
            PairVector.Config.__post_init__(self)
            for key in ("beta", "learning_rate"):
                if (value := getattr(self, key)) <= 0:
                    raise ValueError(f"{key}: {value:g} is too small; give more than 0")
            if lines := too_few({"epochs": self.epochs, "batch_size": self.batch_size}):
                raise ValueError("\n".join(lines))

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """One vector a layer, all layers at once. [L, D]"""
        activations = self.read_activations(model, tokenizer, pairs)
        self.vectors = self._learned(model, tokenizer, pairs, mean=activations.mean_difference(), exchanged=set())
        self.diagnostics = sizes(activations, pairs, vectors=self.vectors)

    def exchanged_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, *, exchanged: set[str]
    ) -> Tensor:
        """Learned anew from the exchanged pairs: as much work as the fit itself. [L, D]"""
        mean = exchanged_mean(self.read_activations(model, tokenizer, pairs), pairs, exchanged=exchanged)
        return self._learned(model, tokenizer, pairs, mean=mean, exchanged=exchanged)

    def _learned(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        pairs: Pairs,
        *,
        mean: Tensor,
        exchanged: set[str],
    ) -> Tensor:
        """Vectors in the method's own length. [L, D]

        Args:
            mean: CAA's vector of these pairs, exchanged as they are; a step is a share of its length. [L, D]
            exchanged: ids of the items whose two answers change places.
        """
        import torch

        from caa_bench.interventions.fitting import Clock, current
        from caa_bench.interventions.vectors import letter_prompts

        prompts = letter_prompts(tokenizer, pairs)
        toward = torch.tensor([-1.0 if pair.item in exchanged else 1.0 for pair in pairs])
        steps = _signed_steps(model, prompts, self.config)
        unit = mean.norm(dim=-1, keepdim=True)
        key = content_key([self.settings(), steps, [prompt.ids for prompt in prompts], toward.tolist(), unit.tolist()])
        fitting, clock, done, total = current(), Clock(), 0, sum(len(group) for group, _ in steps)
        with fitting.room() as folder, weights_fixed(model):
            adam = LayerAdam.kept_in(folder / STATE, key=key, like=mean)
            for number, (group, sign) in enumerate(steps):
                done += len(group)
                if number < adam.steps:  # kept by an unfinished fit
                    fitting.kept = done
                    continue
                asked, want = [prompts[row] for row in group], sign * self.config.beta * toward[group]
                gradient = sign * _gradient(model, asked, vectors=sign * adam.vectors, want=want)
                adam.step(gradient, by=self.config.learning_rate * (1 - number / len(steps)) * unit)
                fitting.step(done, total)
                if done < total and (fitting.stopping or clock.due()):
                    with clock.keeping():
                        adam.keep(folder / STATE)
                    fitting.kept = done
                    fitting.leave_if_asked()
        return as_long_as(adam.vectors, mean) if self.config.norm == "caa" else adam.vectors


def _signed_steps(
    model: PreTrainedModel, prompts: Sequence[ChoicePrompt], config: BiPO.Config
) -> list[tuple[list[int], float]]:
    """Every step of all passes: its rows, and the sign that the vectors have in it."""
    draw = random.Random(config.seed)  # noqa: S311 - an order, not a secret
    epochs = [epoch_steps(model, prompts, batch_size=config.batch_size, draw=draw) for _ in range(config.epochs)]
    return [(step, draw.choice((-1.0, 1.0))) for epoch in epochs for step in epoch]


def _gradient(model: PreTrainedModel, prompts: Sequence[ChoicePrompt], *, vectors: Tensor, want: Tensor) -> Tensor:
    """d of the mean loss over d of each layer's vector, as it is added. [L, D]

    Args:
        vectors: what is added in each layer, one layer at a time. [L, D]
        want: what each prompt's change of log-odds is multiplied by inside the sigmoid. [B]
    """
    import torch

    from caa_bench.engine.changes import Add
    from caa_bench.engine.edit import Edit
    from caa_bench.engine.forwards import full_logits, shared_logits
    from caa_bench.engine.pack import Rows
    from caa_bench.engine.positions import batch_of
    from caa_bench.engine.prefix import split
    from caa_bench.engine.sharing import can_share
    from caa_bench.models.blocks import frozen

    letters = torch.tensor([prompt.candidates[:2] for prompt in prompts])
    shared, found = can_share(model, prompts), []

    def odds(logits: Tensor) -> Tensor:  # [B, R, V] -> [B, R]
        both = logits.gather(-1, letters.to(logits.device)[:, None].expand(-1, logits.shape[1], -1))
        return (both[..., 0] - both[..., 1]).float()

    with frozen(model), batch_of(prompts):
        prefix = split(model, prompts, suffix=len(prompts[0].ids) - prompts[0].first_position) if shared else None
        plain = torch.zeros(()) if shared else odds(full_logits(model, prompts, [])[:, None])
        for some in torch.arange(len(vectors)).split(LAYERS_AT_ONCE if shared else 1):
            own = [vectors[layer].clone().requires_grad_() for layer in some.tolist()]
            conditions = [[Edit(layer, Add(vector))] for layer, vector in zip(some.tolist(), own, strict=True)]
            with torch.enable_grad():
                if prefix is not None:
                    rows = Rows([[], *conditions], len(vectors))
                    said = odds(shared_logits(model, prefix, rows)[:, rows.row_of])
                    plain, moved = said[:, :1].detach(), said[:, 1:]
                else:
                    moved = odds(full_logits(model, prompts, conditions[0])[:, None])
                margin = want.to(moved.device)[:, None] * (moved - plain)
                loss = -torch.nn.functional.logsigmoid(margin).mean(dim=0).sum()
            found += [gradient.cpu() for gradient in torch.autograd.grad(loss, own)]
    return torch.stack(found)
