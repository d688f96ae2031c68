"""What was loaded is what was asked for: every weight from the checkpoint, a causal model, an embedding for each token.

transformers fills whatever a checkpoint lacks with random values and says so in a log line. Such a model runs to a full
report, whose numbers differ from process to process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What a text model may leave aside: rotary caches and masks that are computed, and the parts of a model that also sees,
# hears, or predicts several tokens at once.
_ASIDE = re.compile(
    r"rotary_emb|inv_freq|masked_bias|attn\.bias$|attention\.bias$|position_ids$"
    r"|^(?:model\.|thinker\.)?(?:vision|visual|audio|multi_modal|multimodal|mm_|mtp|talker|token2wav|embed_(?:vision|audio))"
)
_SHOWN = 3
_WRAPPERS = ("_orig_mod.", "module.", "base_model.model.")
_TRIAL_TOKENS = 8
_CHUNKED = ("reformer",)


def refuse_other_weights(source: str, info: Mapping[str, Any]) -> None:
    """Refuse a model that holds anything that the checkpoint does not, or lacks what it has.

    Args:
        info: what transformers says of the loading (`output_loading_info`); tied weights are not among the missing.

    Raises:
        UserError: keys missing, of another shape, left over, or in error; names the first few.
    """
    missing = sorted(key for key in info["missing_keys"] if not _ASIDE.search(key))
    surplus = sorted(key for key in info["unexpected_keys"] if not _ASIDE.search(key))
    wrapped = next((start for start in _WRAPPERS if any(key.startswith(start) for key in surplus)), None)
    if wrapped:
        raise UserError(
            f"model: the weights of {source!r} have names that begin with {wrapped!r} ({surplus[0]} ...), so that none "
            "would be used; save the model inside its wrapper again with save_pretrained"
        )
    if info["mismatched_keys"]:
        name, stored, made = sorted(info["mismatched_keys"])[0]
        raise UserError(
            f"model: {source!r}: {name} is {list(stored)} in the weights and {list(made)} by config.json; give the "
            "config.json that belongs to these weights"
        )
    if missing:
        raise UserError(
            f"model: the weights of {source!r} lack {_names(missing)}, which would be random; {_advice(missing)}"
        )
    if surplus:
        raise UserError(
            f"model: the weights of {source!r} hold {_names(surplus)}, which this model has no place for; give the "
            "config.json that belongs to these weights, or a model for text generation"
        )
    if errors := list(info.get("error_msgs") or []):
        raise UserError(
            f"model: transformers cannot load {source!r} ({str(errors[0]).splitlines()[0]}); download it again"
        )


def refuse_untried(source: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """The three trials of a model and its tokenizer: tokens, causality, positions.

    Raises:
        UserError: see each of them.
    """
    refuse_unknown_tokens(source, tokenizer, rows=model.get_input_embeddings().num_embeddings)
    refuse_looking_ahead(source, model)
    refuse_other_positions(source, model)


def refuse_unknown_tokens(source: str, tokenizer: PreTrainedTokenizerBase, *, rows: int) -> None:
    """Refuse a tokenizer with tokens that the embedding has no row for.

    Control tokens that no prompt of text holds may lie beyond it (Gemma 3's text models keep the one for images).

    Args:
        rows: how many tokens the embedding knows.

    Raises:
        UserError: a token of text, or of the chat template, is beyond it.
    """
    from caa_bench.models.control_tokens import control_tokens
    from caa_bench.models.turns import PROBE_ANSWERS, PROBE_QUESTION

    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
    if not beyond:
        return
    control = set(control_tokens(tokenizer))
    text = [token for token in beyond if token not in control]
    if not text and tokenizer.chat_template is not None:
        from caa_bench.models.prompts import answered_prompt

        asked = [{"role": "user", "content": PROBE_QUESTION}]
        used = set(answered_prompt(tokenizer, asked, PROBE_ANSWERS[0]).ids)
        text = [token for token, number in beyond.items() if number in used]
    if text:
        raise UserError(
            f"model: the tokenizer of {source!r} has {max(beyond.values()) + 1:,} tokens and its embedding {rows:,} "
            f"({min(text, key=lambda token: beyond[token])!r} is beyond it); give the model's own tokenizer"
        )


def refuse_looking_ahead(source: str, model: PreTrainedModel) -> None:
    """Try once that the model is causal: another last token must leave the logits before it as they were.

    Raises:
        UserError: it looks ahead (an encoder), so that nothing of this benchmark means anything on it, or its numbers
            do not fit into float16.
    """
    import torch

    from caa_bench.models.blocks import frozen, input_device, text_config

    vocab = int(text_config(model).vocab_size)
    ids = (torch.arange(2 * _TRIAL_TOKENS).reshape(2, -1) % _TRIAL_TOKENS + 3) % vocab
    ids[1, -1] = (int(ids[0, -1]) + 1) % vocab
    with frozen(model):
        output = model(input_ids=ids.to(input_device(model)), use_cache=False)
    if model.dtype == torch.float16 and not bool(torch.isfinite(output.logits).all()):
        raise UserError(
            f"model: {source!r} gives no numbers in float16, whose range its activations leave; set "
            "loading.dtype=bfloat16"
        )
    logits = output.logits[:, :-1].float()
    apart, spread = float((logits[0] - logits[1]).abs().max()), float(logits.std())
    allowed = _allowed(model) * spread + 1e-6
    # a logit that is not finite is found where it is measured; here it would say nothing
    if bool(torch.isfinite(logits).all()) and apart > allowed:
        raise UserError(
            f"model: {source!r} ({type(model).__name__}) lets earlier tokens see later ones: it is an encoder, and "
            "cannot answer token by token; give a model for text generation"
        )


def refuse_other_positions(source: str, model: PreTrainedModel) -> None:
    """Try once that positions count from 0: the engine gives them, since a padded prompt begins later.

    Raises:
        UserError: by itself the model gives other logits than with positions from 0 (RoBERTa counts from 2), or it
            pads prompts by itself (Reformer).
    """
    import torch

    from caa_bench.models.blocks import frozen, input_device, text_config

    if model.config.model_type in _CHUNKED:
        raise UserError(
            f"model: {source!r} ({type(model).__name__}) pads prompts to chunks by itself, so that nothing says where "
            "one begins; give a model without chunks"
        )
    ids = torch.arange(_TRIAL_TOKENS, device=input_device(model))[None] % int(text_config(model).vocab_size)
    places = torch.arange(_TRIAL_TOKENS, device=ids.device)[None]
    with frozen(model):
        alone = model(input_ids=ids, use_cache=False).logits.float()
        given = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=places, use_cache=False
        ).logits.float()
    apart, spread = float((alone - given).abs().mean()), float(alone.std())
    if apart > _allowed(model) * spread + 1e-6:
        raise UserError(
            f"model: {source!r} ({type(model).__name__}) counts a prompt's positions in its own way, so that prompts "
            "of several lengths cannot stand together; give a model whose positions count from 0"
        )


def _allowed(model: PreTrainedModel) -> float:
    """How far logits may be apart, as a share of their spread."""
    import torch

    precise = next(one.dtype for one in model.parameters() if one.is_floating_point()) == torch.float32
    return 1e-3 if precise and not getattr(model, "is_quantized", False) else 0.05


def _names(keys: Iterable[str]) -> str:
    listed = list(keys)
    more = f" and {len(listed) - _SHOWN:,} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def _advice(missing: list[str]) -> str:
    if all("head" in key or "embed_out" in key for key in missing):
        return "it has no head that says words; give a model for text generation"
    return "download the model again, or save all of it with save_pretrained"
