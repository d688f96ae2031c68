"""`serve`: the steered model behind an OpenAI-compatible HTTP server, with a dose a request."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

from caa_bench.commands.generate import SteeredCommand
from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.commands.of_run import OfRun
    from caa_bench.commands.session import Settings

PORT = 8000


class Serve(SteeredCommand):
    """Everything that can be asked for is made ready first; a request fits nothing."""

    name = "serve"
    help = "an OpenAI-compatible server of the steered model, with a dose a request"

    def add_options(self, parser: ArgumentParser) -> None:
        """The run, what can be asked for, and the address."""
        super().add_options(parser)
        parser.add_argument("--bases", nargs="+", default=[], metavar="BASE", help="what a request may ask for as base")
        parser.add_argument("--vectors", nargs="+", default=[], metavar="VECTOR", help="and on top of it (caa)")
        parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (%(default)s)")
        parser.add_argument("--port", type=int, default=PORT, help="the port, 0 for any free one (%(default)s)")
        parser.add_argument(
            "--key-env", default="", metavar="NAME", help="the environment variable with the key that requests need"
        )

    def add_run(self, parser: ArgumentParser) -> None:
        """The only word that stands free."""
        parser.add_argument("run", nargs="?", metavar="RUN", help="a run's folder or name, whose arms are served")

    def run(self, options: Namespace) -> int:
        """Make ready, then answer until Ctrl-C."""
        from caa_bench.commands.serve_doses import Offer
        from caa_bench.commands.serve_http import SteeredServer
        from caa_bench.commands.serve_speaker import Speaker

        log = None if options.quiet else lambda line: print(line, file=sys.stderr, flush=True)
        with SteeredServer((options.host, options.port), key=_required_key(options), log=log) as server:
            session = self.session(options)
            offer = Offer(session)
            print(f"{session.behavior.title} on {offer.name}: {server.url}\n{offer.text()}\nCtrl-C ends it", flush=True)
            try:
                server.answer(offer, Speaker(session))
            except KeyboardInterrupt:
                print("caa-bench: the server has stopped", file=sys.stderr)
        return 0

    def settings(self, options: Namespace, run: OfRun | None = None) -> Settings:
        """With everything that a request may ask for."""
        bases, vectors = (run.bases, run.vectors) if run else ((), ())
        return replace(
            super().settings(options, run),
            bases=tuple(options.bases) or bases,
            vectors=tuple(options.vectors) or vectors,
        )


def _required_key(options: Namespace) -> str:
    """The key that requests must carry; "" for none, on this machine alone.

    Raises:
        UserError: its variable is not set, or there is none where other machines can reach the server.
    """
    from caa_bench.commands.serve_handler import is_local

    key = os.environ.get(options.key_env, "") if options.key_env else ""
    if options.key_env and not key:
        raise UserError("--key-env: that environment variable is not set; put the key there, not on the command line")
    if is_local(options.host):
        return key
    host = terminal_safe(options.host)
    if not key:
        raise UserError(
            f"--host {host}: other machines can reach it, so requests need a key; put one into an environment variable "
            "and name that with --key-env"
        )
    print(f"warning: other machines can reach {host}, and nothing is encrypted on the way", file=sys.stderr)
    return key
