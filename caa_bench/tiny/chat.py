"""The chat layout of the embedded model: Llama 2's own, as strings and as a chat template.

A prompt ends ` [/INST]`; an answer starts with one space, so ` (A)` is the tokens ` (`, `A`, `)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
Layout = Literal["nested", "before"]

# Meta's layout: the system text stands inside the first [INST].
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] | trim + '\n<</SYS>>\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}"
    "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'] | trim + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] | trim + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('roles must be system (first only), user and assistant') }}{% endif %}"
    "{% endfor %}"
)


def prompt_text(
    question: str,
    *,
    system: str | None = None,
    layout: Layout = "nested",
    history: Sequence[tuple[str, str]] = (),
) -> str:
    """The text of a conversation up to and including ` [/INST]`.

    Args:
        question: the last user turn.
        system: system prompt, or None.
        layout: `nested`, Meta's own (inside the first [INST]), or `before`, the paper's (before it).
        history: earlier (user, assistant) turns.
    """
    block = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    before, inside = (block, "") if layout == "before" else ("", block)
    text = ""
    for i, (user, assistant) in enumerate([*history, (question, "")]):
        text += BOS + (f"{before}[INST] {inside}" if i == 0 else "[INST] ") + f"{user} [/INST]"
        text += f" {assistant} {EOS}" if assistant else ""
    return text
