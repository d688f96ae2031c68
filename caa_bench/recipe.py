"""What a recipe holds: the model, the behavior, the arguments, and one section an intervention and evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_type_hints

from caa_bench import evaluators, interventions, judges
from caa_bench.behaviors.behavior import Behavior
from caa_bench.config.values import fields_of
from caa_bench.errors import UserError, too_few
from caa_bench.interventions import Intervention
from caa_bench.interventions.arms import Arm, arm_of, armed_section, classes_of
from caa_bench.interventions.building import Builder, under_protocol
from caa_bench.models.loading import Loading
from caa_bench.storage.paths import is_file, recipes_folder
from caa_bench.storage.plugins import load_plugin

VIEWS = ("report_to", "project", "output_dir")
"""Arguments that decide no result."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkArguments:
    """How a benchmark runs: every top-level recipe key that is no section.

    Args:
        bases: what vectors are put on top of: `none`, `<intervention>_<variant>`, or several joined by `+`.
        vectors: what is put on top of every base; `random` and `shuffled` are placebos of every vector that is named.
        evaluators: what is measured.
        split: `test`, opened once, or `selection`, for choosing layers and doses.
        tune: `layers` finds each vector's layer and dose on the selection split before the test split is opened; `all`
            also the wording of prompts and the scale of finetunes; `off` takes what the recipe says; `auto` is
            `layers` for vectors whose layer the recipe leaves open on a model that nobody has tuned (its config's
            `tuned`), else `off`.
        protocol: `default`, every item in both option orders; `caa`, the paper's exact rule and data use.
        data: `own`, the project's splits in the embedded model's language, or the behavior folder's; `caa`, a folder in
            the published format; `auto`, `own` for the embedded model and for behaviors of the user's, else `caa`.
        data_dir: that folder; null: what `caa-bench data download` fetched.
        limit: only the first so many items of the split; null: all.
        max_pairs: at most so many training pairs for every fit, drawn with both option orders of an item together and
            the letters balanced; null: all. `limit` is about the items that are measured.
        fits: how often each trained intervention is fitted: finetunes with seeds of their own, vectors on bootstrap
            resamples of the training items. With several, every interval holds their differences too.
        seed: of splits, resamples and tests; 0 or more.
        batch_size: items computed together; changes last bits, so it is part of every result's key.
        share_prefix: false recomputes every prompt in full, as a check; much slower.
        draws: resamples behind every interval and p-value.
        report_to: dashboards, `wandb` and `trackio`; views of the results that can never fail a run.
        project: the dashboards' project name.
        output_dir: where run folders and fitted artifacts go.
        plugins: Python files of your own, which are run so that a recipe can name the classes in them.

    Raises:
        UserError: one line a value that a recipe would not take either, in the same words.

    Example:
        >>> from caa_bench import BenchmarkArguments
        >>> BenchmarkArguments(bases=("none", "system_prompt_positive"), limit=50).split
        'test'
    """

    bases: tuple[str, ...] = ("none",)
    vectors: tuple[str, ...] = ("caa", "random", "shuffled")
    evaluators: tuple[str, ...] = ("answer_probability",)
    split: Literal["test", "selection"] = "test"
    tune: Literal["auto", "off", "layers", "all"] = "auto"
    protocol: Literal["default", "caa"] = "default"
    data: Literal["auto", "own", "caa"] = "auto"
    data_dir: str | None = None
    limit: int | None = None
    max_pairs: int | None = None
    fits: int = 1
    seed: int = 0
    batch_size: int = 32
    share_prefix: bool = True
    draws: int = 9999
    report_to: tuple[str, ...] = ("wandb",)
    project: str = "caa_bench"
    output_dir: str = "runs"
    plugins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Lists become tuples; an unknown split or a value of the wrong kind is refused as in a recipe."""
        for name, value in fields_of(type(self), vars(self)).items():
            object.__setattr__(self, name, value)

    def mistakes(self) -> list[str]:
        """One line for each number that nothing can be computed with."""
        given = {"limit": self.limit, "fits": self.fits, "batch_size": self.batch_size, "draws": self.draws}
        few = too_few(given)
        if self.max_pairs is not None and self.max_pairs < 2:
            few.append(f"max_pairs: {self.max_pairs} is too small; give 2 or more, both option orders of an item")
        if self.seed < 0:
            few.append(f"seed: {self.seed} is below 0; give 0 or more")
        if self.tune in ("layers", "all") and (self.protocol == "caa" or self.split != "test"):
            few.append(
                f"tune: {self.tune} chooses on the selection split and then opens the test split; set protocol=default "
                "and split=test, or tune=off"
            )
        if not self.evaluators:
            few.append("evaluators: an empty list; name what is measured, for example [answer_probability]")
        return few


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A parsed recipe.

    Args:
        name: the recipe file's stem.
        model / behavior: names, folders, or for the behavior `all`.
        loading: the model config's keys that this recipe changes.
        args: the top-level keys.
        sections: one config an intervention and evaluator, by section name.
        judges: one config a judge, by name.
        arms: several of one class side by side, each with a name and settings of its own.
        where: dotted key -> `file:line` or `override`, for messages.
    """

    name: str
    model: str
    behavior: str
    loading: Mapping[str, Any]
    args: BenchmarkArguments
    sections: Mapping[str, Any]
    where: Mapping[str, str]
    judges: Mapping[str, Any] = field(default_factory=dict)
    arms: Mapping[str, Arm] = field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """Everything that decides the results, as JSON; the run folder is bound to it."""
        args = {key: value for key, value in asdict(self.args).items() if key not in VIEWS}
        sections = {name: _section_settings(config) for name, config in self.sections.items() if name in self._used()}
        if arms := {name: arm for name, arm in self.arms.items() if name in self._used()}:
            sections["arms"] = {name: {"uses": arm.uses.name, **asdict(arm.config)} for name, arm in arms.items()}
        if named := [name for name in self._judges() if name in self.judges]:
            known = judges.registry()
            sections["judges"] = {name: judges.deciding(self.judges[name], known[name].request_keys) for name in named}
        return {"model": self.model, "behavior": self.behavior, "loading": dict(self.loading)} | args | sections

    def interventions(self, behavior: Behavior, *, given: Sequence[Intervention] = ()) -> list[Intervention]:
        """Every intervention that the bases and vectors name, each once, originals before placebos.

        Args:
            given: those that are there already, by their labels; the others are built from their sections.

        Raises:
            UserError: a name that no intervention has; one line each.
        """
        builder = Builder(
            behavior=behavior,
            sections=self.sections,
            protocol=self.args.protocol,
            vectors=self.args.vectors,
            given={one.label: under_protocol(one, self.args.protocol) for one in given},
            located=self.located,
            arms=self.arms,
        )
        return builder.build(self._labels())

    def evaluators(self, *, given: Sequence[evaluators.Evaluator] = ()) -> list[evaluators.Evaluator]:
        """Every evaluator that the recipe names.

        Args:
            given: those that are there already.

        Raises:
            UserError: a name that no evaluator has.
        """
        known, there = evaluators.registry(), {one.name: one for one in given}
        unknown = [name for name in self.args.evaluators if name not in known]
        if unknown:
            raise UserError(
                *(self.located(f"evaluators: {name!r} is unknown; use {', '.join(known)}") for name in unknown)
            )
        data_dir = None if self.args.data_dir is None else Path(self.args.data_dir)
        return [
            there.get(name) or known[name].build(self.sections[name], data_dir=data_dir, judges=self.judges)
            for name in self.args.evaluators
        ]

    def _judges(self) -> list[str]:
        """The judges that the used evaluators name."""
        used = [self.sections[name] for name in self.args.evaluators if name in self.sections]
        return [judge for config in used for judge in getattr(config, "judges", ())]

    def _labels(self) -> list[tuple[str, str]]:
        bases = [("bases", part) for base in self.args.bases for part in base.split("+")]
        return list(dict.fromkeys(bases + [("vectors", name) for name in self.args.vectors]))

    def _used(self) -> set[str]:
        classes = interventions.registry()
        found = [arm_of(label, self.arms, classes) for _, label in self._labels()]
        return {arm.name for arm in found if arm is not None} | set(self.args.evaluators)

    def located(self, line: str) -> str:
        """A mistake with the place of the key it begins with in front."""
        place = self.where.get(line.split(":", 1)[0])
        return f"{place}: {line}" if place else line


