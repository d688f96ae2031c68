"""The section about the chat template: what it puts into every prompt that nobody asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.models.template_notes import TemplateNotes
from caa_bench.report.sections import Column, Section, Table
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.report.model import Report


class PromptAsRendered(Section):
    """The prompt of the base `none` as the template writes it, and what of it is the template's own."""

    name = "prompt"
    title = "What the template adds"
    order = 195
    note = "How the chat template asks the model; all of it is part of the model's key."

    def tables(self, report: Report) -> Sequence[Table]:
        """A line for each thing a template may do by itself."""
        notes = notes_of(report.record.model_facts)
        if notes is None:
            return []
        place = "its own system turn" if notes.system_place == "system" else "in front of the user's words"
        lines = {
            "prompt without a system text": notes.plain,
            "system text that it says by itself": notes.default_system or "none",
            "place of a system text": place,
            "date that it was told": notes.clock or "it asks for none",
            "between prompt and answer": notes.header if notes.header.strip() else "nothing",
        }
        frame = pd.DataFrame({"part": lines.keys(), "text": map(_on_one_line, lines.values())})
        columns = (Column(name="part", label=""), Column(name="text", label="", wide=True))
        return [Table(frame=frame, columns=columns, where="detail")]

    def finding(self, report: Report) -> str:
        """What a reader should know of it before comparing system prompts."""
        notes = notes_of(report.record.model_facts)
        return "" if notes is None else " ".join(map(terminal_safe, notes.lines()))


def notes_of(model_facts: Mapping[str, Any]) -> TemplateNotes | None:
    """What the run recorded of the chat template; None for a run that recorded nothing."""
    recorded = model_facts.get("prompt")
    return TemplateNotes(**recorded) if recorded else None


def _on_one_line(text: str) -> str:
    """Line breaks stay visible, and nothing else that a terminal would act on."""
    return terminal_safe(text.replace("\n", "\\n"))
