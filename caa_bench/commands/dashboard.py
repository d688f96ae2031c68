"""`dashboard`: a project's dose curves, as a saved wandb workspace or, with `--local`, on trackio's page."""

from __future__ import annotations

import contextlib
import threading
from argparse import ArgumentParser, Namespace

from caa_bench.commands.base import Command


class Dashboard(Command):
    """Shows finished runs in wandb or trackio, and changes none of them."""

    name = "dashboard"
    help = (
        "save a wandb workspace with the dose curves of a project (needs a login), or serve trackio's page with --local"
    )

    def add_options(self, parser: ArgumentParser) -> None:
        """Adds the project's name and where it is shown."""
        parser.add_argument("--project", default="caa_bench", help="the project's name (%(default)s)")
        parser.add_argument("--entity", default="", help="wandb's user or team (default: the login's own)")
        parser.add_argument(
            "--local", action="store_true", help="trackio's page on this machine, until Ctrl-C; needs no account"
        )

    def run(self, options: Namespace) -> int:
        """Save or serve the dashboard, and print its address."""
        if options.local:
            from caa_bench.tracking.trackio_page import local_dashboard

            with local_dashboard(project=options.project) as url, contextlib.suppress(KeyboardInterrupt):
                print(f"{url}\nCtrl-C ends it", flush=True)
                threading.Event().wait()
            return 0
        from caa_bench.tracking.wandb_workspace import save_dashboard

        print(save_dashboard(project=options.project, entity=options.entity))
        return 0
