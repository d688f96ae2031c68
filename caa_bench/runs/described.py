"""Objects given in Python -> the recipe that describes the same run, so that both ways in are one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench import evaluators as measured
from caa_bench import judges
from caa_bench.behaviors.behavior import Behavior, load_behavior
from caa_bench.behaviors.choice import data_of
from caa_bench.behaviors.folders import behavior_folder, has_card
from caa_bench.behaviors.records import behavior_from_records
from caa_bench.behaviors.written import kept_behavior
from caa_bench.config.values import made
from caa_bench.errors import UserError
from caa_bench.evaluators import Evaluator
from caa_bench.interventions import Intervention, registry
from caa_bench.interventions.arms import Arm
from caa_bench.interventions.building import intervention_class
from caa_bench.models.loaded import LoadedModel
from caa_bench.models.model import ChatModel
from caa_bench.recipe import BenchmarkArguments, Recipe
from caa_bench.storage.plugins import load_plugin, plugin_name
from caa_bench.storage.registry import code_key, file_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DEFAULT: dict[str, Any] = {key.name: key.default for key in fields(BenchmarkArguments)}


@dataclass(frozen=True, kw_only=True)
class Given:
    """What was passed to `Benchmark`: objects, or names as in a recipe."""

    interventions: Sequence[Intervention | str] = ()
    evaluators: Sequence[Evaluator | str] = ()

    @property
    def made(self) -> list[Intervention]:
        """The interventions that are objects; `none` is in every run by itself."""
        return [one for one in self.interventions if isinstance(one, Intervention) and one.name != "none"]

    @property
    def measuring(self) -> list[Evaluator]:
        """The evaluators that are objects."""
        return [one for one in self.evaluators if isinstance(one, Evaluator)]


def chat_of(model: Any, tokenizer: PreTrainedTokenizerBase | None) -> ChatModel:
    """A model by name or folder, or one that is loaded already.

    Raises:
        UserError: there is no such model, or a tokenizer is missing or too many.
    """
    if isinstance(model, str | Path | ChatModel):
        if tokenizer is not None:
            raise UserError("tokenizer: a model by name brings its own; leave it out, or give a loaded model")
        return model if isinstance(model, ChatModel) else ChatModel.find(str(model))
    return LoadedModel.of(model, tokenizer)


def with_data(args: BenchmarkArguments, *, embedded: bool, behavior: Any) -> BenchmarkArguments:
    """The arguments with `data: auto` decided (`behaviors.choice`), so that the run records what it was measured on.

    Raises:
        UserError: the published splits are needed and not there.
    """
    if isinstance(behavior, Behavior):
        return replace(args, data=behavior.source.data if args.data == "auto" else args.data)
    if behavior == "all":  # of a command that runs one behavior; refused by its name
        return replace(args, data="own" if args.data == "auto" else args.data)
    return replace(args, data=data_of(args.data, embedded=embedded, behavior=behavior, data_dir=args.data_dir))


def behavior_of(given: Any, args: BenchmarkArguments) -> Behavior:
    """Load a behavior with the data that `args` name, or take the one that is given.

    One that exists in memory alone is written beside the results, so that the recipe of the run can name it.

    Raises:
        UserError: there is none, its data has faults, or it was loaded with other data than `args` name.
    """
    if not isinstance(given, str | Path | Behavior):
        given = behavior_from_records(given, protocol=args.protocol, seed=args.seed)
    if isinstance(given, Behavior):
        wrong = [key for key in ("data", "protocol") if getattr(given.source, key) != getattr(args, key)]
        if wrong:
            said = [f"{key}: the behavior was loaded with {getattr(given.source, key)!r}" for key in wrong]
            raise UserError(*(f"{line}, the arguments say otherwise; give both the same" for line in said))
        if has_card(given.source.beside / given.id):
            return given
        given = replace(given, source=replace(given.source, max_pairs=args.max_pairs))
        return kept_behavior(given, Path(args.output_dir) / "behaviors")
    return load_behavior(
        given,
        data="own" if args.data == "auto" else args.data,  # `with_data` has decided
        data_dir=None if args.data_dir is None else Path(args.data_dir),
        protocol=args.protocol,
        seed=args.seed,
        max_pairs=args.max_pairs,
    )


def recipe_of(given: Given, *, args: BenchmarkArguments, chat: ChatModel, behavior: Behavior) -> Recipe:
    """The recipe that says the same.

    Raises:
        UserError: two objects of one class with different settings, one that nothing names, a class without a name.
    """
    args = replace(args, plugins=tuple(load_plugin(entry) for entry in args.plugins))
    _refuse_nameless(given.made)
    args = _as_named(given, args)
    known: dict[str, Any] = {**registry(), **measured.registry()}
    sections = {name: cls.Config() for name, cls in known.items()}
    found = _merged([(one.name, one.section(behavior)) for one in given.made if not one.arm])
    arms = _merged([(one.arm, one.section(behavior)) for one in given.made if one.arm])
    classes = {one.arm: type(one) for one in given.made if one.arm}
    found |= _merged([(one.name, _measured_section(one)) for one in given.measuring])
    sections |= {name: made(type(sections[name]), values, key=name) for name, values in found.items()}
    return Recipe(
        name="run",
        model=chat.name,
        behavior=behavior_folder(behavior.id, beside=behavior.source.beside),
        loading=_changed(chat),
        args=args,
        sections=sections,
        where={},
        judges={name: cls.Config() for name, cls in judges.registry().items()}
        | {judge.name: judge.config for one in given.measuring for judge in getattr(one, "judges", ())},
        arms={
            name: Arm(name=name, uses=cls, config=made(cls.Config, arms[name], key=f"arms.{name}"))
            for name, cls in classes.items()
        },
    )


def unnamed_code(given: Given) -> dict[str, str]:
    """The code of every class that only this process knows, of a script or a notebook, by name: no plugin names it."""
    objects: list[Intervention | Evaluator] = [*given.made, *given.measuring]
    return {one.name: key for one in objects if file_of(type(one)) is None and (key := code_key(type(one)))}


def _as_named(given: Given, args: BenchmarkArguments) -> BenchmarkArguments:
    """The arguments with `bases`, `vectors`, `evaluators` and `plugins` as a recipe of the same run has them."""
    roles = {label: (role, placebo) for label, role, placebo in map(_role, given.interventions) if label != "none"}
    vectors, bases = args.vectors, args.bases
    if vectors == _DEFAULT["vectors"]:
        vectors = _default_vectors(roles, stacked={part for base in bases for part in base.split("+")})
    if bases == _DEFAULT["bases"]:
        bases = (*bases, *(label for label, (role, _) in roles.items() if role == "base" and label not in vectors))
    named = {*vectors, *(part for base in bases for part in base.split("+"))}
    unused = [label for label, (_, placebo) in roles.items() if not {label, placebo} & named]
    if unused:
        raise UserError(f"interventions: {', '.join(unused)}: named in neither bases nor vectors; add it there")
    names = tuple(one if isinstance(one, str) else one.name for one in given.evaluators) or args.evaluators
    if args.evaluators not in (_DEFAULT["evaluators"], names):
        raise UserError(
            f"evaluators: {', '.join(names)} are given, and the arguments name {', '.join(args.evaluators)}; "
            "leave one of them out"
        )
    files = [file_of(type(one)) for one in (*given.made, *given.measuring)]
    plugins = dict.fromkeys([*args.plugins, *(plugin_name(path) for path in files if path is not None)])
    return replace(args, bases=bases, vectors=vectors, evaluators=names, plugins=tuple(plugins))


def _default_vectors(roles: Mapping[str, tuple[str, str]], *, stacked: set[str]) -> tuple[str, ...]:
    """The given vectors with the default's placebos, or with those that are given too; without any, the default."""
    vectors = [label for label, (role, placebo) in roles.items() if role == "vector" and not placebo]
    own = [label for label in vectors if label not in stacked]
    if vectors and not own:
        return ()
    placebos = dict.fromkeys(placebo for _, placebo in roles.values() if placebo)
    default: tuple[str, ...] = _DEFAULT["vectors"]
    known = registry()
    usual = [name for name in default if known[name].is_placebo]
    return (*(own or [name for name in default if name not in usual]), *(placebos or usual))


