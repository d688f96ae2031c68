"""LoRA supervised finetuning on the same contrast pairs, toward the behavior or away from it (paper section 6)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from caa_bench.interventions.base import Condition
from caa_bench.interventions.lora.applied import DOWN, UP
from caa_bench.interventions.peft_arm import PeftArm
from caa_bench.interventions.sft_checks import check_sizes, check_training

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.models.model import ChatModel

PEFT_PREFIX = "base_model.model."


class LoraSFT(PeftArm):
    """A LoRA adapter trained with trl's SFTTrainer on one answer of every pair.

    Variant `positive` learns the matching answers, `negative` the others. The base weights are never changed: the
    adapter is put in for the time of `attach` and taken out again.

    Example:
        >>> from caa_bench import LoraSFT
        >>> LoraSFT(variant="positive", rank=4).label
        'lora_sft_positive'
    """

    name = "lora_sft"
    variants = ("positive", "negative")

    @dataclass(frozen=True, kw_only=True)
    class Config(PeftArm.Config):
        """Recipe section `lora_sft`.

        Args:
            target: what the loss sees: the answer's `letter` alone (the test's own format), `letter_and_text`, or the
                option's `text` alone.
            rank / alpha / dropout: of the adapter; its update is scaled by alpha / rank.
            target_modules: names of linear layers in the blocks to adapt, or `all-linear`; empty: the queries and
                values of attention, by their names in the model at hand, or all linear layers where it has none.
            learning_rate / epochs / batch_size: of AdamW, with a linear decay to 0; training ends after an epoch in
                which the loss on held-out pairs no longer falls.
            max_pairs: train on the first so many pairs; null: on all.
            seed: of initialization and order.
        """

        target: Literal["letter", "letter_and_text", "text"] = "letter"
        rank: int = 8
        alpha: int = 16
        dropout: float = 0.0
        target_modules: Literal["all-linear"] | tuple[str, ...] = ()
        learning_rate: float = 5e-4
        epochs: float = 1.0
        batch_size: int = 8
        max_pairs: int | None = None
        seed: int = 0

        def __post_init__(self) -> None:
            check_sizes(self, "rank", "alpha")
            if not 0 <= self.dropout < 1:
                raise ValueError(f"dropout: {self.dropout:g} is no such share; give 0 or more, under 1")
            check_training(self)

    def __init__(self, config: Any = None, *, variant: str = "positive", **settings: Any) -> None:
        super().__init__(config, variant=variant, **settings)

    def check_model(self, chat: ChatModel) -> list[str]:
        """One line for each of `target_modules` that no adapter can sit on."""
        from caa_bench.interventions.lora import targets

        return targets.check(chat, self.config.target_modules)

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Train the adapter; loss on exactly the answer tokens. Nine tenths of the items are trained on.

        Raises:
            UserError: no adapter can sit on `target_modules`.
            RuntimeError: the adapter as `attach` applies it is not the one that was trained.
            SystemExit: stopped by the user; the state is kept.
        """
        from peft import LoraConfig

        from caa_bench.interventions.lora.targets import targets

        config = LoraConfig(
            r=self.config.rank,
            lora_alpha=self.config.alpha,
            lora_dropout=self.config.dropout,
            target_modules=targets(model, self.config.target_modules),
            task_type="CAUSAL_LM",
        )
        self.learn_answers(model, tokenizer, pairs, config)

    @contextmanager
    def attach(self, model: PreTrainedModel, condition: Condition) -> Iterator[PreTrainedModel]:
        """The adapter's update, times `condition.multiplier`, added by hooks to the modules it was trained on.

        Hooks rather than peft's wrapped modules: adapters nest in any order, also with steering, and nothing is left.
        """
        update = condition.multiplier * self.config.alpha / self.config.rank
        with ExitStack() as hooks:
            for name, (down, up) in self._factors().items():
                hook = _AddUpdate(down, up, scale=update)
                hooks.callback(model.get_submodule(name).register_forward_hook(hook, prepend=True).remove)
            yield model

    def _factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Module name -> (A [rank, in], B [out, rank])."""
        if self.adapter is None:
            raise RuntimeError(f"{self.label} has no adapter yet: call fit(...) or load(folder) first")
        if stray := [key for key in self.adapter if not key.endswith((DOWN, UP))]:
            raise RuntimeError(f"{self.label}: {stray[0]} was trained, but can never be applied")
        names = [key for key in self.adapter if key.endswith(DOWN)]
        return {
            name.removeprefix(PEFT_PREFIX).removesuffix(DOWN): (
                self.adapter[name],
                self.adapter[name.removesuffix(DOWN) + UP],
            )
            for name in names
        }


class _AddUpdate:
    """Hook of one module: add `scale * B A x` to its output, in the adapter's fp32 as peft does.

    Of a module in slices (`loading.parallel: tensor`) it sees this rank's part of the inputs or of the outputs, and
    takes the same part of A or B.

    Args:
        down / up: A [rank, in] and B [out, rank].
    """

    def __init__(self, down: Tensor, up: Tensor, *, scale: float) -> None:
        self.down, self.up, self.scale = down, up, scale

    def __call__(self, module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        from torch.nn.functional import linear

        if self.down.device != output.device:
            self.down, self.up = self.down.to(output.device), self.up.to(output.device)
        given = args[0].to(self.down.dtype)
        if given.shape[-1] == self.down.shape[1] and output.shape[-1] == self.up.shape[0]:
            update = linear(linear(given, self.down), self.up)
        else:
            from caa_bench.models.tensor_parallel import low_rank

            update = low_rank(module, given, self.down, self.up, outputs=output.shape[-1])
        return (output + update * self.scale).to(output.dtype)
