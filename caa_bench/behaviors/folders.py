"""Where a behavior's files are: built in, in a folder of the user's own, or in a folder of published data."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from caa_bench.behaviors.entries import SUFFIXES
from caa_bench.errors import UserError
from caa_bench.storage.paths import configs_folder, is_file, is_folder

Data = Literal["own", "caa"]
CARD = "behavior.yaml"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def behavior_names() -> list[str]:
    """The built-in behaviors: every folder in configs/behaviors with a behavior.yaml."""
    return sorted(path.parent.name for path in (configs_folder() / "behaviors").glob(f"*/{CARD}"))


def published_names(data_dir: str | Path | None) -> list[str]:
    """The built-in behaviors that the published data have splits of.

    Raises:
        UserError: the data are not there.
    """
    names = behavior_names()
    root = published_folder(None if data_dir is None else Path(data_dir), names[0])
    return [name for name in names if (root / "generate" / name).is_dir()]


def has_card(folder: Path) -> bool:
    """Whether `folder` is a behavior's folder; names that no system could open are none."""
    try:
        return (folder / CARD).is_file()
    except (OSError, ValueError):
        return False


def find_folder(name_or_path: str | Path) -> Path:
    """The folder of a built-in behavior, or the one at this path.

    Raises:
        UserError: neither is there, or the folder's name could not be part of a file's name.
    """
    names = behavior_names()
    if str(name_or_path) in names:
        return configs_folder() / "behaviors" / str(name_or_path)
    folder = Path(name_or_path)
    if has_card(folder):
        folder = folder.resolve()
        if not is_id(folder.name):
            raise UserError(f"{folder}: a behavior's folder is named with letters, digits, . _ - only; rename it")
        return folder
    if str(name_or_path) and (is_file(folder) or is_folder(folder)):
        raise UserError(
            f"behavior: {str(folder)[:200]!r} has no {CARD}; make a behavior of it with caa-bench behavior import "
            "PATH --as NAME, or give the path of a folder that has one"
        )
    near = _near_folder(folder)
    if len(folder.parts) > 1 or str(name_or_path).startswith("./"):
        hint = f"did you mean {near!r}?" if near else "give the path of a folder that has one"
        raise UserError(f"behavior: {str(name_or_path)[:200]!r} has no {CARD}; {hint}")
    close = [*get_close_matches(str(name_or_path), names, n=1), *filter(None, [near])]
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(
        f"behavior: there is no behavior {str(name_or_path)[:80]!r}; {hint}valid: {', '.join(names)}, "
        f"or the path of a folder with a {CARD}"
    )


def folders_in(place: Path) -> list[Path]:
    """The behavior folders that stand directly in a folder, by name; none where it cannot be read."""
    try:
        return sorted(path.parent for path in place.glob(f"*/{CARD}") if is_id(path.parent.name))
    except (OSError, ValueError):
        return []


def _near_folder(folder: Path) -> str:
    """The behavior folder beside a misspelt one as it would be typed; "" without one."""
    there = {path.name: path for path in folders_in(folder.parent)}
    close = get_close_matches(folder.name[:80], there, n=1)
    found = there[close[0]] if close else None
    return "" if found is None else str(found) if len(found.parts) > 1 else f"./{found}"


def is_id(name: str) -> bool:
    """Whether a behavior may have this id, which becomes part of file names and labels."""
    return _ID.fullmatch(name) is not None


def behavior_folder(name: str, *, beside: Path) -> str:
    """How a recipe names the behavior `name` in the folder `beside`: by the name alone where it is built in."""
    return name if beside == configs_folder() / "behaviors" else str(beside / name)


def split_files(folder: Path, *, data: Data, data_dir: Path | None) -> dict[str, Path]:
    """The file of each split there is to read."""
    if data == "own":
        if data_dir is not None:
            raise UserError("data_dir: it is only read with data=caa; set data=caa, or remove data_dir")
        return own_files(folder)
    root = published_folder(data_dir, folder.name)
    test = root / "test" / folder.name
    files = {
        "train": root / "generate" / folder.name / "generate_dataset.json",
        "test": test / "test_dataset_ab.json",
        "open_ended": test / "test_dataset_open_ended.json",
    }
    if not files["open_ended"].exists():
        del files["open_ended"]
    return files


def own_files(folder: Path) -> dict[str, Path]:
    """`<split>.json`, `.jsonl` or `.csv` each; `items` alone where one file is to be split into three.

    `train` and `test` are always there, so that a missing one is a fault with its name.
    """
    found: dict[str, Path] = {}
    for split in ("train", "selection", "test", "open_ended"):
        there = [path for suffix in SUFFIXES if os.path.lexists(path := folder / f"{split}{suffix}")]
        if len(there) > 1:
            raise UserError(f"{there[1]}: this split stands in {there[0].name} too; delete one of the two")
        if there:
            found[split] = there[0]
    opened = {"open_ended": found["open_ended"]} if "open_ended" in found else {}
    others = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES and path.stem != "open_ended"]
    if not found.keys() & {"selection", "test"} and len(others) == 1:
        return {"items": others[0], **opened}
    return {"train": folder / "train.json", "test": folder / "test.json"} | found


def published_folder(data_dir: Path | None, behavior: str) -> Path:
    """The folder of published data: `data_dir`, or what `caa-bench data download` left in the user's cache.

    Raises:
        UserError: it is not there, or it is not such a folder.
    """
    if data_dir is None:
        from caa_bench.behaviors.download import data_folder

        downloaded = data_folder()
        if not (downloaded / "generate" / behavior).is_dir():
            raise UserError(
                f"data: the published splits of {behavior} are not here yet; "
                "run caa-bench data download (4 MB), or set data_dir="
            )
        return downloaded
    if not (data_dir / "generate").is_dir():
        raise UserError(
            f"data_dir: {data_dir} has no folder generate; "
            "give the folder that holds generate/<behavior> and test/<behavior>"
        )
    return data_dir
