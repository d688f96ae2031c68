"""What Inspect finds through the entry point `inspect_ai`: the provider's name, and its class when it is asked for."""

from __future__ import annotations

from typing import Any

from inspect_ai.model import modelapi


@modelapi(name="caa-bench")
def caa_bench() -> Any:
    """The class of `--model caa-bench/NAME`."""
    from caa_bench.providers.inspect_models import SteeredAPI

    return SteeredAPI
