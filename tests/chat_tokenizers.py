"""Tokenizers for tests: the real Llama 2 one, and ChatML ones (Qwen, Llama 3 style) in which `(A` is one token.

Not named after the `tokenizers` library: pytest puts this folder in front of the import path.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LLAMA2 = Path(__file__).parents[2] / "shared" / "data" / "llama2-tokenizer" / "tokenizer.model"

# Meta's chat layout: the system text nested inside the first [INST], contents stripped, BOS in front of a user turn.
LLAMA2_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set content = system + m['content'] if loop.first else m['content'] %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
CHATML_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SYSTEM_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + CHATML_TEMPLATE
)
# The word pattern of Llama 3 and Qwen: one mark may join the letters behind it, which makes `(A` a word.
WORDS = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"""


def llama2_tokenizer(*, template: str | None = LLAMA2_TEMPLATE, prepend: bool = False) -> PreTrainedTokenizerBase:
    """The real Llama 2 tokenizer; skips the test where its file is absent.

    Args:
        template: the chat template, or None for a base model.
        prepend: as the published tokenizer.json has it (each text between special tokens gets a dummy space);
            transformers 5's own build puts one only at the very start.
    """
    if not LLAMA2.exists():
        pytest.skip(f"needs the Llama 2 tokenizer at {LLAMA2}")
    from tokenizers import normalizers

    tokenizer = _sentencepiece(prepend)
    if prepend:
        tokenizer.backend_tokenizer.pre_tokenizer = None
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    tokenizer.chat_template = template
    return tokenizer


@cache
def _sentencepiece(prepend: bool) -> PreTrainedTokenizerBase:
    from transformers import LlamaTokenizer

    del prepend  # only keeps the two builds apart
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(LLAMA2, folder)
        tokenizer = LlamaTokenizer.from_pretrained(folder)
    tokenizer._tokenizer = _merged_by_score(tokenizer.backend_tokenizer)
    tokenizer.name_or_path = "llama2"
    return tokenizer


def _merged_by_score(tokenizer: Any) -> Any:
    """With the merges in the order of the pieces' scores, as in the published tokenizer.json.

    transformers 5 builds them in the order of the ids, where two spaces come first: `and  let` is then `▁▁`, `let` and
    not `▁`, `▁let`, in 28 of the paper's 4,911 training items.
    """
    import json

    import sentencepiece
    from tokenizers import Tokenizer

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(LLAMA2))
    score = {pieces.id_to_piece(i): pieces.get_score(i) for i in range(len(pieces))}
    made = json.loads(tokenizer.to_str())
    made["model"]["merges"].sort(key=lambda pair: -score["".join(pair)])
    return Tokenizer.from_str(json.dumps(made))


def chatml_tokenizer(
    *, template: str | None = CHATML_TEMPLATE, joined: str = "ABCDEFGH", bos: bool = False
) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer with a ChatML template.

    Args:
        template: the chat template, or None.
        joined: the letters that are one token with the parenthesis before them.
        bos: give it a BOS token that it adds by itself, as Llama 3 does.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    words = [f"({letter})" for letter in joined] * 50 + [" the", " and", " answer", "assistant", "user", "system"] * 30
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), behavior="isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<|begin|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(words, trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", backend.token_to_id("<|begin|>"))]
        )
    named = {"eos_token": "<|im_end|>", "bos_token": "<|begin|>" if bos else None}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, name_or_path="chatml", **named)
    tokenizer.chat_template = ("<|begin|>" + template) if bos and template else template
    return tokenizer
