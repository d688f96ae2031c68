"""report.html as a test reads it: every table with the CSV that its numbers stand in, and the text that is left."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd

EMPTY = {"meta", "br", "wbr", "img", "link", "input", "hr"}
NUMBER = re.compile(r"([<>]?)([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*(%|kB|MB|B)?")
UNITS = {"%": 0.01, "kB": 1e3, "MB": 1e6, "B": 1.0, None: 1.0}


@dataclass
class PageTable:
    """One table.

    Attributes:
        section: id of the section around it.
        sources: of each column the CSV and column of its numbers, as `file.column`; "" for names.
        rows: key of each line and its texts.
    """

    section: str
    sources: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    rows: list[tuple[str, list[str]]] = field(default_factory=list)

    def column(self, source: str) -> dict[str, str]:
        """Text by key."""
        place = self.sources.index(source)
        return {key: texts[place] for key, texts in self.rows}


class PageReader(HTMLParser):
    """Reads a page.

    Attributes:
        tables: in the page's order.
        loose: all text outside of style, script, titles and timings, by the id of the section around it.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[PageTable] = []
        self.loose: dict[str, str] = {}
        self._open: list[tuple[str, dict[str, str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A table, a line or a cell begins."""
        own = {name: value or "" for name, value in attrs}
        if tag in EMPTY:
            return
        self._open.append((tag, own))
        if tag == "table":
            self.tables.append(PageTable(self._section()))
        elif tag == "tr" and self._within("tbody"):
            self.tables[-1].rows.append((own.get("data-key", ""), []))
        elif tag in ("th", "td") and self._within("tbody"):
            self.tables[-1].rows[-1][1].append("")
        elif tag == "th":
            self.tables[-1].sources.append(own.get("data-column", ""))
            self.tables[-1].heads.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """SVG's lines: no text, no number."""

    def handle_data(self, data: str) -> None:
        """Text belongs to the cell around it, and to its section."""
        if any(tag in ("style", "script", "title", "svg") or "data-timing" in own for tag, own in self._open):
            return
        if self._within("td") or (self._within("th") and self._within("tbody")):
            self.tables[-1].rows[-1][1][-1] += data.replace("−", "-")
        elif self._within("th") and self._within("thead"):
            self.tables[-1].heads[-1] += data
        self.loose[self._section()] = self.loose.get(self._section(), "") + data

    def handle_endtag(self, tag: str) -> None:
        """Every element ends where it should."""
        ended, _ = self._open.pop()
        assert ended == tag, f"</{tag}> closes <{ended}>"

    def _within(self, tag: str) -> bool:
        return any(tag == one for one, _ in self._open)

    def _section(self) -> str:
        return next((own["id"] for tag, own in reversed(self._open) if tag in ("section", "dl") and "id" in own), "")


def check_tables(folder: Path) -> Counter[str]:
    """Every number of every table of a run's page against the CSV beside it, with its interval.

    Returns:
        How many numbers of each `file.column` were compared.
    """
    read = PageReader((folder / "report.html").read_text())
    files = {path.stem: pd.read_csv(path, keep_default_na=False, na_values=[""]) for path in folder.glob("*.csv")}
    checked: Counter[str] = Counter()
    for table in read.tables:
        for place, source in enumerate(table.sources):
            file, _, column = source.partition(".")
            if not source or file == "rows":
                continue
            index = _keyed(files[file], KEYS.get(file, ["cell"]))
            for key, texts in table.rows:
                line = index[_key_in(key, file)]
                compare(texts[place], line, column, where=f"{table.section} {source} {key}")
                checked[source] += 1
    return checked


STACK = ["base", "base_dose", "vector", "vector_behavior", "vector_model", "vector_layer", "layer"]
KEYS = {
    "placebos": ["cell", "placebo"],
    "stacking": [*STACK, "multiplier"],
    "reliability": STACK,
    "items": ["item", *STACK],
    "metrics": ["cell", "task", "metric"],
    "vectors": ["vector", "vector_behavior", "vector_model", "layer"],
    "matched": ["base"],
    "equal_loss": ["arm", "budget"],
    "side_effects": ["cell", "measure"],
}


def compare(text: str, line: pd.Series, column: str, *, where: str) -> None:
    """A number as shown against its value and interval: equal to the digits shown, n/a where there is none."""
    value = float(line[column])
    if text == "" or text == "n/a":
        assert math.isnan(value) or text == "", where
        return
    last = text.rpartition("→")[2].strip()
    if last == "n/a":
        assert math.isnan(value), where
        return
    found = NUMBER.findall(last)
    ends = [float(line.get(f"{column}{end}", math.nan)) for end in ("_low", "_high")] if "[" in last else []
    assert len(found) >= 1 + len(ends), (where, text)
    for shown, wanted in zip(found, [value, *ends], strict=False):
        assert near(shown, wanted), (where, text, value, ends)


def near(shown: tuple[str, str, str], value: float) -> bool:
    """`.84` of .8412, `<.001` of .0002, `31%` of .308."""
    sign, digits, unit = shown
    scale, number = UNITS[unit or None], float(digits)
    if sign:
        return value < number if sign == "<" else value > number
    places = len(digits.partition("e")[0].partition(".")[2])
    exponent = int(digits.partition("e")[2] or 0)
    return abs(number * scale - value) <= 0.51 * 10.0 ** (exponent - places) * scale


def _keyed(table: pd.DataFrame, names: list[str]) -> dict[str, pd.Series]:
    return {"|".join(_part(line[name]) for name in names): line for _, line in table.iterrows()}


def _part(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:g}"
    return str(value)


def _key_in(key: str, file: str) -> str:
    """A shift stands under its cell, whatever else the key of its line holds."""
    return key.split("|")[0] if file in ("shifts", "cells", "arms", "costs", "fits") else key
