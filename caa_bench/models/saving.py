"""What a search found about a model -> a model config that later runs name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from caa_bench.errors import UserError
from caa_bench.models.loading import Loading
from caa_bench.storage.atomic import write_atomic
from caa_bench.storage.paths import configs_folder, own_models_folder

MARK = "# Written by `caa-bench tune --save`: layer and doses that were found on the selection split."


@dataclass(frozen=True, kw_only=True)
class Found:
    """A vector's layer and dose on one behavior.

    Args:
        layer / multiplier: as `Loading.tuned` keeps them.
        effect: log-odds, by which the strongest of several lends its layer to behaviors without an entry.
        says: how it was found, in a line.
    """

    layer: int
    multiplier: float
    effect: float
    says: str


def free_name(name: str) -> Path:
    """Where a config of that name would be kept.

    Raises:
        UserError: the name is no file's name, or it is taken by a config that no search wrote.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}", name):
        raise UserError(f"--save: {name[:60]!r} is no name; use letters, digits, dots and dashes")
    path = own_models_folder() / f"{name}.yaml"
    shipped = configs_folder() / "models" / f"{name}.yaml"
    for taken in (path, shipped):
        if taken.is_file() and not taken.read_text(encoding="utf-8").startswith(MARK):
            raise UserError(f"--save: there is a model config {name!r} already; choose another name")
    return path


def save_tuned(name: str, loading: Loading, found: Mapping[str, Found]) -> Path:
    """Write the config, with what an earlier search of that name found about other behaviors.

    Args:
        loading: how the model was loaded.
        found: `loading.tuned_key` -> what was found.

    Raises:
        UserError: see `free_name`; or the disk is full.
    """
    from caa_bench.config.recipe_yaml import load
    from caa_bench.config.yaml_dump import dump

    path = free_name(name)
    earlier = load(path, [], Loading).values.tuned if path.is_file() else {}
    tuned = {**loading.tuned, **earlier, **{key: (one.layer, one.multiplier) for key, one in found.items()}}
    source = loading.source
    if Path(source).is_dir():
        source = str(Path(source).resolve())
    layer = max(found.values(), key=lambda one: one.effect).layer
    kept = replace(loading, source=source, layer=layer, tuned=tuned)
    changed = {f.name: getattr(kept, f.name) for f in fields(Loading)}
    plain = {f.name: getattr(Loading(), f.name) for f in fields(Loading)}
    text = dump({key: value for key, value in changed.items() if value != plain[key]})
    said = "".join(f"# {key}: {one.says}\n" for key, one in found.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, f"{MARK}\n{said}{text}")
    return path
