"""`analyze`: the geometry of the vectors, from the training pairs alone."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from caa_bench.commands.base import RecipeCommand, benchmarks, quiet_libraries
from caa_bench.errors import UserError

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark
    from caa_bench.geometry import Geometry

SHOWN = 6


class Analyze(RecipeCommand):
    """Needs the model, measures nothing."""

    name = "analyze"
    help = "the vectors' geometry: cosines, PCA of the letter activations, logit lens, a text along the vector"

    def add_options(self, parser: ArgumentParser) -> None:
        """A recipe's options, and what to compare or project."""
        super().add_options(parser)
        parser.add_argument("--text", default="", help="what to project on the vector (default: a training question)")
        parser.add_argument("--against", default="", metavar="MODEL", help="another model of the same shape")

    def run(self, options: Namespace) -> int:
        """Write a folder a behavior, print what each vector says."""
        if options.dry_run:
            raise UserError("--dry-run: analyze measures no cells; it makes two passes over the training pairs")
        options.overrides = [*options.overrides, "bases=[none]"]  # nothing else needs to be fitted
        made = benchmarks(options)
        quiet_libraries(options)
        from caa_bench.geometry import analyze

        folders = [_folder(benchmark, given=options.output) for benchmark in made]
        found = analyze(made, folders, text=options.text, against=options.against)
        print("\n\n".join(map(_geometry_text, found)))
        return 0


def _folder(benchmark: Benchmark, *, given: str | None) -> Path:
    """Never a run's own folder: that one takes nothing it does not know."""
    return benchmark.folder if given else Path(benchmark.args.output_dir) / "analyze" / benchmark.folder.name


def _geometry_text(found: Geometry) -> str:
    from caa_bench.report import words
    from caa_bench.report.words import interval
    from caa_bench.storage.files import terminal_safe

    line = found.diagnostics.set_index("layer").loc[found.layer]
    said = found.lens[found.lens["layer"] == found.layer]
    lines = [
        f"{found.behavior}, layer {found.layer}: norm {words.number(line['norm'])}, agreement of the pairs "
        f"{interval(line, 'agreement')}, separability {interval(line, 'separability')}, n {line['n']:.0f} pairs"
    ]
    for direction in ("along", "against"):
        tokens = [repr(token) for token in said[said["direction"] == direction]["token"].head(SHOWN)]
        lines.append(f"  {direction} it: {' '.join(tokens)}")
    lines.append(f"  written to {found.folder}")
    return "\n".join(map(terminal_safe, lines))
