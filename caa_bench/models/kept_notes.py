"""A chat template's notes, kept in the user's cache: rendering them again takes transformers, which takes seconds.

Kept under everything that decides them: the model's files, the plain template, the code that renders, the libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path

from caa_bench.models import control_tokens, loading, template_notes, templates, turns
from caa_bench.models.template_notes import TemplateNotes
from caa_bench.storage.files import content_key, read_json, sha256_file, write_json
from caa_bench.storage.paths import cache_folder

LIBRARIES = ("transformers", "tokenizers", "jinja2")


def notes_kept_for(files: Mapping[str, str], template: str, *, render: Callable[[], TemplateNotes]) -> TemplateNotes:
    """The notes of a model with these files: as kept, else rendered, and kept where the cache can be written.

    Args:
        files: name -> checksum of what loading reads.
        template: `loading.template`.
        render: makes them.
    """
    path = _path(files, template)
    with suppress(Exception):  # whatever lies there instead: the notes are rendered again
        read = read_json(path)
        if all(isinstance(text, str) for text in read.values()):
            return TemplateNotes(**read)
    notes = render()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(notes))
    return notes


def _path(files: Mapping[str, str], template: str) -> Path:
    # the clock's table beside the code, since it is what a change of the date would change
    decides = [dict(files), template, _code(), templates._TIMES, {name: version(name) for name in LIBRARIES}]
    return cache_folder() / "templates" / f"{content_key(decides)[:32]}.json"


@cache
def _code() -> list[str]:
    modules = (control_tokens, loading, template_notes, templates, turns)
    return [sha256_file(Path(str(module.__file__))) for module in modules]
