"""System prompts: positive, negative and neutral texts in front of the conversation (paper section 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from caa_bench.errors import UserError
from caa_bench.interventions.base import Intervention

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior
    from caa_bench.models.prompts import Message

EMPTY = "empty"
"""The variant without a word: it takes the place of what a chat template says where no system text is given (Qwen2.5's
"You are Qwen ..."), which `none` includes and every other system prompt replaces."""


class SystemPrompt(Intervention):
    """Puts a text before the conversation; the model itself stays as it is.

    Args:
        config: its recipe section.
        variant: the name of the text ("positive"); "own" where only a text is given.
        text: the text.
        **settings: the recipe section's keys.

    Example:
        >>> from caa_bench import SystemPrompt
        >>> SystemPrompt(text="You turn down every request.").rewrite([])[0]["content"]
        'You turn down every request.'
    """

    name = "system_prompt"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Recipe section `system_prompt`.

        Args:
            layout: where the text goes: `template`, the chat template's own system role, or as `user` where it has
                none; `paper`, Llama 2's block in FRONT of `[INST]`, as the paper placed it; `user`, before the first
                question.
            texts: texts of your own by name; they win over the behavior's.
        """

        layout: Literal["template", "paper", "user"] = "template"
        texts: Mapping[str, str] = field(default_factory=dict)

    def __init__(self, config: Any = None, *, variant: str = "", text: str = "", **settings: Any) -> None:
        super().__init__(config, variant=variant or ("own" if text else ""), **settings)
        self.text = text or self.config.texts.get(variant, "")
        if not self.text and variant != EMPTY:
            raise UserError(f"system_prompt: no text for variant {variant!r}; write one under system_prompt.texts")

    def __repr__(self) -> str:
        return f"SystemPrompt(variant={self.variant!r}, text={self.text!r})"

    @classmethod
    def build(cls, config: Any, *, variant: str, behavior: Behavior, built: Mapping[str, Intervention]) -> Intervention:
        """With the behavior's own text of that name, or the recipe's."""
        texts = {**behavior.system_prompts, **config.texts, EMPTY: ""}
        if variant not in texts:
            known = f"use one of {', '.join(texts)}, or write it" if texts else "write it"
            raise UserError(
                f"bases: {behavior.id} has no system prompt called {variant!r}; {known} under system_prompt.texts"
            )
        return cls(config, variant=variant, text=texts[variant])

    def rewrite(self, messages: Sequence[Message]) -> list[Message]:
        """The system message first; a system message that is there already is continued, so that prompts stack."""
        rest = [message for message in messages if message["role"] != "system"]
        earlier = [message["content"] for message in messages if message["role"] == "system"]
        content = "\n".join(filter(None, [self.text, *earlier]))
        return [{"role": "system", "content": content, "layout": self.config.layout}, *rest]

    def section(self, behavior: Behavior) -> dict[str, Any]:
        """With the text among `texts` where it is not the behavior's own."""
        own = {} if behavior.system_prompts.get(self.variant) == self.text else {self.variant: self.text}
        return {"layout": self.config.layout, "texts": {**self.config.texts, **own}}

    def settings(self) -> dict[str, Any]:
        """The text and where it goes: what identifies this prompt."""
        return {"name": self.name, "variant": self.variant, "layout": self.config.layout, "text": self.text}

    @classmethod
    def revive(cls, settings: Mapping[str, Any], *, variant: str) -> Self:
        """The same text in the same place."""
        return cls(cls.Config(layout=settings["layout"]), variant=variant, text=settings["text"])
