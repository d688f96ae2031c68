"""An artifact by name -> a folder with its files: a local one, or a copy of what the hub has. Runs no code of it."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from caa_bench.errors import UserError
from caa_bench.models.hub import first_line
from caa_bench.storage.paths import is_folder
from caa_bench.storage.safe_text import terminal_safe

TIMEOUT_S = 5.0
FETCHED = ["*.safetensors", "*.json", "*.md"]
"""Everything that is ever read of an artifact; a pickle is not even fetched."""
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def artifact_folder(name_or_path: str | Path, *, revision: str | None = None) -> Path:
    """The folder itself, or that of a hub repository, fetched once for each commit.

    Raises:
        UserError: neither is there, or the hub cannot be reached; one line.
    """
    folder, name = Path(name_or_path), str(name_or_path)
    if is_folder(folder):
        return folder
    shown = terminal_safe(name[:200])
    if not _REPO.fullmatch(name):
        raise UserError(
            f"{shown}: there is no such folder; give the one that save_pretrained wrote, or owner/name on the hub"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.errors import RevisionNotFoundError as NoRevision

    try:
        found = Path(
            snapshot_download(name, revision=revision, allow_patterns=FETCHED, etag_timeout=TIMEOUT_S, max_workers=4)
        )
    except NoRevision:
        problem = f"the hub has it, but no revision {revision!r}; check the branch, tag or commit"
    except GatedRepoError:
        problem = "it is gated; accept its terms on its hub page and log in with `hf auth login`"
    except RepositoryNotFoundError:
        problem = "neither a folder nor on the hub, or private; check the name, or log in with `hf auth login`"
    except LocalEntryNotFoundError:
        problem = "no folder, not in the local cache, and the hub cannot be reached; check the connection"
    except (OSError, ValueError) as error:
        problem = f"cannot be fetched from the hub ({terminal_safe(first_line(error))}); try again later"
    else:
        return _without_links(found, name)
    raise UserError(f"{shown}: {problem}")


def _without_links(snapshot: Path, name: str) -> Path:
    """A copy with files in place of the cache's links, since an artifact that holds a link is refused."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HOME) / "caa_bench" / name.replace("/", "--") / snapshot.name
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            shutil.copytree(snapshot, Path(scratch) / "copy")  # follows the links
            (Path(scratch) / "copy").rename(folder)
    return folder