def schema(arms: Mapping[str, type[Intervention]] = MappingProxyType({})) -> type:
    """The recipe file as a dataclass: arguments, then a section for each intervention, evaluator and judge there is.

    Args:
        arms: the class of each named arm; its entry has the keys of the class's section.
    """
    plain: list[Any] = [
        ("model", str, field(default="tiny")),
        ("behavior", str, field(default="refusal")),
        ("loading", Loading, field(default_factory=Loading)),
    ]
    types = get_type_hints(BenchmarkArguments)
    plain += [(f.name, types[f.name], field(default=f.default)) for f in fields(BenchmarkArguments)]
    known: dict[str, Any] = {**interventions.registry(), **evaluators.registry()}
    judged = _sections("Judges", judges.registry())
    plain.append(("judges", judged, field(default_factory=judged)))
    entries = [(name, armed_section(cls), field(default_factory=armed_section(cls))) for name, cls in arms.items()]
    named = make_dataclass("Arms", entries, frozen=True, kw_only=True)
    plain.append(("arms", named, field(default_factory=named)))
    return _sections("RecipeFile", known, plain)


def _sections(name: str, known: Mapping[str, Any], plain: Sequence[Any] = ()) -> type:
    """A dataclass with the `plain` fields, then a section for each of the known."""
    sections = [(section, cls.Config, field(default_factory=cls.Config)) for section, cls in known.items()]
    return make_dataclass(name, [*plain, *sections], frozen=True, kw_only=True, namespace={"__doc__": name})


