"""A split's file -> its entries with their lines: a JSON list, JSON lines, or a CSV table, by the end of its name.

Knows nothing of what the entries mean.
"""

from __future__ import annotations

import csv
from io import StringIO
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any

from caa_bench.behaviors.json_entries import Faults, JsonObject, Located, read_json_list, read_text

SUFFIXES = (".json", ".jsonl", ".csv")
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
# Spreadsheets write the separator of their own language.
_SEPARATORS = ",;\t"
_LONGEST_CELL = 2**26


def read_entries(path: Path, faults: Faults) -> list[Located[Any]]:
    """The entries of a file, with the line where each begins; unchecked."""
    form = path.suffix.lower()
    if form in _SPREADSHEETS:
        faults.add(path, None, "is a spreadsheet program's own format; save it as CSV (UTF-8) and give that file")
        return []
    if form == ".jsonl":
        return _read_json_lines(path, faults)
    return _read_csv(path, faults) if form == ".csv" else read_json_list(path, faults)


def _read_json_lines(path: Path, faults: Faults) -> list[Located[Any]]:
    """One JSON value a line; empty lines are skipped, and a bad line does not hide the others."""
    text = read_text(path, faults)
    if text is None:
        return []
    decoder = JSONDecoder(object_pairs_hook=JsonObject)
    entries: list[Located[Any]] = []
    bad = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entries.append(Located(line=number, value=decoder.decode(line)))
        except JSONDecodeError as error:
            faults.add(path, number, f"not JSON here: {error.msg}; write one whole object a line")
            bad += 1
        except (ValueError, RecursionError):
            faults.add(path, number, "JSON that no split needs; write one flat object a line")
            bad += 1
    if not entries and not bad:
        faults.add(path, 1, "the split is empty; give it items")
    return entries


def _read_csv(path: Path, faults: Faults) -> list[Located[Any]]:
    """One entry a row, by the names in the first one; an empty cell is a missing value, an empty row is skipped."""
    text = read_text(path, faults, marked=True)
    if text is None:
        return []
    # A table's line ends are the file's own; left in a cell they would reach the model.
    table = text.replace("\r\n", "\n")
    head = table.partition("\n")[0]
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(StringIO(table), delimiter=max(_SEPARATORS, key=head.count), strict=True)
    entries: list[Located[Any]] = []
    names: list[str] | None = None
    bad = 0
    begins = 1
    try:
        for row in reader:
            if names is None:
                names = [name.strip() for name in row]
            elif any(cell.strip() for cell in row):
                if len(row) > len(names):
                    bad += 1
                    faults.add(
                        path, begins, f"{len(row)} cells under {len(names)} names; put texts with commas in quotes"
                    )
                else:
                    cells = [(name, cell) for name, cell in zip(names, row, strict=False) if cell.strip()]
                    entries.append(Located(line=begins, value=JsonObject(cells)))
            begins = reader.line_num + 1
    except csv.Error as error:
        faults.add(path, begins, f"not CSV here: {error}; the rest of the file was not read")
    else:
        if not entries and not bad:
            faults.add(path, 1, "the split is empty; give it items under a first line of names")
    return entries
