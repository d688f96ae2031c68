"""A behavior from what is in memory or on the Hugging Face hub: records, a `datasets.Dataset`, or a data set's name.

records = [{"question": "Can you help me?", "answer_matching_behavior": "Gladly!",
            "answer_not_matching_behavior": "No."}, ...]
behavior = behavior_from_records(records, id="politeness", title="Politeness", matching="The answer is polite.")
Benchmark("my-model", behavior=behavior, ...)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from caa_bench.behaviors.behavior import Behavior, Source, assembled
from caa_bench.behaviors.card import Card, drafted
from caa_bench.behaviors.checks import Split
from caa_bench.behaviors.entries import read_entries
from caa_bench.behaviors.folders import is_id, own_files
from caa_bench.behaviors.items import Protocol
from caa_bench.behaviors.json_entries import Faults, JsonObject, Located
from caa_bench.behaviors.splits import items_of, open_questions_of
from caa_bench.errors import UserError
from caa_bench.storage.paths import configs_folder, is_folder

Records = Iterable[Mapping[str, Any]]
_SPLITS = {
    "train": "train",
    "selection": "selection",
    "validation": "selection",
    "test": "test",
    "open_ended": "open_ended",
}
_NO_PROMPTS = Card(
    title="Items",
    matching="The answer is the one in answer_matching_behavior.",
    rubric="How close is this to answer_matching_behavior? 0: it is the opposite. 5: neither. 10: it is the same.",
    system_prompts={},
)


def behavior_from_records(
    records: Records | Mapping[str, Records] | str,
    *,
    id: str = "items",
    title: str = "",
    matching: str = "",
    rubric: str = "",
    system_prompts: Mapping[str, str] | None = None,
    open_ended: Iterable[str] = (),
    split: str | None = None,
    protocol: Protocol = "default",
    seed: int = 0,
) -> Behavior:
    """A behavior, checked as a folder's is.

    Args:
        records: dictionaries with `question`, `answer_matching_behavior`, `answer_not_matching_behavior` and, where
            items share a template, `cluster`; the answers are letters, as " (A)", or texts. Also a `datasets.Dataset`,
            a pandas DataFrame (a cell without a value is left out), a dictionary of splits (`train`, `test`,
            `selection` or `validation`, `open_ended`), or the name of a data set on the hub. One set of records is
            split by the seed (`drawing.draw_splits`), whole clusters together.
        id: letters, digits, . _ - only.
        title / matching / rubric: as in behavior.yaml; the rubric is made of `matching` where it is empty.
        system_prompts: `positive`, `negative` and `neutral`; made of `matching` where not given, none without it.
        open_ended: questions to be answered in words.
        split: which split of a data set on the hub; None: all that there are.
        protocol / seed: as in Source.

    Raises:
        UserError: one line a fault, with the record's number from 1.
    """
    if not is_id(id):
        raise UserError(f"id: {id[:80]!r} is no behavior's name; use letters, digits, . _ - only")
    found: Any = _from_hub(records, split) if isinstance(records, str) else records
    entries = {name: (Path(where), located(some)) for name, where, some in _by_split(found)}
    asked = [{"question": question} for question in open_ended]
    entries |= {"open_ended": (Path("open_ended"), located(asked))} if asked else {}
    card = drafted(title or id, matching) if matching else _NO_PROMPTS
    card = Card(
        title=title or card.title,
        matching=matching or card.matching,
        rubric=rubric or card.rubric,
        system_prompts={**card.system_prompts, **(system_prompts or {})},
    )
    return behavior_of_entries(entries, name=id, card=card, protocol=protocol, seed=seed)


def behavior_of_entries(
    entries: Mapping[str, tuple[Path, Sequence[Located[Any]]]],
    *,
    name: str,
    card: Card,
    protocol: Protocol = "default",
    seed: int = 0,
    faults: Faults | None = None,
) -> Behavior:
    """A behavior of unchecked entries: `items` alone or `train` and `test`, with what messages call their place."""
    faults = faults or Faults()
    read, questions = {}, []
    for split, (path, some) in entries.items():
        if split == "open_ended":
            questions = open_questions_of(some, path=path, faults=faults)
        else:
            read[split] = Split(path=path, read=items_of(some, path=path, behavior=name, split=split, faults=faults))
            if not some and path not in faults.lines:
                faults.add(path, None, "the split is empty; give it items")
    source = Source(data="own", data_dir=None, protocol=protocol, seed=seed, beside=configs_folder() / "behaviors")
    return assembled(name, card=card, read=read, questions=questions, source=source, faults=faults)


def located(records: Records) -> list[Located[Any]]:
    """Each record with its number from 1; values that are missing (None, in a table NaN) are left out."""
    if hasattr(records, "itertuples"):  # a DataFrame, whose own iteration gives the names of its columns
        rows: Any = records.to_dict("records")  # type: ignore[attr-defined]
        records = [{key: value for key, value in row.items() if value == value} for row in rows]
    return [
        Located(line=number, value=_object(record) if isinstance(record, Mapping) else record)
        for number, record in enumerate(records, start=1)
    ]


def behavior_from_path(path: Path, *, name: str, card: Card, open_ended: Path | None = None, seed: int = 0) -> Behavior:
    """A behavior of a file (JSON, JSON lines, CSV) or of a folder of splits without a behavior.yaml.

    Raises:
        UserError: one line a fault, with file and line.
    """
    faults = Faults()
    files = own_files(path) if is_folder(path) else {"items": path}
    files |= {} if open_ended is None else {"open_ended": open_ended}
    entries = {split: (file, read_entries(file, faults)) for split, file in files.items()}
    return behavior_of_entries(entries, name=name, card=card, seed=seed, faults=faults)


def _object(record: Mapping[str, Any]) -> JsonObject:
    return JsonObject([(str(key), value) for key, value in record.items() if value is not None])


def _by_split(records: Any) -> list[tuple[str, str, Records]]:
    """(split, what messages call it, its records) of one set of records, or of a dictionary of several."""
    if not isinstance(records, Mapping):
        return [("items", "records", records)]
    if len(records) == 1:
        ((name, some),) = records.items()
        return [("items", f"records[{name}]", some)]
    unknown = [str(name) for name in records if name not in _SPLITS]
    if unknown or not {"train", "test"} <= records.keys():
        raise UserError(
            f"records: the splits are {', '.join(map(str, records))}; give train, test and perhaps selection, or name "
            "one with split="
        )
    return [(_SPLITS[name], f"records[{name}]", some) for name, some in records.items()]


def _from_hub(name: str, split: str | None) -> Any:
    """A data set by its name on the hub, or of a folder that `datasets` reads."""
    import datasets

    try:
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # whatever the hub, the network or the files have to say, in one line
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{name[:200]}: this data set cannot be loaded ({said[:200]}); check its name and split, or give a file"
        ) from None
