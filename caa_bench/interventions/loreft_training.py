"""Pairs -> one low-rank map a layer, learned by gradient on the letter loss; kept between steps, told of, and stopped.

Every layer learns a map of its own, all of them as rows on one shared prefix. Sizes are measured in the model's own
units, so that one learning rate means the same in every layer of every model: what a map reads is h over the median
length of an activation, and what it moves is in lengths of CAA's vector.

Shapes: L layers, r rank, D hidden size, B prompts of a step, E epochs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.interventions.gradient_steps import Adam, epoch_steps, weights_fixed
from caa_bench.interventions.loreft_maps import Maps, letter_losses

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from caa_bench.models.prompts import ChoicePrompt

STATE = "maps.safetensors"


@dataclass(frozen=True, kw_only=True)
class Units:
    """What lengths are measured in while a map is learned, one a layer.

    Args:
        read: the median length of an activation. [L]
        moved: the length of CAA's vector. [L]
    """

    read: Tensor
    moved: Tensor


class Training:
    """The maps while they are learned, from no shift at all.

    Args:
        units: what lengths are measured in.
        rank / hidden: r and D.
        seed: of the first directions.
    """

    def __init__(self, units: Units, *, rank: int, hidden: int, seed: int) -> None:
        import torch

        layers, draw = len(units.read), torch.Generator().manual_seed(seed)
        first = torch.linalg.qr(torch.randn(layers, hidden, rank, generator=draw)).Q.transpose(1, 2)
        self.units = units
        self.own = [first.contiguous(), torch.zeros(layers, rank, hidden), torch.zeros(layers, rank)]
        self.adams = [Adam() for _ in self.own]
        self.held_out: list[Tensor] = []  # after each epoch, and before the first. [L] each
        self.steps, self.loss = 0, 0.0  # of the newest step, mean of the layers

    def maps(self, own: Sequence[Tensor] | None = None) -> Maps:
        """As they are by now, or of other parameters."""
        import torch

        directions, reads, bias = self.own if own is None else own
        found = torch.linalg.qr(directions.transpose(1, 2))
        signs = torch.diagonal(found.R, dim1=1, dim2=2).detach().sign()  # so that what is orthonormal stays as it is
        moved = self.units.moved[:, None]
        return Maps(
            rotate=(found.Q * signs[:, None]).transpose(1, 2),
            reads=reads * (moved / self.units.read[:, None])[..., None],
            bias=bias * moved,
        )

    def learn(self, model: PreTrainedModel, prompts: Sequence[ChoicePrompt], *, dose: float, rate: float) -> None:
        """One step on a batch.

        Args:
            prompts: the first candidate is the letter to learn at a dose of 1, the second at -1.
            dose: 1 or -1.
            rate: the length of the step, in `units`.
        """
        import torch

        own = [one.clone().requires_grad_() for one in self.own]
        with torch.enable_grad():
            maps = self.maps(own)
        told = letter_losses(model, prompts, maps, dose=dose, gradient=True)
        found = torch.autograd.grad([maps.rotate, maps.reads, maps.bias], own, told.gradient)
        for place, (adam, gradient) in enumerate(zip(self.adams, found, strict=True)):
            step = adam.step(gradient.flatten(1)).view_as(gradient)
            self.own[place] = self.own[place] - rate * step
        self.steps, self.loss = self.steps + 1, float(told.losses.mean())

    def known(self, learned: Sequence[ChoicePrompt], held_out: Sequence[ChoicePrompt]) -> dict[str, Any]:
        """What is known of the training, as JSON: pairs, held-out pairs, steps, and the held-out losses. [E + 1, L]"""
        losses = [[float(f"{loss:.6g}") for loss in epoch.tolist()] for epoch in self.held_out]
        found = {"pairs": len(learned), "held_out_pairs": len(held_out), "steps": self.steps}
        return {**found, "held_out_loss": losses}

    def tensors(self) -> dict[str, Tensor]:
        """Everything that going on needs, by name."""
        import torch

        found = {f"own {place}": one for place, one in enumerate(self.own)}
        for place, adam in enumerate(self.adams):
            found |= {f"mean {place}": torch.as_tensor(adam.mean), f"square {place}": torch.as_tensor(adam.square)}
        found |= {f"held out {epoch}": one for epoch, one in enumerate(self.held_out)}
        return {name: one.contiguous() for name, one in found.items()} | {
            "steps": torch.tensor(self.steps),
            "loss": torch.tensor(self.loss, dtype=torch.float64),
        }

    def take(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` gave."""
        self.steps, self.loss = int(tensors["steps"]), float(tensors["loss"])
        self.own = [tensors[f"own {place}"] for place in range(len(self.own))]
        for place, adam in enumerate(self.adams):
            adam.mean, adam.square, adam.steps = tensors[f"mean {place}"], tensors[f"square {place}"], self.steps
        epochs = sum(name.startswith("held out") for name in tensors)
        self.held_out = [tensors[f"held out {epoch}"] for epoch in range(epochs)]


