"""Any method of peft by name (DoRA, IA3, VeRA, ...), trained as `lora_sft` is: on one answer of every pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from caa_bench.interventions.peft_arm import PeftArm
from caa_bench.interventions.sft_checks import check_sizes, check_training

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.models.model import ChatModel

Method = Literal["dora", "rslora", "ia3", "vera", "loha", "lokr", "oft", "hra"]


class PeftTuned(PeftArm):
    """One of peft's methods that change linear modules, trained with trl's SFTTrainer on the answer tokens alone.

    Variant `positive` learns the matching answers, `negative` the others. `dora` splits each weight into its norms and
    directions and learns a LoRA of the directions (arXiv 2402.09353); `rslora` scales by 1 / sqrt(rank) (2312.03732);
    `ia3` multiplies keys, values and the MLP's inside (2205.05638); `vera` scales fixed random factors (2310.11454);
    `loha` and `lokr` build the update from Hadamard and Kronecker products (2108.06098, 2212.10650); `oft` and `hra`
    turn and reflect (2306.07280, 2405.17484). The dose m moves each module's output to y + m (y' - y). Of those
    that add virtual tokens, prompt tuning is `soft_prompt`; prefix tuning and p-tuning are not here (docs/methods.md).
    """

    name = "peft"
    variants = ("positive", "negative")

    @dataclass(frozen=True, kw_only=True)
    class Config(PeftArm.Config):
        """Recipe section `peft`.

        Args:
            method: peft's.
            target: what the loss sees, as for `lora_sft`.
            rank: where the method has one; block size of `oft`, reflections of `hra`.
            target_modules: as for `lora_sft`.
            learning_rate / epochs / batch_size / max_pairs / seed: as for `lora_sft`; methods with few numbers want a
                higher rate.
        """

        method: Method = "dora"
        target: Literal["letter", "letter_and_text", "text"] = "letter"
        rank: int = 8
        target_modules: Literal["all-linear"] | tuple[str, ...] = ()
        learning_rate: float = 1e-3
        epochs: float = 1.0
        batch_size: int = 8
        max_pairs: int | None = None
        seed: int = 0

        def __post_init__(self) -> None:
            check_sizes(self, "rank")
            check_training(self)

    def __init__(self, config: Any = None, *, variant: str = "positive", **settings: Any) -> None:
        super().__init__(config, variant=variant, **settings)

    def check_model(self, chat: ChatModel) -> list[str]:
        """One line for each of `target_modules` that no adapter can sit on."""
        from caa_bench.interventions.lora import targets

        return targets.check(chat, self.config.target_modules, section=self.name)

    def check_slices(self) -> list[str]:
        """A method that is no LoRA in the end."""
        from caa_bench.interventions.lora.wrappers import not_in_slices

        why = "" if self.config.method == "rslora" else not_in_slices({"peft_type": self.config.method.upper()})
        return [f"peft.method: {why}"] if why else []

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Train the adapter; nine tenths of the items are trained on.

        Raises:
            UserError: no adapter can sit on `target_modules`.
            RuntimeError: the adapter as `attach` applies it is not the one that was trained.
            SystemExit: stopped by the user; the state is kept.
        """
        self.learn_answers(model, tokenizer, pairs, self._peft_config(model))

    def _peft_config(self, model: PreTrainedModel) -> Any:
        import peft

        from caa_bench.interventions.lora.targets import targets

        on = targets(model, self.config.target_modules, section=self.name)
        shared: dict[str, Any] = {"target_modules": on, "task_type": "CAUSAL_LM"}
        rank, method = self.config.rank, self.config.method
        if method in ("dora", "rslora"):
            scaled = {"use_dora": True} if method == "dora" else {"use_rslora": True}
            return peft.LoraConfig(r=rank, lora_alpha=2 * rank, **scaled, **shared)
        if method == "ia3":
            inside = [name for name in on if name.rsplit(".", 1)[-1] in ("down_proj", "fc2", "c_proj", "dense_4h_to_h")]
            return peft.IA3Config(feedforward_modules=inside, **shared)
        if method == "oft":
            return peft.OFTConfig(oft_block_size=rank, **shared)
        if method == "hra":
            return peft.HRAConfig(r=rank, **shared)
        kinds = {"vera": peft.VeraConfig, "loha": peft.LoHaConfig, "lokr": peft.LoKrConfig}
        return kinds[method](r=rank, **shared)
