"""One run's folder: locked while open, bound to one recipe, with a manifest that says what made its numbers."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

from caa_bench.errors import UserError
from caa_bench.runs.rows import FIELDS as FIELDS
from caa_bench.runs.rows import RowStore as RowStore
from caa_bench.storage.atomic import remove_temporary, unwritable
from caa_bench.storage.files import content_key, lock_folder, read_json, write_json
from caa_bench.storage.safe_text import terminal_safe

Status = Literal["started", "success", "cancelled", "error"]

MANIFEST = "manifest.json"
_SCHEMA = 1
_PACKAGES = ("caa-bench", "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "safetensors", "numpy")


class RunFolder:
    """The folder of one run, held by this process alone from `__enter__` to `__exit__`.

    It holds no times and no counters of tries, so that a resumed run ends in the same bytes as an uninterrupted one.

    Args:
        path: the folder; made if it is not there.
        recipe: everything that decides the results, as JSON-ready values, nested or dotted.
        facts: whatever else the report should know (seeds, batch sizes, the device).

    Attributes:
        manifest: schema, recipe (dotted), recipe_key, versions, version_changes, status, test_opened, test_openings,
            facts.
    """

    def __init__(self, path: Path, *, recipe: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.manifest: dict[str, Any] = {}
        self._recipe = _flat(recipe)
        self._facts = dict(facts or {})
        self._held = ExitStack()

    def __enter__(self) -> Self:
        """Take the folder.

        Raises:
            UserError: another process holds it, it holds another recipe (every differing key, both values) or files
                that are no run's, its manifest is damaged, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.path, error) from error
        with ExitStack() as held:
            held.enter_context(lock_folder(self.path))
            self.manifest = self._opened()
            remove_temporary(self.path)
            self._save()
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._held:
            if error is not None:
                stopped = isinstance(error, KeyboardInterrupt | SystemExit)
                self.set_status("cancelled" if stopped else "error")
            elif self.manifest["status"] == "started":
                self.set_status("success")

    @property
    def rows_path(self) -> Path:
        """Where the run's rows are."""
        return self.path / "rows.jsonl"

    def set_status(self, status: Status) -> None:
        """Record how the run stands; leaving the folder without an error turns `started` into `success`."""
        if status not in get_args(Status):
            raise ValueError(f"status {status!r} is not one of {get_args(Status)}")
        self.manifest["status"] = status
        self._save()

    def record(self, **facts: Any) -> None:
        """Add facts to the manifest; a name given again is replaced."""
        self.manifest["facts"] |= facts
        self._save()

    def open_test(self, key: str) -> int:
        """Count an opening of the test split and return how many there were.

        Args:
            key: what is evaluated on it (the plan's content key). The same key again is a resumed run and not another
                opening.
        """
        if key not in self.manifest["test_openings"]:
            self.manifest["test_openings"].append(key)
            self.manifest["test_opened"] = len(self.manifest["test_openings"])
            self._save()
        return int(self.manifest["test_opened"])

    def _save(self) -> None:
        write_json(self.path / MANIFEST, self.manifest)

    def _opened(self) -> dict[str, Any]:
        if not (self.path / MANIFEST).exists():
            strangers = sorted(path.name for path in self.path.iterdir() if not path.name.startswith("."))
            if strangers:
                name = terminal_safe(strangers[0])
                raise UserError(f"{self._shown}: holds {name!r} but no {MANIFEST}; choose an empty or a new folder")
            return self._new()
        manifest = read_manifest(self.path)
        if manifest["recipe_key"] != content_key(self._recipe):
            raise UserError(*self._differences(manifest["recipe"]))
        changes = _version_changes(manifest["versions"], versions())
        manifest["version_changes"] += [line for line in changes if line not in manifest["version_changes"]]
        return manifest | {"status": "started", "facts": manifest["facts"] | self._facts}

    def _new(self) -> dict[str, Any]:
        return {
            "schema": _SCHEMA,
            "recipe": self._recipe,
            "recipe_key": content_key(self._recipe),
            "versions": versions(),
            "version_changes": [],
            "status": "started",
            "test_opened": 0,
            "test_openings": [],
            "facts": self._facts,
        }

    @property
    def _shown(self) -> str:
        return terminal_safe(str(self.path))

    def _differences(self, there: Mapping[str, Any]) -> list[str]:
        keys = [key for key in {**there, **self._recipe} if there.get(key, ...) != self._recipe.get(key, ...)]
        if not keys:
            return [f"{self._shown}/{MANIFEST}: its recipe was changed by hand; choose another output folder"]
        return [
            f"{self._shown}: holds another recipe: {terminal_safe(key)} is {_recipe_value(there, key)} there and "
            f"{_recipe_value(self._recipe, key)} here; choose another output folder, or delete this one"
            for key in keys
        ]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run's folder, without taking the folder.

    Raises:
        UserError: there is none, it is damaged, or another version of the program wrote it.
    """
    path = folder / MANIFEST
    manifest = read_json(path)
    shown = terminal_safe(str(path))
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != _SCHEMA:
        raise UserError(f"{shown}: schema {schema!r}, this version reads {_SCHEMA}; choose another output folder")
    needed: dict[str, type] = {
        "recipe": dict,
        "recipe_key": str,
        "versions": dict,
        "version_changes": list,
        "status": str,
    }
    needed |= {"test_opened": int, "test_openings": list, "facts": dict}
    for name, kind in needed.items():
        if not isinstance(manifest.get(name), kind):
            raise UserError(f"{shown}: {name} is missing or damaged; choose another output folder")
    return dict(manifest)


def add_warnings(folder: Path, warnings: Sequence[str], *, recipe: Mapping[str, Any]) -> None:
    """Add to the warnings of a finished run, so that every later report repeats them.

    Raises:
        UserError: see `RunFolder.__enter__`.
    """
    status = read_manifest(folder)["status"]
    with RunFolder(folder, recipe=recipe) as run:
        run.record(warnings=[*run.manifest["facts"]["warnings"], *warnings])
        run.set_status(status)


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide the numbers; None where one is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _version_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [f"{name} {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys; tuples become lists, as JSON reads them back."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _listed(value)
    return flat


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def _recipe_value(recipe: Mapping[str, Any], key: str) -> str:
    if key not in recipe:
        return "absent"
    text = terminal_safe(repr(recipe[key]))
    return text if len(text) <= 80 else f"{text[:76]}..."
