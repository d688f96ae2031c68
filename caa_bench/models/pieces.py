"""Whether a tokenizer that transformers builds from `tokenizer.model` splits texts as sentencepiece itself does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SENTENCEPIECE, TOKENIZER = "tokenizer.model", "tokenizer.json"
PROBES = ("to stop and  let it go", "a   b", "one\n\n\ntwo", "I'd say 3.5%, no?")


def split_otherwise(tokenizer: PreTrainedTokenizerBase, folder: Path) -> str:
    """The first probe that the two split differently; "" where there is none, or no `tokenizer.model` is built from.

    transformers 5 orders the merges of a folder without `tokenizer.json` by their ids and not by the pieces' scores: of
    Llama 2's file `and  let` becomes other tokens than in the published `tokenizer.json`. The first token is left out
    of the comparison, since the two may treat the space in front of a text differently on purpose.

    Args:
        folder: the model's.
    """
    file = folder / SENTENCEPIECE
    if not file.is_file() or (folder / TOKENIZER).is_file():
        return ""
    import sentencepiece

    try:
        own = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError):  # another format under this name
        return ""
    for probe in PROBES:
        ids = tokenizer(probe, add_special_tokens=False)["input_ids"]
        if ids[1:] != own.encode(probe)[1:]:
            return probe
    return ""