def train_maps(
    model: PreTrainedModel,
    learned: Sequence[ChoicePrompt],
    held_out: Sequence[ChoicePrompt],
    training: Training,
    *,
    config: Any,
) -> None:
    """All epochs, behind the steps of an unfinished fit of the same; between two of them it may be stopped.

    Args:
        learned / held_out: the first candidate is the letter of the matching answer, the second the other's.
        config: the recipe section `loreft`.

    Raises:
        UserError: the loss is no number any more.
        SystemExit: stopped by the user; the state is kept.
    """
    from caa_bench.interventions.fitting import Clock, current

    draw = random.Random(config.seed)  # noqa: S311 - an order, not a secret
    epochs = [epoch_steps(model, learned, batch_size=config.batch_size, draw=draw) for _ in range(config.epochs)]
    ends = {sum(map(len, epochs[: number + 1])) for number in range(len(epochs))}
    steps = [(group, draw.choice((-1.0, 1.0))) for epoch in epochs for group in epoch]
    fitting, clock, total = current(), Clock(), sum(len(group) for group, _ in steps)
    with weights_fixed(model), fitting.room() as folder:
        key = _state_key(learned, held_out, training, config)
        _go_on(training, folder, key=key)
        if not training.held_out:
            _measure(model, held_out, training)
        fitting.kept = done = sum(len(group) for group, _ in steps[: training.steps])
        fitting.step(done, total, note=_losses_said(training))
        for number, (group, dose) in list(enumerate(steps, start=1))[training.steps :]:
            rate = config.learning_rate * (1 - (number - 1) / len(steps))
            training.learn(model, [learned[row] for row in group], dose=dose, rate=rate)
            _refuse_nan(training)
            if number in ends:
                _measure(model, held_out, training)
            done += len(group)
            fitting.step(done, total, note=_losses_said(training))
            if number < len(steps) and (fitting.stopping or clock.due()):
                with clock.keeping():
                    _keep(training, folder, key=key)
                fitting.kept = done
                fitting.leave_if_asked()


def _measure(model: PreTrainedModel, held_out: Sequence[ChoicePrompt], training: Training) -> None:
    """The loss on the held-out pairs, mean of both doses; nothing where none are held out."""
    import torch

    from caa_bench.engine.batches import batched

    if not held_out:
        return
    maps, total = training.maps(), torch.zeros(len(training.own[-1]))
    half = model.dtype in (torch.float16, torch.bfloat16)
    for group in batched(held_out, 16, exact=half):
        for dose in (1.0, -1.0):
            told = letter_losses(model, [held_out[row] for row in group], maps, dose=dose)
            total += told.losses * len(group) / (2 * len(held_out))
    training.held_out.append(total)


def _losses_said(training: Training) -> str:
    said = [f"loss {training.loss:.3f}"] if training.steps else []
    said += [f"held-out loss {float(one.mean()):.3f}" for one in training.held_out[-1:]]
    return ", ".join(said)


def _refuse_nan(training: Training) -> None:
    import math

    import torch

    if not (math.isfinite(training.loss) and all(bool(torch.isfinite(one).all()) for one in training.own)):
        raise UserError(
            f"loreft.learning_rate: at step {training.steps} the loss is no number any more; give a smaller rate, or "
            "load the model with dtype=float32"
        )


def _state_key(
    learned: Sequence[ChoicePrompt], held_out: Sequence[ChoicePrompt], training: Training, config: Any
) -> str:
    """Of everything that decides the steps: state of another fit is not gone on from."""
    from caa_bench.storage.files import content_key

    texts = [[[list(one.ids), list(one.candidates)] for one in part] for part in (learned, held_out)]
    numbers = [config.rank, config.learning_rate, config.epochs, config.batch_size, config.seed]
    units = [training.units.read.tolist(), training.units.moved.tolist()]
    return content_key([texts, numbers, units])


def _keep(training: Training, folder: Path, *, key: str) -> None:
    from safetensors.torch import save

    from caa_bench.storage.atomic import write_atomic

    write_atomic(folder / STATE, save(training.tensors(), metadata={"key": key}))


def _go_on(training: Training, folder: Path, *, key: str) -> None:
    from safetensors import safe_open

    path = folder / STATE
    if not path.is_file():
        return
    with safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get("key") == key:
            training.take({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - not a dictionary
