"""Rotary embeddings that change with the length of a forward: where they do, and which prompts may stand together.

`longrope` (Phi-3) turns every position another way once ANY row of a batch is longer than the length it was first
trained on; `dynamic` goes on turning with each further token, and remembers the longest that it has seen. A short
prompt's logits would change beside a long one, and a prefix's keys with what follows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import nn

_BY_LENGTH = ("longrope", "dynamic")
SLACK = 2
"""Tokens that the engine may put behind a prompt: an answer's parenthesis and letter."""


class _Counted(Protocol):
    @property
    def ids(self) -> tuple[int, ...]: ...


def rope_limit(model: nn.Module) -> int | None:
    """The longest forward in which every position is turned as in a shorter one; None where that is always so."""
    from caa_bench.models.blocks import text_config

    config = text_config(model)
    settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    # some families have settings a kind of layer
    each = [one for one in settings.values() if isinstance(one, dict)] or [settings]
    limits = [_limit(one, config) for one in each if one.get("rope_type", one.get("type")) in _BY_LENGTH]
    return min((limit for limit in limits if limit is not None), default=None)


def beyond_rope(model: nn.Module, prompts: Iterable[_Counted], *, more: int = SLACK) -> bool:
    """Whether one of the prompts with `more` tokens is longer than the limit: then no prefix may be shared."""
    limit = rope_limit(model)
    return limit is not None and any(len(prompt.ids) + more > limit for prompt in prompts)


def rope_apart(
    model: nn.Module, prompts: Sequence[_Counted], groups: Iterable[list[int]], *, more: int = SLACK
) -> Iterator[list[int]]:
    """The same groups, but beyond the limit only prompts of one length together, each group as if it were the first.

    Where padding is not silent (`may_pad`), a group is of one length whatever the limit.

    Args:
        groups: indices of the prompts of each batch.
        more: tokens that may come behind a prompt.
    """
    from caa_bench.models.padding import may_pad

    limit = rope_limit(model)
    for group in groups:
        lengths = {row: len(prompts[row].ids) for row in group}
        if len(set(lengths.values())) > 1 and not may_pad(model):
            within = []
        elif limit is None:
            yield group
            continue
        else:
            within = [row for row in group if lengths[row] + more <= limit]
        if within:
            forget_lengths(model)
            yield within
        for length in sorted({lengths[row] for row in group if row not in within}):
            forget_lengths(model)
            yield [row for row in group if lengths[row] == length]


def forget_lengths(model: nn.Module) -> None:
    """Let `dynamic` embeddings forget the longest sequence that they have seen, and turn as at first."""
    for module in model.modules():
        first: Any = getattr(module, "original_max_seq_len", None)
        if first is None:
            continue
        for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
            setattr(module, name, first)
        for name, turning in [*vars(module).items(), *module.named_buffers(recurse=False)]:
            if name.endswith("original_inv_freq"):
                module.register_buffer(name.replace("original_", ""), turning.clone(), persistent=False)


def _limit(settings: dict[str, Any], config: Any) -> int | None:
    places = (
        settings.get("original_max_position_embeddings"),
        getattr(config, "original_max_position_embeddings", None),
    )
    found = next((value for value in places if value), getattr(config, "max_position_embeddings", None))
    return None if found is None else int(found)
