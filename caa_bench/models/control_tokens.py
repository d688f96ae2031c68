"""Control tokens inside what is said stay text: they are marked before the template runs, and split when encoded.

A question that holds `<|im_end|>` would otherwise end the user's turn, and what follows it would speak as the system.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from caa_bench.errors import UserError
from caa_bench.models.virtual_tokens import MARK

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GUARD = "\ufdd0"
"""Stands behind the first character of a control token that is text. A noncharacter of Unicode, which no text holds."""

_patterns: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, re.Pattern[str] | None]] = WeakKeyDictionary()


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts that the tokenizer turns into one control token wherever they stand, the longest first."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    found = {str(token) for token in tokenizer.all_special_tokens} | {str(one) for one in added if one.special}
    return sorted(filter(None, found), key=lambda token: (-len(token), token))


def guarded(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The text with GUARD inside each control token; the text itself where it holds none.

    Raises:
        UserError: it holds GUARD already, or the mark of virtual tokens.
    """
    if held := next((mark for mark in (GUARD, MARK) if mark in text), None):
        raise UserError(f"a text holds U+{ord(held):X}, which is no character: {text[:60]!r}; take it out")
    pattern = _pattern(tokenizer)
    return text if pattern is None else pattern.sub(lambda found: found[0][0] + GUARD + found[0][1:], text)


def split_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text with GUARD in it: control tokens are ids where they are bare, and text where guarded.

    Raises:
        UserError: the tokenizer cannot do that without changing the rest; names the text around the token.
    """
    bare = control_tokens(tokenizer)
    control = set(tokenizer.convert_tokens_to_ids(bare))
    ids = _in_pieces(tokenizer, text)
    # The trial: with a letter for each guarded token, pieces must give what the whole gives.
    harmless = re.sub(rf".{GUARD}", "x", text)
    same = _in_pieces(tokenizer, harmless) == list(tokenizer(harmless, add_special_tokens=False)["input_ids"])
    begun = sum(piece in bare for piece in _pieces(tokenizer, text))
    if not same or sum(token in control for token in ids) != begun:
        token = re.search(rf"\S{{0,20}}{GUARD}\S{{0,20}}", text)
        shown = token[0].replace(GUARD, "") if token else ""
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r}: it cannot read the control token in {shown!r} as text, so it would "
            "end or begin a turn; take it out of the item"
        )
    return ids


def _pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The text cut at its bare control tokens, these included."""
    pattern = _pattern(tokenizer)
    return [text] if pattern is None else [piece for piece in re.split(f"({pattern.pattern})", text) if piece]


def _in_pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    bare, ids = set(control_tokens(tokenizer)), []
    for piece in _pieces(tokenizer, text):
        if piece in bare:
            ids.append(int(tokenizer.convert_tokens_to_ids(piece)))
        else:
            plain = piece.replace(GUARD, "")
            ids += tokenizer(plain, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def _pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    """Any of the control tokens; remembered for as long as there are as many."""
    size = len(tokenizer)
    if (known := _patterns.get(tokenizer)) is None or known[0] != size:
        tokens = control_tokens(tokenizer)
        known = (size, re.compile("|".join(map(re.escape, tokens))) if tokens else None)
        _patterns[tokenizer] = known
    return known[1]
