"""A steered model behind HTTP: the address, the key, how many may wait. Knows nothing of models.

`http.server` of the standard library: answers are made one at a time, so that nothing faster would be of use.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from caa_bench.commands.serve_handler import Handler, is_local
from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.commands.serve_doses import Offer
    from caa_bench.commands.serve_speaker import Speaker

MOST_WAITING = 64
logger = logging.getLogger(__name__)


class SteeredServer(ThreadingHTTPServer):
    """Holds its address from the first moment, and answers requests once it is open.

    Args:
        address: host and port; port 0 takes a free one.
        key: what each request must carry as a bearer token; "" for none.
        log: takes a line a request; None for silence.

    Raises:
        UserError: the address cannot be used.
    """

    daemon_threads = True
    most_waiting = MOST_WAITING
    offer: Offer
    speaker: Speaker

    def __init__(self, address: tuple[str, int], *, key: str = "", log: Callable[[str], None] | None = None) -> None:
        host, port = address
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__(address, Handler, bind_and_activate=False)
        try:
            socketserver.TCPServer.server_bind(self)  # HTTPServer's own asks a name server, which can take minutes
            self.server_activate()  # who connects before it is open waits
        except (OSError, OverflowError) as error:
            self.server_close()
            said = getattr(error, "strerror", None) or str(error)
            raise UserError(f"--host {terminal_safe(host)} --port {port}: {said}; choose another address") from None
        self.log, self.key, self.local = log, key.encode(), is_local(host)
        self.room = threading.BoundedSemaphore(self.most_waiting)

    def answer(self, offer: Offer, speaker: Speaker) -> None:
        """Answer requests until Ctrl-C.

        Args:
            offer: what can be asked for.
            speaker: who answers.
        """
        self.offer, self.speaker = offer, speaker
        try:
            self.serve_forever(poll_interval=0.1)
        finally:
            speaker.leave()

    @property
    def url(self) -> str:
        """Where it answers, up to and including `/v1`."""
        host, port = self.server_address[:2]
        shown = f"[{host!s}]" if ":" in str(host) else str(host)
        return f"http://{shown}:{port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that did not wait is no news; anything else is."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            logger.exception("a request failed")
