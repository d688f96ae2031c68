"""The model hub, asked once and briefly: what is cached, whether the rest can be had, or one line that says what to do.

transformers and huggingface_hub retry an unreachable hub for 23 s a file; here the answer comes within seconds.
"""

from __future__ import annotations

from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from caa_bench.errors import UserError
from caa_bench.storage.paths import is_file, is_folder

TIMEOUT_S = 5.0
CONFIG = "config.json"
_INSTEAD = "or give a folder that holds the model with MODEL=/path/to/model"


def cached_config(source: str, *, revision: str | None) -> Path | None:
    """The model's config.json in the local hub cache; its folder is named after the commit."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(source, CONFIG, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def fetch_config(source: str, *, revision: str | None) -> Path:
    """config.json from the cache, else from the hub.

    Raises:
        UserError: the hub cannot be reached or refuses the model.
    """
    if (cached := cached_config(source, revision=revision)) is not None:
        return cached
    from huggingface_hub import hf_hub_download

    require(source, revision=revision)
    try:
        return Path(hf_hub_download(source, CONFIG, revision=revision))
    except (OSError, ValueError) as error:
        raise UserError(f"model: cannot fetch {source!r} ({first_line(error)}); run again, {_INSTEAD}") from error


def unreachable(source: str, *, revision: str | None) -> list[str]:
    """One line where a hub model is neither in the cache nor to be had; asks the hub at most once, for seconds."""
    if is_folder(Path(source)) or is_file(Path(source)) or cached_config(source, revision=revision) is not None:
        return []
    try:
        require(source, revision=revision)
    except UserError as error:
        return list(error.lines)
    return []


def require(source: str, *, revision: str | None) -> None:
    """Ask the hub once for the model's config.json.

    Raises:
        UserError: switched off, unreachable, gated, or no such model; one line each.
    """
    from huggingface_hub import constants, get_token, hf_hub_url
    from huggingface_hub.errors import HFValidationError

    if Path(source).is_absolute() or source.startswith((".", "~")):
        raise UserError(f"model: there is no folder {source[:200]}; check the path")
    if constants.is_offline_mode():
        raise UserError(
            f"model: {source!r} is not in the local cache and HF_HUB_OFFLINE is set; unset it to download, {_INSTEAD}"
        )
    try:
        url = hf_hub_url(source, CONFIG, revision=revision)
    except HFValidationError:
        raise UserError(f"model: {source!r} is neither a folder nor a hub name owner/model; check its path") from None
    login = {"Authorization": f"Bearer {token}"} if (token := get_token()) else {}
    headers = {"User-Agent": "caa-bench"} | login
    try:
        # the address is the hub's own, or the user's HF_ENDPOINT
        with urlopen(Request(url, headers=headers, method="HEAD"), timeout=TIMEOUT_S):  # noqa: S310
            return
    except HTTPError as error:
        error.close()
        raise UserError(f"model: {_refusal(source, revision, error)}, {_INSTEAD}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"model: {source!r} is not in the local cache and the hub cannot be reached ({reason}); "
            f"check the connection, {_INSTEAD}"
        ) from None


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _refusal(source: str, revision: str | None, error: HTTPError) -> str:
    at = f" at revision {revision!r}" if revision else ""
    if error.code in (401, 403):
        return (
            f"the hub does not let you read {source!r} ({error.code}); it is gated, private or misspelt: accept its "
            "license on its hub page and log in with `hf auth login`"
        )
    if error.code == 404:
        return f"the hub has no model {source!r}{at} (404); check the name"
    return f"the hub failed on {source!r} ({error.code} {error.reason}); try again later"
