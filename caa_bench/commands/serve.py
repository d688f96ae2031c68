"""`serve`: the steered model behind an OpenAI-compatible HTTP server, with a dose a request."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

from caa_bench.commands.base import run_named
from caa_bench.commands.generate import SteeredCommand
from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.commands.session import Settings

PORT = 8000


class Serve(SteeredCommand):
    """Everything that can be asked for is made ready first; a request fits nothing."""

    name = "serve"
    help = "an OpenAI-compatible server of the steered model, with a dose a request"

    def add_options(self, parser: ArgumentParser) -> None:
        """The run, what can be asked for, and the address."""
        parser.add_argument("folder", nargs="?", metavar="RUN", help="a run's folder or name, whose arms are served")
        super().add_options(parser)
        parser.add_argument("--bases", nargs="+", default=[], metavar="BASE", help="what a request may ask for as base")
        parser.add_argument("--vectors", nargs="+", default=[], metavar="VECTOR", help="and on top of it (caa)")
        parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (%(default)s)")
        parser.add_argument("--port", type=int, default=PORT, help="the port, 0 for any free one (%(default)s)")
        parser.add_argument(
            "--key-env", default="", metavar="NAME", help="the environment variable with the key that requests need"
        )

    def run(self, options: Namespace) -> int:
        """Make ready, then answer until Ctrl-C."""
        from caa_bench.commands.serve_doses import Offer
        from caa_bench.commands.serve_http import SteeredServer
        from caa_bench.commands.serve_speaker import Speaker

        layers = {} if options.folder is None else _of_run(options)
        log = None if options.quiet else lambda line: print(line, file=sys.stderr, flush=True)
        with SteeredServer((options.host, options.port), key=_required_key(options), log=log) as server:
            session = self.session(options)
            offer = Offer(session, layers=layers)
            print(f"{session.behavior.title} on {offer.name}: {server.url}\n{offer.text()}\nCtrl-C ends it", flush=True)
            try:
                server.answer(offer, Speaker(session))
            except KeyboardInterrupt:
                print("caa-bench: the server has stopped", file=sys.stderr)
        return 0

    def settings(self, options: Namespace) -> Settings:
        """With everything that a request may ask for."""
        return replace(super().settings(options), bases=tuple(options.bases), vectors=tuple(options.vectors))


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


def _of_run(options: Namespace) -> dict[str, int]:
    """Takes recipe, bases and vectors from the run that is named; gives the layer that led there, by vector.

    Raises:
        UserError: there is no such run, or it has no report yet.
    """
    from caa_bench.commands.export import lead_layer
    from caa_bench.interventions import registry
    from caa_bench.recipe import load_recipe
    from caa_bench.report import make_report
    from caa_bench.runs.artifacts import kept_at
    from caa_bench.runs.folder import read_manifest

    run = run_named(options.folder)
    if options.behavior or options.model or options.recipe != "compare":
        raise UserError(f"{run}: has its own behavior, model and recipe; leave yours out")
    report = make_report(run)
    recipe = load_recipe(run / "recipe.yaml")
    placebos = {name for name, cls in registry().items() if cls.is_placebo}
    options.recipe = str(run / "recipe.yaml")
    options.bases = options.bases or list(recipe.args.bases)
    options.vectors = options.vectors or [name for name in recipe.args.vectors if name not in placebos]
    for recorded in list(read_manifest(run)["facts"]["artifacts"].values())[:1]:
        options.override.insert(0, f"output_dir={json.dumps(str(kept_at(run, recorded).parent.parent))}")
    if options.layer is not None:
        return {}
    return {label: layer for label in options.vectors if (layer := lead_layer(report, label)) is not None}
