"""One registry for everything that a recipe can name: a class is known by its `name` as soon as it is defined.

    registry = Registry(Intervention, kind="interventions", package="caa_bench.interventions")
    registry()["caa"]

Known are the classes of the package's own folder (a new file is a new one), those of installed packages that declare
an entry point of the group `caa_bench.<kind>`, those of a file that a recipe names under `plugins`, and those that a
script or a notebook defines. A class counts where it gives itself a `name`, at any depth below the base class.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import marshal
import pkgutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from caa_bench.errors import UserError

T = TypeVar("T")
_PACKAGE = __name__.split(".", maxsplit=1)[0]
_KNOWN: list[Registry[Any]] = []


class Registry(Generic[T]):
    """The classes below a base class, by name.

    Args:
        base: what all of them are.
        kind: what they are called in messages and entry points ("interventions").
        package: the folder whose modules are imported before the first look.
        order: sorts them, before their names do.
        light: import only the modules that say the base class's name, where the others would import much for nothing.
    """

    def __init__(
        self,
        base: type[T],
        *,
        kind: str,
        package: str,
        order: Callable[[type[T]], Any] = lambda cls: 0,
        light: bool = False,
    ) -> None:
        self.base = base
        self.kind = kind
        self._package = package
        self._order = order
        self._saying = base.__name__ if light else ""
        self._scanned = False
        _KNOWN.append(self)

    def __call__(self) -> dict[str, type[T]]:
        """Every class by its `name`, sorted.

        Raises:
            UserError: two of them have one name, or an installed package's entry point cannot be loaded.
        """
        self._scan()
        found: dict[str, type[T]] = {}
        for cls in _below(self.base):
            name = vars(cls).get("name")
            if not isinstance(name, str) or not name:
                continue
            if name in found and _place(found[name]) != _place(cls):
                places = " and ".join(_class_and_file(one) for one in (found[name], cls))
                raise UserError(f"{self.kind}: two classes are called {name!r}, {places}; rename one of them")
            found[name] = cls  # a cell of a notebook that is run again defines the same class anew
        return dict(sorted(found.items(), key=lambda pair: (self._order(pair[1]), pair[0])))

    def _scan(self) -> None:
        if self._scanned:
            return
        self._scanned = True
        _import_modules(self._package, saying=self._saying)
        from importlib.metadata import entry_points

        for entry in entry_points(group=f"{_PACKAGE}.{self.kind}"):
            try:
                entry.load()
            except Exception as error:
                self._scanned = False
                raise UserError(
                    f"{self.kind}: the installed entry point {entry.name} = {entry.value} cannot be loaded "
                    f"({type(error).__name__}: {error}); update or uninstall its package"
                ) from error


def registry_of(cls: type[Any]) -> Registry[Any]:
    """The registry that a class belongs to."""
    return next(registry for registry in _KNOWN if issubclass(cls, registry.base))


def _import_modules(package: str, *, saying: str) -> None:
    """Import every module that stands directly in the package of this name and has this word in its text."""
    for folder in importlib.import_module(package).__path__:
        for module in pkgutil.iter_modules([folder]):
            file = Path(folder) / f"{module.name}.py"
            if not file.is_file() or saying in file.read_text(encoding="utf-8"):
                importlib.import_module(f"{package}.{module.name}")


def import_file(path: Path) -> ModuleType:
    """Run a Python file of the user's, once, so that the classes in it are known.

    Raises:
        UserError: there is no such file, or running it fails.
    """
    full = path.resolve()
    for module in list(sys.modules.values()):  # imported by a script already, perhaps under another name
        if getattr(module, "__file__", None) and Path(str(module.__file__)).resolve() == full:
            return module
    name = f"{_PACKAGE}_plugin_{full.stem}_{hashlib.sha256(str(full).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, full) if path.suffix == ".py" and full.is_file() else None
    if spec is None or spec.loader is None:
        raise UserError(f"plugins: there is no Python file {path}; give the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"plugins: {path} cannot be run ({what}); correct it") from error
    return module


def file_of(cls: type[Any]) -> Path | None:
    """The file of a class that a recipe can name under `plugins`; None for the package's own, a script's and others.

    A script's classes have none: running the script again would run the comparison again.
    """
    path = _source_file(cls)
    if cls.__module__.split(".")[0] in (_PACKAGE, "__main__") or path is None or "site-packages" in path.parts:
        return None
    return path


def code_key(cls: type[Any]) -> str:
    """What identifies the code of a class that is not the package's own, "" for one that is: edited, it is another.

    The whole file of a module; of a script or a notebook the class and those above it, as the rest of it only runs it.
    """
    own = [one for one in cls.__mro__ if one.__module__.split(".")[0] not in (_PACKAGE, "builtins", "typing", "abc")]
    return hashlib.sha256(b"\n".join(_code(one) for one in own)).hexdigest()[:16] if own else ""


@cache
def _code(cls: type[Any]) -> bytes:
    path = _source_file(cls)
    if path is not None and cls.__module__ != "__main__":
        return path.read_bytes()
    try:
        return inspect.getsource(cls).encode()
    except (OSError, TypeError):  # typed into a plain interpreter
        codes = [value.__code__ for value in vars(cls).values() if inspect.isfunction(value)]
        return b"".join(map(marshal.dumps, codes))


def _below(base: type[T]) -> list[type[T]]:
    return [one for child in base.__subclasses__() for one in (child, *_below(child))]


def _source_file(cls: type[Any]) -> Path | None:
    named = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return Path(named).resolve() if named and Path(named).is_file() else None


def _place(cls: type[Any]) -> tuple[str, str]:
    return str(_source_file(cls) or cls.__module__), cls.__qualname__


def _class_and_file(cls: type[Any]) -> str:
    return f"{cls.__qualname__} in {_source_file(cls) or cls.__module__}"
