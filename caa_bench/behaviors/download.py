"""`caa-bench data download`: the published splits, MMLU, TruthfulQA and the paper's system prompts, into a user cache.

From a public repository at pinned commits, every file checked against configs/data/caa.json; or from a folder, for
machines without network. Finished files are never fetched again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from caa_bench.behaviors.data_fetch import Pinned, fetch
from caa_bench.behaviors.paper_prompts import PROMPTS_FILE, SOURCE_FILE, write_prompts
from caa_bench.errors import UserError
from caa_bench.storage.atomic import unwritable, write_atomic
from caa_bench.storage.files import lock_folder, read_json
from caa_bench.storage.paths import cache_folder as cache_folder
from caa_bench.storage.paths import configs_folder

BASE_URL = "https://raw.githubusercontent.com"
TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """What a download left behind.

    Args:
        folder: what `data_dir=` may name: generate/<behavior>/..., test/<behavior>/..., system_prompts.json.
        files: number of files that are there and checked.
        new: how many of them this call brought.
        notes: lines for the user: what could not be had.
    """

    folder: Path
    files: int
    new: int
    notes: tuple[str, ...]


def download(
    *,
    behaviors: Sequence[str] | None = None,
    source: Path | None = None,
    cache: Path | None = None,
    base_url: str = BASE_URL,
    timeout_s: float = TIMEOUT_S,
    say: Callable[[str], None] | None = None,
) -> Downloaded:
    """Bring the published data into the cache.

    Args:
        behaviors: which ones, also `mmlu` and `truthfulqa`; None: everything.
        source: take the files from this folder (a download, or a checkout of the paper's repository), not from the net.
        cache: the cache; None: `cache_folder()`.
        base_url: the server, for a mirror.
        timeout_s: longest silence of the server that is waited for.
        say: called with a line for each new file.

    Raises:
        UserError: unknown behavior, no network, a file that is not the pinned one; what is finished is kept.
    """
    table = _pinned_table()
    wanted, prompts = _wanted(table, behaviors), _pinned_prompts(table)
    folder = data_folder(cache)
    if not base_url.startswith(("http://", "https://")):
        raise UserError(f"base_url: {base_url!r} is not an http(s) address; write one as in {BASE_URL}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock_folder(folder):
            if source is None:
                server = base_url.rstrip("/")
                new = 0
                for files, roots in ((wanted, table["roots"]), ([prompts], [table["system_prompts"]["root"]])):
                    places = [f"{server}/{root}" for root in roots]
                    new += _fetch_all(files, folder, places, timeout_s=timeout_s, say=say)
            else:
                new = _copy_all(wanted, folder, source, say=say) + _copy_prompts(prompts, folder, source, say=say)
            with_prompts = prompts.matches(folder / SOURCE_FILE)
            if with_prompts and (new or not (folder / PROMPTS_FILE).is_file()):
                write_prompts(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    missing = f"{source}: no {SOURCE_FILE} with the paper's system prompts; put it there, and run the command again"
    notes = () if with_prompts else (missing,)
    return Downloaded(folder=folder, files=len(wanted) + int(with_prompts), new=new, notes=notes)


def data_folder(cache: Path | None = None) -> Path:
    """Where the published data of the pinned commit are or will be; another commit has another folder."""
    return (cache or cache_folder()) / "data" / f"caa-{_pinned_table()['version']}"


def _pinned_table() -> dict[str, Any]:
    content: dict[str, Any] = read_json(configs_folder() / "data" / "caa.json")
    return content


def _pinned_prompts(table: dict[str, Any]) -> Pinned:
    prompts = table["system_prompts"]
    return Pinned(name=prompts["name"], sha256=prompts["sha256"], bytes=prompts["bytes"])


def _wanted(table: dict[str, Any], behaviors: Sequence[str] | None) -> list[Pinned]:
    """The files of the named behaviors; a path is <generate or test>/<behavior>/<file>."""
    names = sorted({path.split("/")[1] for path in table["files"]})
    mistakes = []
    for unknown in (name for name in behaviors or () if name not in names):
        close = get_close_matches(unknown, names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        mistakes.append(f"behavior: nothing is published for {unknown!r}; {hint}valid: {', '.join(names)}")
    if mistakes:
        raise UserError(*mistakes)
    return [
        Pinned(name=path, sha256=file["sha256"], bytes=file["bytes"])
        for path, file in table["files"].items()
        if behaviors is None or path.split("/")[1] in behaviors
    ]


def _missing_files(wanted: Iterable[Pinned], folder: Path) -> list[Pinned]:
    return [pinned for pinned in wanted if not pinned.matches(folder / pinned.name)]


def _fetch_all(
    wanted: Iterable[Pinned], folder: Path, roots: Sequence[str], *, timeout_s: float, say: Callable[[str], None] | None
) -> int:
    missing = _missing_files(wanted, folder)
    for pinned in missing:
        path = folder / pinned.name
        path.parent.mkdir(parents=True, exist_ok=True)
        fetch([f"{root}/{pinned.name}" for root in roots], path, pinned, timeout_s=timeout_s)
        _report(pinned, say)
    return len(missing)


def _copy_all(wanted: Iterable[Pinned], folder: Path, source: Path, *, say: Callable[[str], None] | None) -> int:
    """Copy what is missing; every file that is not the pinned one is named, and nothing is copied then."""
    places = [source, source / "datasets", source / "Datasets"]
    root = next((place for place in places if (place / "test").is_dir()), None)
    if root is None:
        raise UserError(f"{source}: no folder test in it; give the folder that holds generate/ and test/")
    missing = _missing_files(wanted, folder)
    wrong = [root / pinned.name for pinned in missing if not pinned.matches(root / pinned.name)]
    if wrong:
        raise UserError(
            *(f"{path}: missing, or not the pinned file (its sha256 differs); fetch it again" for path in wrong)
        )
    for pinned in missing:
        _copy(root / pinned.name, folder / pinned.name)
        _report(pinned, say)
    return len(missing)


def _copy_prompts(pinned: Pinned, folder: Path, source: Path, *, say: Callable[[str], None] | None) -> int:
    if not _missing_files([pinned], folder):
        return 0
    for place in (source / SOURCE_FILE, source.parent / SOURCE_FILE):
        if pinned.matches(place):
            _copy(place, folder / SOURCE_FILE)
            _report(pinned, say)
            return 1
    return 0


def _copy(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, source.read_bytes())


def _report(pinned: Pinned, say: Callable[[str], None] | None) -> None:
    if say is not None:
        say(f"{pinned.name}: {pinned.bytes:,} bytes, sha256 as pinned")
