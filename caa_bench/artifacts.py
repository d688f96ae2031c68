"""Fitted interventions on disk, by content: the same fit is never done twice, in whichever run it is needed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from caa_bench.behavior import Pairs
from caa_bench.files import content_key, read_json, sha256_file, write_json
from caa_bench.interventions import Intervention
from caa_bench.model import ChatModel

MANIFEST = "artifact.json"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A fitted intervention.

    Args:
        folder: where it is kept.
        checksum: of its manifest, which holds the checksums of its files.
        fit_s: seconds that fitting took when it was done; None where that is not known.
        size_bytes: of its files.
        reused: whether it was there already.
    """

    folder: Path
    checksum: str
    fit_s: float | None
    size_bytes: int
    reused: bool


class ArtifactStore:
    """A folder of artifacts named `<label>-<content key>`.

    Args:
        folder: made on first use.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fitted(self, intervention: Intervention, *, chat: ChatModel, pairs: Pairs) -> Artifact:
        """Load the intervention's artifact, or fit and keep it. The model is loaded only to fit.

        Raises:
            UserError: the kept artifact is damaged; names the file to delete.
        """
        key = content_key([intervention.settings(), chat.fingerprint(), intervention.learned_from(pairs)])[:12]
        folder = self.folder / f"{intervention.label}-{key}"
        timing = folder.with_suffix(".timing.json")
        reused = (folder / MANIFEST).is_file()  # written last: a folder without it is what a killed fit left
        if reused:
            intervention.load(folder)
        else:
            started = time.monotonic()
            intervention.fit(chat.model, chat.tokenizer, pairs)
            intervention.save_pretrained(folder)
            # Beside the folder, not in it: seconds differ between runs, the artifact's bytes must not.
            write_json(timing, {"fit_s": round(time.monotonic() - started, 3)})
        return Artifact(
            folder=folder,
            checksum=sha256_file(folder / MANIFEST),
            fit_s=read_json(timing)["fit_s"] if timing.is_file() else None,
            size_bytes=sum(path.stat().st_size for path in folder.iterdir()),
            reused=reused,
        )