def _section_settings(config: Any) -> dict[str, Any]:
    """A section as JSON; a part that knows which of its keys decide a result says so (`Server.settings`)."""
    values = asdict(config)
    for name, part in vars(config).items():
        if hasattr(part, "settings"):
            del values[name]
            values |= part.settings()
    return values


def load_recipe(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and `key=value` overrides.

    Args:
        path: a file, or the name of one in `recipes/` (`layer_sweep`); None: `compare`.
        overrides: `caa.layers=[10,13]`; the last one wins.

    Raises:
        UserError: one line a mistake, with file:line and a suggestion.

    Example:
        >>> from caa_bench import load_recipe
        >>> load_recipe("smoke", ["behavior=sycophancy", "limit=8"]).args.limit
        8
    """
    from caa_bench.config.recipe_yaml import Parsed, entries, load, written

    file = find_recipe("compare" if path is None else path)
    plugins = _plugins(written(file, list(overrides), "plugins", find=_extended), beside=file.parent)
    arms = classes_of(
        entries(file, list(overrides), "arms", find=_extended), interventions.registry(), taken=evaluators.registry()
    )
    parsed: Parsed[Any] = load(file, list(overrides), schema(arms), find=_extended)
    values = {f.name: getattr(parsed.values, f.name) for f in fields(parsed.values)}
    changed = {key.removeprefix("loading."): None for key in parsed.where if key.startswith("loading.")}
    return Recipe(
        name=file.stem,
        model=values["model"],
        behavior=values["behavior"],
        loading={key: getattr(values["loading"], key) for key in changed},
        args=BenchmarkArguments(**{f.name: values[f.name] for f in fields(BenchmarkArguments)} | {"plugins": plugins}),
        sections={name: values[name] for name in (*interventions.registry(), *evaluators.registry())},
        where=parsed.where,
        judges={name: getattr(values["judges"], name) for name in judges.registry()},
        arms={name: Arm.of(name, cls, getattr(values["arms"], name)) for name, cls in arms.items()},
    )


def _plugins(entries: Sequence[tuple[str, str]], *, beside: Path) -> tuple[str, ...]:
    """Run the files before the schema is made, whose sections they add to."""
    mistakes, found = [], []
    for entry, where in entries:
        try:
            found.append(load_plugin(entry, beside=beside))
        except UserError as error:
            mistakes += [f"{where}: {line}" for line in error.lines]
    if mistakes:
        raise UserError(*mistakes)
    return tuple(found)


def find_recipe(path: str | Path) -> Path:
    """The file itself, or the shipped recipe of that name."""
    given = Path(path)
    if is_file(given):
        return given
    shipped = {file.stem: file for file in recipes_folder().glob("*.yaml")}
    if str(given) in (given.stem, given.name, f"recipes/{given.name}") and given.stem in shipped:
        return shipped[given.stem]
    if str(given) == given.stem and (near := get_close_matches(given.stem, shipped, n=1)):
        raise UserError(f"recipe: there is no recipe {given.stem!r}; did you mean {near[0]!r}?")
    return given


def _extended(name: str, folder: Path) -> Path:
    """What `extends:` names: a file beside the one that extends it, else a shipped recipe."""
    beside = folder / name
    return beside if is_file(beside) else folder / find_recipe(name)
