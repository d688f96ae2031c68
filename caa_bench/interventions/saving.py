"""How an intervention is kept, read back and shared, with the verbs of transformers: strings, paths and hub names."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from caa_bench.errors import UserError
from caa_bench.storage.registry import registry_of

if TYPE_CHECKING:
    from torch import Tensor


class Saved:
    """The part of an intervention that is about files.

    caa.save_pretrained("refusal-vector")
    caa = CAA.from_pretrained("refusal-vector")
    caa.push_to_hub("me/refusal-vector", private=True)
    """

    name: ClassVar[str]
    Config: ClassVar[Any]

    def settings(self) -> dict[str, Any]:
        """What decides what it does, as JSON; `revive` takes it back."""
        raise NotImplementedError

    @classmethod
    def revive(cls, settings: Mapping[str, Any], *, variant: str) -> Self:
        """An unfitted instance from what `settings()` returned, read back from JSON."""
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
        return cls(cls.Config(**values), variant=variant)  # type: ignore[call-arg]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the learned artifact (safetensors and JSON, with checksums, and a card) whole or not at all."""
        self.keep(folder)

    def keep(
        self,
        folder: str | Path,
        *,
        tensors: Mapping[str, Tensor] | None = None,
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """What every `save_pretrained` ends with: tensors, settings and a card, beside files that are there already.

        Args:
            facts: what else is known of the fit, as JSON.
        """
        from caa_bench.interventions.card import CARD, card
        from caa_bench.storage.artifact_folder import write_artifact

        meta = {"settings": self.settings(), **facts}
        write_artifact(Path(folder), tensors=tensors, meta=meta, texts={CARD: card(self)})  # type: ignore[arg-type]

    def load(self, folder: str | Path) -> Self:
        """Take over the artifact in `folder`, after checking it byte by byte.

        Raises:
            UserError: the artifact is damaged or was made with other settings.
        """
        return self

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, revision: str | None = None) -> Self:
        """The intervention that was saved in a folder or uploaded to the hub, whichever class it is.

        Args:
            name_or_path: a folder, or `owner/name` on the hub; of that only safetensors, JSON and the card are fetched.
            revision: the hub's branch, tag or commit.

        Raises:
            UserError: nothing is there, the artifact is damaged, or it is of another class than this one.
        """
        from caa_bench.interventions.hub import artifact_folder
        from caa_bench.storage.artifact_folder import read_artifact

        folder = artifact_folder(name_or_path, revision=revision)
        settings = dict(read_artifact(folder, expect=None).meta["settings"])
        return cls._of(settings, folder).load(folder)

    @classmethod
    def _of(cls, settings: dict[str, Any], folder: Path) -> Self:
        found = revived(settings, base=cls)
        if found is None:
            known = cls.name or "known intervention"
            raise UserError(f"{folder}: holds a {settings.get('name')!r}, not a {known}; {_instead(cls.name)}")
        return found

    def push_to_hub(
        self,
        repo_id: str,
        *,
        folder: str | Path | None = None,
        commit_message: str = "Upload intervention",
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
    ) -> str:
        """Upload the artifact, card included, with the user's own hub login; returns the address.

        Args:
            repo_id: `owner/name`; made if it is not there.
            folder: where it is saved already, with a run's card (`caa-bench export`); None: it is saved anew.
            commit_message / private / token / revision: as in transformers.

        Raises:
            UserError: the artifact in `folder` is damaged.
        """
        from huggingface_hub import HfApi

        from caa_bench.storage.artifact_folder import read_artifact

        with tempfile.TemporaryDirectory() as scratch:
            saved = Path(scratch) / "artifact" if folder is None else Path(folder)
            if folder is None:
                copy.copy(self).save_pretrained(saved)  # a class may forget its tensors once they are on the disk
            read_artifact(saved, expect=None)
            api = HfApi(token=token)
            api.create_repo(repo_id, exist_ok=True, private=private)
            sent = api.upload_folder(
                repo_id=repo_id, folder_path=str(saved), commit_message=commit_message, revision=revision
            )
        return str(sent)


def revived(settings: Mapping[str, Any], *, base: type[Any]) -> Any:
    """The unfitted intervention that `settings` are of; None where no class of that name is known below `base`.

    A subclass without a name of its own stands in for the class whose name it has.
    """
    values = {key: value for key, value in settings.items() if key not in ("name", "variant", "code")}
    known = registry_of(base)().get(str(settings.get("name")))
    if known is not None and issubclass(base, known):
        known = base
    if known is None or not issubclass(known, base):
        return None
    return known.revive(values, variant=str(settings.get("variant", "")))


def _instead(name: str) -> str:
    own = "" if name else ", or import the file that defines its class first"
    return f"give its own folder{own}"
