"""report.html as a test reads it: every keyed number, and the text that is left."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

PLACES = (
    "data-cell",
    "data-line",
    "data-metric",
    "data-curve",
    "data-item",
    "data-artifact",
    "data-vector",
    "data-fit",
    "data-matched",
    "data-loss",
)
EMPTY = {"meta", "br", "wbr", "img", "link", "input", "hr"}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One number of the page.

    Args:
        text: as shown.
        value: the exact value beside it; None for n/a.
        column: its column.
        keys: place (`cell`, `line`, `metric`, `curve`, `item`, `artifact`, `vector`, `matched`, `loss`) -> key, the
            nearest of each kind around it.
    """

    text: str
    value: float | None
    column: str
    keys: dict[str, str]


@dataclass
class _Open:
    tag: str
    attributes: dict[str, str]
    text: list[str] = field(default_factory=list)


class PageReader(HTMLParser):
    """Reads a page.

    Attributes:
        shown: every element with a column.
        loose: text outside of those elements, style, script and timings, by the id of the section around it.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.shown: list[Shown] = []
        self.loose: dict[str, str] = {}
        self._open: list[_Open] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Tags that are never closed are skipped."""
        if tag not in EMPTY:
            self._open.append(_Open(tag, {name: value or "" for name, value in attrs}))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """SVG's lines: no text, no number."""

    def handle_data(self, data: str) -> None:
        """Text belongs to the innermost number, or to its section."""
        owner = next((one for one in reversed(self._open) if "data-column" in one.attributes), None)
        if owner is not None:
            owner.text.append(data)
        elif not any(one.tag in ("style", "script", "title") or "data-timing" in one.attributes for one in self._open):
            section = next((one.attributes["id"] for one in reversed(self._open) if "id" in one.attributes), "")
            self.loose[section] = self.loose.get(section, "") + data

    def handle_endtag(self, tag: str) -> None:
        """A number ends: keep it with the keys around it."""
        ended = self._open.pop()
        assert ended.tag == tag, f"</{tag}> closes <{ended.tag}>"
        if "data-column" in ended.attributes:
            value = ended.attributes.get("value", ended.attributes.get("data-value"))
            self.shown.append(
                Shown(
                    text="".join(ended.text).strip(),
                    value=None if value is None else float(value),
                    column=ended.attributes["data-column"],
                    keys=self._keys(ended),
                )
            )

    def _keys(self, ended: _Open) -> dict[str, str]:
        found: dict[str, str] = {}
        for one in (ended, *reversed(self._open)):
            for place in PLACES:
                if place in one.attributes:
                    found.setdefault(place.removeprefix("data-"), one.attributes[place])
        return found