def _role(one: Intervention | str) -> tuple[str, str, str]:
    """The label, the role, and the class's name where it is a placebo."""
    if isinstance(one, Intervention):
        return one.label, one.role, one.name if one.is_placebo else ""
    cls = intervention_class(one)
    if cls is None:
        raise UserError(f"interventions: {one!r} is no intervention; names begin with one of {', '.join(registry())}")
    return one, cls.role, cls.name if cls.is_placebo else ""


def _measured_section(one: Evaluator) -> dict[str, Any]:
    named = [judge.name for judge in getattr(one, "judges", ())]
    return asdict(one.config) | ({"judges": tuple(named)} if named else {})


def _merged(sections: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """One section a name; mappings (a prompt's texts) are joined, everything else must be the same."""
    found: dict[str, dict[str, Any]] = {}
    for name, values in sections:
        there = found.setdefault(name, dict(values))
        for key, value in values.items():
            if isinstance(value, Mapping) and isinstance(there[key], Mapping):
                there[key] = {**there[key], **value}
            elif there[key] != value:
                raise UserError(
                    f"{name}.{key}: {there[key]!r} in one of the given, {value!r} in another; a run has one section a "
                    f'name: give both the same, or name one, as {name}(...).named("my_{name}")'
                )
    return found


def _refuse_nameless(interventions: Sequence[Intervention]) -> None:
    known = registry()
    for one in interventions:
        if one.name not in known:
            raise UserError(
                f'interventions: {type(one).__name__} has no name of its own; write `name = "..."` in the class, by '
                "which recipes, tables and artifacts know it"
            )


def _changed(chat: ChatModel) -> dict[str, Any]:
    """What is loaded otherwise than the model's own config says."""
    try:
        usual = ChatModel.find(chat.name).loading
    except UserError:  # a loaded model that was never saved
        return {}
    now = asdict(chat.loading)
    return {key: value for key, value in now.items() if value != getattr(usual, key) and key != "source"}
