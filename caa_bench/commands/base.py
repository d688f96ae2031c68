"""What a command is: a name, its options, what it does. No heavy imports at the top of any command's file."""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from caa_bench.config.recipe_yaml import split_overrides
from caa_bench.errors import UserError
from caa_bench.recipe import Recipe, load_recipe
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark


class Command:
    """One command.

    Args:
        name: as typed after `caa-bench`; empty for a base class.
        help: what it does, one line.
    """

    name: ClassVar[str] = ""
    help: ClassVar[str] = ""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments to its own parser."""

    def run(self, options: Namespace) -> int:
        """Do it; returns the exit status. A UserError costs one line a mistake and exits 2."""
        raise NotImplementedError


class RecipeCommand(Command):
    """A command on what a recipe says; `recipe` is the one taken where none is named."""

    recipe: ClassVar[str] = "compare"
    on_ranks: ClassVar[bool] = False
    """Whether several processes that torchrun started may do it on one model together (`runs/lockstep.py`)."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """The recipe, changes of its keys, where results go."""
        parser.add_argument(
            "--recipe", default=self.recipe, help="a YAML file, or the name of a shipped one (%(default)s)"
        )
        parser.add_argument(
            "--output", help="the run folder (default: a new one under output_dir; a same run continues)"
        )
        add_set(parser)
        parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change a recipe key, e.g. seed=1")
        parser.add_argument("--dry-run", action="store_true", help="list the cells and what they cost, run nothing")
        add_loudness(parser)

    def run(self, options: Namespace) -> int:
        """Check everything; then do it, or list what it would cost."""
        if rank_of_process():
            return self._follow(options)
        made = benchmarks(options)
        if options.dry_run:
            from caa_bench.commands.dry_run import dry_run_text
            from caa_bench.commands.terminal import wrapped

            print(wrapped("\n\n".join(map(dry_run_text, made))))
            return 0
        quiet_libraries(options)
        with self.together(made):
            return self.work(made)

    def work(self, made: Sequence[Benchmark]) -> int:
        """Do it; one benchmark a behavior."""
        raise NotImplementedError

    @contextmanager
    def together(self, made: Sequence[Benchmark]) -> Iterator[None]:
        """Where the model is in slices: inside, all ranks compute what this one, the first, does with it."""
        if not self.on_ranks or made[0].chat.loading.parallel == "none":
            yield
            return
        from caa_bench.runs.lockstep import Lockstep

        with Lockstep(plugins=made[0].args.plugins) as ranks:
            for benchmark in made:
                benchmark.replicas = ranks
            yield

    def _follow(self, options: Namespace) -> int:
        """What a rank behind the first does of it.

        What is wrong with it, the first one says: a failure here would have torchrun end that one before it has.
        """
        from caa_bench.models.model import ChatModel

        if options.dry_run or not self.on_ranks:
            return 0
        try:
            recipe = _recipes(options)[0]
            if ChatModel.find(recipe.model, changes=dict(recipe.loading)).loading.parallel == "none":
                return 0
        except UserError:
            return 0
        from caa_bench.runs.lockstep import follow

        quiet_libraries(options)
        return follow()


def benchmarks(options: Namespace) -> list[Benchmark]:
    """One a behavior, all on the same model; every mistake in any of them is found before work begins."""
    from caa_bench.benchmark import Benchmark
    from caa_bench.commands.terminal import columns
    from caa_bench.tracking.progress import Tables

    recipes = _recipes(options)
    made: list[Benchmark] = []
    for recipe in recipes:
        benchmark = Benchmark.from_recipe(
            recipe,
            chat=made[0].chat if made else None,
            callbacks=[Tables(quiet=options.quiet, verbose=options.verbose, terminal=columns())],
            progress=not options.quiet,
            folder=_folder(options, recipe, several=len(recipes) > 1),
        )
        made.append(benchmark)
    return made


def rank_of_process() -> int:
    """This process's number among those that torchrun started; 0 for the first, and without torchrun."""
    return int(os.environ.get("RANK", "0")) if os.environ.get("WORLD_SIZE", "1") != "1" else 0


def add_set(parser: argparse.ArgumentParser) -> None:
    """`--set`, which may be given more than once."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TEXT",
        help='KEY=VALUE, or several in one text: "seed=1 limit=50"',
    )


def add_loudness(parser: argparse.ArgumentParser) -> None:
    """`--quiet` and `--verbose`, one or the other."""
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("--quiet", action="store_true", help="no progress and no tables: the answer alone")
    loudness.add_argument("--verbose", action="store_true", help="every vector, layer and dose; the libraries' advice")


def overrides_of(options: Namespace) -> list[str]:
    """What every `--set` says, in order.

    Raises:
        UserError: a quote or a bracket that is never closed.
    """
    return [override for text in options.set for override in split_overrides(text)]


def quiet_libraries(options: Namespace) -> None:
    """Keep the libraries' advice to their own callers out of what a run prints, unless it is `--verbose`."""
    if options.verbose:
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def run_folders(root: Path) -> list[Path]:
    """Finished and unfinished runs under `root`, the newest last."""
    found = sorted(root.glob("*/*/manifest.json"), key=lambda path: path.stat().st_mtime)
    return [path.parent for path in found]


def run_named(name: str, root: Path = Path("runs")) -> Path:
    """A run by its folder, by the folder's name (`refusal-tiny-1a2b3c4d`) or by the key at its end (`1a2b3c4d`).

    Raises:
        UserError: there is none; names the newest one where there are any.
    """
    if (Path(name) / "manifest.json").is_file():
        return Path(name)
    known = run_folders(root)
    found = [folder for folder in known if folder.name == name or folder.name.endswith(f"-{name}")]
    if len(found) == 1:
        return found[0]
    newest = f"the newest run is {known[-1]}" if known else f"there is no run under {root} either"
    if found:
        raise UserError(f"{terminal_safe(name)}: several runs are called so; give a folder, such as {found[-1]}")
    raise UserError(f"{terminal_safe(name[:200])}: there is no run there; {newest}")


def newest_run(root: Path = Path("runs")) -> Path:
    """The run that changed last.

    Raises:
        UserError: there is none.
    """
    found = run_folders(root)
    if not found:
        raise UserError(f"there is no run under {root}; run caa-bench compare first, or give a run folder")
    return found[-1]


def all_behaviors(recipe: Recipe) -> list[str]:
    """What `behavior: all` comes to for the recipe's model and data.

    Raises:
        UserError: the published splits are needed and not there.
    """
    from caa_bench.behaviors.behavior import behavior_names, published_names
    from caa_bench.behaviors.choice import data_of
    from caa_bench.models.model import is_embedded

    args, embedded = recipe.args, is_embedded(recipe.model)
    data = data_of(args.data, embedded=embedded, behavior="all", data_dir=args.data_dir)
    return behavior_names() if data == "own" else published_names(args.data_dir)


def _recipes(options: Namespace) -> list[Recipe]:
    """The recipe, once a behavior where `behavior` is `all`."""
    recipe = load_recipe(options.recipe, [*overrides_of(options), *options.overrides])
    names = all_behaviors(recipe) if recipe.behavior == "all" else [recipe.behavior]
    return [replace(recipe, behavior=name) for name in names]


def _folder(options: Namespace, recipe: Recipe, *, several: bool) -> Path | None:
    if not options.output:
        return None
    return Path(options.output) / Path(recipe.behavior).name if several else Path(options.output)
