"""What a section of a report is, and which there are: a report goes in, tables and figures to show come out.

Every section is a class in a file of this folder; text, page, CSV, LaTeX and dashboards are all made from its tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from caa_bench.report import words
from caa_bench.storage.registry import Registry

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report.model import Report
    from caa_bench.storage.drawing import Drawing

Line = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table, and how it is shown.

    Args:
        name: the column of the frame and of the CSV.
        label: its head; that of `words.WORDS` where not given.
        definition: what it is, in a sentence; that of `words.WORDS` where not given.
        form: how a number is written; None for text.
        text: how it is written from the whole line, in place of `form`.
        interval: `name_low` and `name_high` stand beside it.
        blank: lines in which it does not apply, and nothing is shown. A number that is not known is n/a.
        file: the CSV that holds it, where that is not the table's own.
        behind: whose items it is of, where those are not its line's: another evaluator in the same condition, a column
            that names a cell, or a file.
        brief: also on the terminal, and in LaTeX; others are in table.txt and on the page.
        timing: depends on the clock: not in a CSV, marked on the page.
        wide: text that may break over lines.
    """

    name: str
    label: str = ""
    definition: str = ""
    form: words.Form | None = None
    text: Callable[[Line], str] | None = None
    interval: bool = False
    blank: Callable[[Line], bool] | None = None
    file: str = ""
    behind: str = ""
    brief: bool = True
    timing: bool = False
    wide: bool = False

    @property
    def head(self) -> str:
        """What stands above it."""
        return self.label or words.WORDS.get(self.name, (self.name.replace("_", " "),))[0]

    @property
    def meaning(self) -> str:
        """What it is, shown where the pointer rests on its head."""
        return self.definition or words.WORDS.get(self.name, ("", ""))[1]

    @property
    def is_number(self) -> bool:
        """Whether it holds numbers and not words."""
        return self.form is not None

    def shown(self, line: Line) -> str:
        """Its text in one line."""
        if self.blank is not None and self.blank(line):
            return ""
        if self.text is not None:
            return self.text(line)
        if self.form is None:
            return str(line[self.name])
        if self.interval:
            return words.interval(line, self.name, self.form)
        return self.form(float(line[self.name]))


BASE = Column(name="base", text=lambda line: words.named(line["base"], line["base_dose"]))
DOSE = Column(name="multiplier", label="dose", text=lambda line: words.multiplier(line["multiplier"]))
VECTOR = Column(name="vector")
LAYER = Column(name="layer", text=lambda line: words.count(line["layer"]) if line["layer"] == line["layer"] else "")
N = Column(name="n", form=words.count, definition="items behind the number")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Lines to show.

    Args:
        frame: the lines; may hold more columns than are shown.
        columns: in order; those before the first number name the line.
        caption: what the numbers are, in a sentence.
        file: the CSV that holds these lines; "" for none.
        source: the file that lines lead to which are of no cell, where that is another one.
        key: the columns that tell the lines of that CSV apart.
        across: on the terminal this column's values stand side by side, a table a number.
        across_name: the head of each such value.
        where: `always`; `detail`: on the page, and of texts in table.txt alone; `page`: on the page alone.
        folded: on the page it is opened by a click, and its columns sort.
        flag: the column that says what trips a gate in a line.
    """

    frame: pd.DataFrame
    columns: tuple[Column, ...]
    caption: str = ""
    file: str = ""
    source: str = ""
    key: tuple[str, ...] = ("cell",)
    across: str = ""
    across_name: Callable[[Any], str] = str
    where: str = "always"
    folded: bool = False
    flag: str = ""

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """The frame, line by line."""
        found: list[dict[str, Any]] = self.frame.to_dict("records")
        return found

    def key_of(self, line: Line) -> str:
        """What names a line: its key columns, `|` between them."""
        return "|".join(_key_part(line[name]) for name in self.key)


class Section:
    """One topic of a report.

    Attributes:
        name: its id on the page, and the name of its own CSV.
        title: its heading.
        order: its place; lower comes first.
        needs: names of tables of the report without whose lines it has nothing to show.
        note: what holds for all of its tables.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    order: ClassVar[int] = 0
    needs: ClassVar[tuple[str, ...]] = ()
    note: ClassVar[str] = ""

    def heading(self, report: Report) -> str:
        """The heading in this report."""
        return self.title

    def tables(self, report: Report) -> Sequence[Table]:
        """What it shows; nothing where it does not apply."""
        raise NotImplementedError

    def figures(self, report: Report) -> Sequence[Drawing]:
        """Figures, drawn with matplotlib; on the page, and in `figures/`."""
        return ()

    def finding(self, report: Report) -> str:
        """What the numbers come to, in one line; "" where nothing can be said."""
        return ""

    def summary(self, report: Report) -> str:
        """What stands beside its heading on the page, where its tables are folded."""
        return self.finding(report)

    def data(self, report: Report) -> str:
        """JSON that the page's script reads, with no `<` in it; "" for none."""
        return ""

    def steps(self, report: Report) -> tuple[str, str]:
        """What to do next, and the command; both "" where there is none."""
        return "", ""

    def files(self, report: Report) -> dict[str, pd.DataFrame]:
        """The CSV files that it writes, by name: its tables that are in no other section's file."""
        timings = {column.name for table in self.tables_of(report) for column in table.columns if column.timing}
        own = [table.frame for table in self.tables_of(report) if table.file == self.name]
        return {self.name: own[0].drop(columns=list(timings & set(own[0])))} if own else {}

    def tables_of(self, report: Report) -> list[Table]:
        """Its tables that have lines, where all that it needs is there; made once a report."""
        return report.once(("tables", type(self)), lambda: self._filled(report))

    def _filled(self, report: Report) -> list[Table]:
        needed = [getattr(report, name) for name in self.needs]
        if any(part is None or (hasattr(part, "empty") and part.empty) for part in needed):
            return []
        return [table for table in self.tables(report) if len(table.frame)]


registry: Registry[Section] = Registry(Section, kind="sections", package=__name__)
"""Every section by its `name`."""


def sections() -> list[Section]:
    """Every section that there is, in the order of a report."""
    found = [cls() for cls in registry().values()]
    return sorted(found, key=lambda section: (section.order, section.name))


def files(report: Report) -> dict[str, pd.DataFrame]:
    """Every CSV of a report, by name without its ending."""
    return {name: table for section in sections() for name, table in section.files(report).items()}


def _key_part(value: Any) -> str:
    """As the CSV has it: a missing value is empty."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:g}"
    return str(value)


def across(report: Report) -> dict[str, Any]:
    """A table that the terminal shows with the doses side by side."""
    vector = report.headline.vector
    return {"across": "multiplier", "across_name": lambda dose: words.on_top(vector, dose)}


def levels(line: Line) -> str:
    """`.43 -> .86`: p(matching) before and with an arm; the level alone where there is nothing before."""
    after = words.probability(line["p_balanced"])
    return after if math.isnan(line["p_before"]) else f"{words.probability(line['p_before'])} -> {after}"
