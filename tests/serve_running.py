"""A server of a session in a thread of the test's own process, over real HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from caa_bench.commands.serve_doses import Offer
from caa_bench.commands.serve_http import SteeredServer
from caa_bench.commands.serve_speaker import Speaker
from caa_bench.commands.session import Session


@contextmanager
def running(
    session: Session, offer: Offer, *, speaker: Speaker | None = None, **settings: Any
) -> Iterator[SteeredServer]:
    """Answers for the time of a `with` block."""
    with SteeredServer(("127.0.0.1", 0), **settings) as server:
        thread = threading.Thread(target=server.answer, args=(offer, speaker or Speaker(session)), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(30)
            assert not thread.is_alive()
