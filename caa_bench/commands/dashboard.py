"""`dashboard`: the saved wandb workspace of a project."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from caa_bench.commands.base import Command


class Dashboard(Command):
    """Needs a login; changes no run."""

    name = "dashboard"
    help = "save a wandb workspace with the dose curves of a project (needs a login)"

    def add_options(self, parser: ArgumentParser) -> None:
        """Which project."""
        parser.add_argument("--project", default="caa_bench", help="the wandb project (%(default)s)")
        parser.add_argument("--entity", default="", help="the user or team (default: the login's own)")

    def run(self, options: Namespace) -> int:
        """Print its address."""
        from caa_bench.dashboard import save_dashboard

        print(save_dashboard(project=options.project, entity=options.entity))
        return 0
