"""What a command imports, told by a process of its own; imports nothing of the package by itself."""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection


def tell(argv: list[str], folder: str, told: Connection) -> None:
    """Run a command and tell its exit and what it imported of what is for several processes and for servers."""
    from caa_bench.__main__ import main

    os.chdir(folder)
    status = main(argv)
    ours = ("caa_bench.runs.replica", "caa_bench.runs.jobs", "caa_bench.runs.lockstep", "submitit")
    ours += ("caa_bench.models.ranks", "caa_bench.models.tensor_parallel", "caa_bench.evaluators.served.")
    ours += ("caa_bench.commands.serve_", "caa_bench.engine.easysteer", "http.server")
    told.send((status, [name for name in sys.modules if name.startswith(ours)]))
