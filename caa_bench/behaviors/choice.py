"""Which data a run is measured on where nobody says: the embedded model's own splits, or the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from caa_bench.behaviors.behavior import Behavior
from caa_bench.behaviors.folders import Data, behavior_names, published_folder
from caa_bench.errors import UserError
from caa_bench.storage.paths import configs_folder

Asked = Literal["auto", "own", "caa"]


def data_of(asked: Asked, *, embedded: bool, behavior: Any, data_dir: str | Path | None) -> Data:
    """What `data: auto` comes to.

    The built-in splits are written in the embedded model's small language, which barely moves any other model: such a
    model is measured on the published splits. A behavior of the user's own has its own splits.

    Args:
        embedded: whether the model is the embedded one.
        behavior: a name, a folder, `all`, or items; whatever is no built-in name is the user's own.

    Raises:
        UserError: the published splits are needed and not there.
    """
    if asked != "auto":
        return asked
    if data_dir is not None:
        return "caa"
    if embedded or behavior not in ("all", *behavior_names()):
        return "own"
    try:
        published_folder(None, behavior_names()[0] if behavior == "all" else behavior)
    except UserError:
        raise UserError(
            "data: a model that is not the embedded one is measured on the published splits, which are not here yet; "
            "run caa-bench data download (4 MB; without network: --from DIR), give data_dir, a behavior folder of your "
            "own, or data=own for the embedded model's small language"
        ) from None
    return "caa"


def language_warning(behavior: Behavior, *, embedded: bool) -> list[str]:
    """One line where another model is measured in the embedded model's language."""
    built_in = behavior.source.data == "own" and behavior.source.beside == configs_folder() / "behaviors"
    if embedded or not built_in:
        return []
    return [
        "This model is measured on splits in the embedded model's small language, which moves other models little: "
        "use data=caa for the published splits, or a behavior of your own."
    ]
