"""Recipes: what is read, and the one line that each mistake costs."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caa_bench.config.recipe_yaml import dump, flatten, load, split_overrides
from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe


@dataclass(frozen=True, kw_only=True)
class Vector:
    layers: tuple[int, ...] | Literal["all"] = (3,)
    multipliers: tuple[float, ...] = (-1.0, 1.0)
    normalize: Literal["none", "behaviors"] = "none"
    range: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        lines = []
        if not self.multipliers:
            lines.append("multipliers: empty; write at least one")
        if self.range[0] > self.range[1]:
            lines.append(f"range: starts at {self.range[0]} after it ends at {self.range[1]}; swap them")
        if lines:
            raise ValueError("\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class Adapter:
    rank: int = 8
    learning_rate: float = 1e-4
    targets: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    model: str
    seed: int = 0
    share_prefix: bool = True
    limit: int | None = None
    dose: float | int = 1
    revision: str | None = None
    report_to: tuple[Literal["wandb", "trackio"], ...] = ()
    caa: Vector = field(default_factory=Vector)
    lora_sft: Adapter | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    scales: dict[str, Vector] = field(default_factory=dict)


KEYS = "model, seed, share_prefix, limit, dose, revision, report_to, caa, lora_sft, prompts, scales"

# A bad recipe and all the lines it must cost; `model: tiny` is added in front, so the first line written here is 2.
BAD: dict[str, tuple[str, list[str]]] = {
    "unknown key with a near one": ("sead: 1", ["r.yaml:2: sead: unknown key; did you mean 'seed'?"]),
    "unknown key with none near": ("zzz: 1", [f"r.yaml:2: zzz: unknown key; valid keys: {KEYS}"]),
    "unknown nested key": ("caa:\n  layer: 3", ["r.yaml:3: caa.layer: unknown key; did you mean 'layers'?"]),
    "key of another section": ("rank: 4", ["r.yaml:2: rank: unknown key; did you mean 'lora_sft.rank'?"]),
    "dotted key in a file": (
        "caa.layers: [3]",
        ["r.yaml:2: caa.layers: unknown key; write `layers:` indented under `caa:`"],
    ),
    "text for an integer": (
        "seed: one",
        ["r.yaml:2: seed: expected an integer, found the text 'one'; write an integer"],
    ),
    "float for an integer": ("seed: 1.0", ["r.yaml:2: seed: expected an integer, found 1.0; write an integer"]),
    "boolean for an integer": ("seed: true", ["r.yaml:2: seed: expected an integer, found true; write an integer"]),
    "underscored integer": (
        "seed: 1_000",
        ["r.yaml:2: seed: expected an integer, found the text '1_000'; write an integer"],
    ),
    "hexadecimal integer": (
        "seed: 0x1F",
        ["r.yaml:2: seed: expected an integer, found the text '0x1F'; write an integer"],
    ),
    "date for an integer": (
        "seed: 2024-01-01",
        ["r.yaml:2: seed: expected an integer, found the text '2024-01-01'; write an integer"],
    ),
    "nothing for an integer": ("seed:", ["r.yaml:2: seed: expected an integer, found nothing; write an integer"]),
    "list for an integer": ("seed: [1]", ["r.yaml:2: seed: expected an integer, found a list; write an integer"]),
    "mapping for an integer": (
        "seed: {a: 1}",
        ["r.yaml:2: seed: expected an integer, found a mapping; write an integer"],
    ),
    "integer beyond 64 bits": (
        "seed: 99999999999999999999",
        ["r.yaml:2: seed: 99999999999999999999 is beyond 64 bits; write a smaller number, or quote it"],
    ),
    "yes for a boolean": (
        "share_prefix: yes",
        ["r.yaml:2: share_prefix: expected true or false, found the text 'yes'; write true or false"],
    ),
    "one for a boolean": (
        "share_prefix: 1",
        ["r.yaml:2: share_prefix: expected true or false, found 1; write true or false"],
    ),
    "text for a number": (
        "lora_sft: {learning_rate: fast}",
        [
            "r.yaml:2: lora_sft.learning_rate: expected a number, found the text 'fast'; "
            "write it in digits, like 0.5 or 1e-4",
        ],
    ),
    "boolean for a number": (
        "lora_sft: {learning_rate: true}",
        ["r.yaml:2: lora_sft.learning_rate: expected a number, found true; write a number"],
    ),
    "infinity": (
        "lora_sft: {learning_rate: .inf}",
        ["r.yaml:2: lora_sft.learning_rate: inf is not a finite number; write one that is"],
    ),
    "overflow": (
        "lora_sft: {learning_rate: 1e999}",
        ["r.yaml:2: lora_sft.learning_rate: inf is not a finite number; write one that is"],
    ),
    "not a number": (
        "caa: {multipliers: [1, .nan]}",
        ["r.yaml:2: caa.multipliers[1]: nan is not a finite number; write one that is"],
    ),
    "number for text": (
        "revision: 1e5",
        ["r.yaml:2: revision: expected text, found 100000.0; put it in quotes"],
    ),
    "boolean for text": (
        "prompts: {a: true}",
        ["r.yaml:2: prompts.a: expected text, found true; put it in quotes"],
    ),
    "nothing for text": ("prompts:\n  a:", ["r.yaml:3: prompts.a: expected text, found nothing; write text"]),
    "optional integer": (
        "limit: few",
        ["r.yaml:2: limit: expected an integer, found the text 'few'; write an integer"],
    ),
    "scalar for a list of numbers": (
        "caa: {multipliers: 2}",
        ["r.yaml:2: caa.multipliers: expected a list of numbers, found 2; write [2]"],
    ),
    "scalar for a list in a union": (
        "caa: {layers: 13}",
        ["r.yaml:2: caa.layers: expected a list of integers, found 13; write [13]"],
    ),
    "text for a list in a union": (
        "caa: {layers: some}",
        [
            "r.yaml:2: caa.layers: expected a list of integers or one of 'all', found the text 'some'; "
            "write one of these"
        ],
    ),
    "wrong element": (
        "caa:\n  layers:\n  - 3\n  - four",
        ["r.yaml:5: caa.layers[1]: expected an integer, found the text 'four'; write an integer"],
    ),
    "wrong element length": (
        "caa: {range: [1, 2, 3]}",
        ["r.yaml:2: caa.range: expected 2 values, found 3; write all of them"],
    ),
    "scalar for a fixed list": (
        "caa: {range: 1}",
        ["r.yaml:2: caa.range: expected a list of 2, found 1; write [1]"],
    ),
    "mapping for a list": (
        "caa: {multipliers: {a: 1}}",
        ["r.yaml:2: caa.multipliers: expected a list of numbers, found a mapping; write it in brackets, like [x]"],
    ),
    "unknown choice with a near one": (
        "caa: {normalize: behavior}",
        [
            "r.yaml:2: caa.normalize: expected one of 'none', 'behaviors', found the text 'behavior'; "
            "did you mean 'behaviors'?"
        ],
    ),
    "unknown choice in a list": (
        "report_to: [wandb, x]",
        ["r.yaml:2: report_to[1]: expected one of 'wandb', 'trackio', found the text 'x'; choose one of them"],
    ),
    "scalar for a list of choices": (
        "report_to: wandb",
        [
            "r.yaml:2: report_to: expected a list of values, each one of 'wandb', 'trackio', found the text 'wandb'; "
            "write [wandb]",
        ],
    ),
    "null for a choice": (
        "caa: {normalize: null}",
        ["r.yaml:2: caa.normalize: expected one of 'none', 'behaviors', found nothing; choose one of them"],
    ),
    "empty section": (
        "caa:",
        [
            "r.yaml:2: caa: expected a section with the keys layers, multipliers, normalize, range, found nothing; "
            "write its keys below it, or delete the line"
        ],
    ),
    "text for a section": (
        "caa: high",
        [
            "r.yaml:2: caa: expected a section with the keys layers, multipliers, normalize, range, "
            "found the text 'high'; write its keys below it, or delete the line"
        ],
    ),
    "text for an optional section": (
        "lora_sft: on",
        [
            "r.yaml:2: lora_sft: expected a section with the keys rank, learning_rate, targets, "
            "found the text 'on'; write its keys below it, or delete the line"
        ],
    ),
    "text for a mapping": (
        "prompts: hello",
        ["r.yaml:2: prompts: expected a mapping of names to text, found the text 'hello'; write `name: value` lines"],
    ),
    "dot in a name": ("prompts: {a.b: x}", ["r.yaml:2: prompts.a.b: a name cannot hold a dot; replace it"]),
    "mistake in a mapping of sections": (
        "scales:\n  big:\n    layer: [1]",
        ["r.yaml:4: scales.big.layer: unknown key; did you mean 'layers'?"],
    ),
    "value refused by the section": (
        "caa:\n  layers: [1]\n  multipliers: []",
        ["r.yaml:4: caa.multipliers: empty; write at least one"],
    ),
    "two values refused by the section": (
        "caa:\n  multipliers: []\n  range: [2, 1]",
        [
            "r.yaml:3: caa.multipliers: empty; write at least one",
            "r.yaml:4: caa.range: starts at 2 after it ends at 1; swap them",
        ],
    ),
    "several mistakes": (
        "seed: x\ncaa:\n  layer: 1\nlimmit: 3",
        [
            "r.yaml:2: seed: expected an integer, found the text 'x'; write an integer",
            "r.yaml:4: caa.layer: unknown key; did you mean 'layers'?",
            "r.yaml:5: limmit: unknown key; did you mean 'limit'?",
        ],
    ),
    "duplicate key and another mistake": (
        "seed: 1\nseed: 2\nlimmit: 3",
        [
            "r.yaml:3: seed: duplicate key (first at r.yaml:2); delete one",
            "r.yaml:4: limmit: unknown key; did you mean 'limit'?",
        ],
    ),
    "duplicate nested key": (
        "caa:\n  layers: [1]\n  layers: [2]",
        ["r.yaml:4: caa.layers: duplicate key (first at r.yaml:3); delete one"],
    ),
    "python tag": (
        "revision: !!python/object/apply:os.system ['touch pwned']",
        [
            "r.yaml:2: revision: the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed; "
            "remove it and write the plain value"
        ],
    ),
    "plain tag": (
        "revision: !!str 5",
        ["r.yaml:2: revision: the tag 'tag:yaml.org,2002:str' is not allowed; remove it and write the plain value"],
    ),
    "tab": ("caa:\n\tlayers: [1]", ["r.yaml:3: a tab in the indentation; indent with spaces"]),
    "unclosed bracket": (
        "report_to: [wandb\nseed: 1",
        [
            "r.yaml:3: not valid YAML: expected ',' or ']', but got ':' (it starts at line 2); "
            "check colons, quotes, brackets and indentation"
        ],
    ),
    "unclosed quote": (
        "revision: 'abc\nseed: 1",
        ["r.yaml:2: not valid YAML: found unexpected end of stream; check colons, quotes, brackets and indentation"],
    ),
    "wrong indentation": (
        "caa:\n    layers: [1]\n  range: [1, 2]",
        [
            "r.yaml:4: not valid YAML: expected <block end>, but found '<block mapping start>' (it starts at line 1); "
            "check colons, quotes, brackets and indentation"
        ],
    ),
    "no space after a colon": (
        "seed:1",
        ["r.yaml:2: not valid YAML: could not find expected ':'; check colons, quotes, brackets and indentation"],
    ),
    "second document": ("---\nseed: 1", ["r.yaml:2: a second document; keep one, without `---`"]),
    "unknown alias": ("seed: *here", ["r.yaml:2: *here has no &here before it; add it"]),
    "alias of itself": (
        "prompts: &a {x: *a}",
        ["r.yaml:2: a value contains itself through its own alias; write it out"],
    ),
    "merge of a scalar": ("prompts:\n  <<: 3", ["r.yaml:3: prompts: `<<` needs a mapping; write `<<: *anchor`"]),
    "key that is a list": ("[1, 2]: 3", ["r.yaml:2: a key must be plain text; write `name: value`"]),
    "character that is not allowed": ("revision: a\x07b", ["r.yaml:2: character #x0007 is not allowed; remove it"]),
    "escape beyond unicode": (
        'revision: "\\UFFFFFFFF"',
        ["r.yaml:2: an escape beyond Unicode; correct it"],
    ),
    "too deep": (f"prompts: {'[' * 40}{']' * 40}", ["r.yaml:2: nested deeper than 24 levels; flatten it"]),
    "alias bomb": (
        "prompts:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)),
        ["r.yaml:3: over 20000 values, aliases expanded; shorten it"],
    ),
    "extends a number": ("extends: 3", ["r.yaml:2: extends: expected a file name, found 3; name one YAML file"]),
    "extends a missing file": (
        "extends: bas.yaml",
        ["r.yaml:2: extends: no file 'bas.yaml'; did you mean 'base.yaml'?"],
    ),
    "extends itself": ("extends: r.yaml", ["r.yaml:2: extends: a cycle, r.yaml -> r.yaml; remove one of them"]),
    "extends a file with a mistake": ("extends: bad.yaml", ["bad.yaml:1: sed: unknown key; did you mean 'seed'?"]),
    "a mapping over the base's section": (
        "extends: base.yaml\nlora_sft:\n  rank: big",
        ["r.yaml:4: lora_sft.rank: expected an integer, found the text 'big'; write an integer"],
    ),
    "ANSI escape in a key": ('"\\e[31mseed": 1', ["r.yaml:2: seed: unknown key; did you mean 'seed'?"]),
}


def lines_of(path: Path | None, overrides: list[str] | None = None, schema: type = Recipe) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(path, overrides or [], schema)
    return list(caught.value.lines)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that messages name files shortly."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recipe_costs_its_lines(folder: Path, name: str) -> None:
    (folder / "base.yaml").write_text("lora_sft: {rank: 4}\n")
    (folder / "bad.yaml").write_text("sed: 1\n")
    text, expected = BAD[name]
    Path("r.yaml").write_text(f"model: tiny\n{text}\n")
    assert lines_of(Path("r.yaml")) == expected
    assert not Path("pwned").exists()


BAD_BYTES = {
    "byte order mark": (
        b"\xef\xbb\xbfseed: 1\n",
        "r.yaml:1: starts with a byte order mark; save the file as UTF-8 without one",
    ),
    "UTF-16": (b"\xff\xfes\0", "r.yaml:1: starts with a byte order mark; save the file as UTF-8 without one"),
    "NUL": (b"model: a\nseed: \0\n", "r.yaml:2: contains a NUL byte; save the file as plain UTF-8 text"),
    "Latin-1": (b"model: a\n# caf\xe9\n", "r.yaml:2: not UTF-8 (byte 0xe9); save the file as UTF-8"),
    "huge": (b"# " + b"x" * 200_000, "r.yaml:1: over 64 KiB; a YAML file of this kind is a few KiB, shorten it"),
    "a list": (b"- 1\n", "r.yaml:1: expected `key: value` lines, found a list; write a mapping"),
    "a scalar": (b"hello\n", "r.yaml:1: expected `key: value` lines, found the text 'hello'; write a mapping"),
    "a tag around all": (
        b"!!python/object:os.system {}\n",
        "r.yaml:1: the tag 'tag:yaml.org,2002:python/object:os.system' is not allowed; "
        "remove it and write the plain value",
    ),
    "missing key": (b"seed: 1\n", "r.yaml:1: model: missing; write text"),
}


@pytest.mark.parametrize("name", BAD_BYTES)
def test_a_bad_file_costs_one_line(folder: Path, name: str) -> None:
    data, expected = BAD_BYTES[name]
    Path("r.yaml").write_bytes(data)
    assert lines_of(Path("r.yaml")) == [expected]


BAD_OVERRIDES = {
    "seed": "override: 'seed': not `key=value`; write for example seed=1",
    "=1": "override: '=1': not `key=value`; write for example seed=1",
    "caa..layers=1": "override: 'caa..layers': not a dotted key; write for example caa.layers=[13]",
    "a." * 30 + "b=1": f"override: {('a.' * 30)!r}: not a dotted key; write for example caa.layers=[13]",
    "seed=one": "override: seed: expected an integer, found the text 'one'; write an integer",
    "seed=": "override: seed: expected an integer, found nothing; write an integer",
    "seed.deep=1": "override: seed: expected an integer, found a mapping; write an integer",
    "caa.layer=[1]": "override: caa.layer: unknown key; did you mean 'layers'?",
    "caa.layers=[1": (
        "override: caa.layers: not valid YAML: expected ',' or ']', but got '<stream end>'; "
        "check colons, quotes, brackets and indentation"
    ),
    "seed=!!int 3": (
        "override: seed: the tag 'tag:yaml.org,2002:int' is not allowed; remove it and write the plain value"
    ),
    "seed=\x00": "override: seed: character #x0000 is not allowed; remove it",
    "extends=other.yaml": "override: extends: belongs in a file; write it there, or give another file",
    "caa={layers: [1], multipliers: []}": "override: caa.multipliers: empty; write at least one",
}


@pytest.mark.parametrize("text", BAD_OVERRIDES)
def test_a_bad_override_costs_one_line(folder: Path, text: str) -> None:
    Path("r.yaml").write_text("model: tiny\n")
    assert lines_of(Path("r.yaml"), [text]) == [BAD_OVERRIDES[text]]


def test_mistakes_of_file_and_overrides_come_together(folder: Path) -> None:
    Path("r.yaml").write_text("model: tiny\nsead: 1\n")
    assert lines_of(Path("r.yaml"), ["q", "limit=x"]) == [
        "override: 'q': not `key=value`; write for example seed=1",
        "r.yaml:2: sead: unknown key; did you mean 'seed'?",
        "override: limit: expected an integer, found the text 'x'; write an integer",
    ]


def test_an_override_leaves_a_section_where_the_file_has_it(folder: Path) -> None:
    Path("r.yaml").write_text("# a comment\n\nseed: 1\ncaa:\n  layers: [1]\n")
    assert lines_of(Path("r.yaml"), ["seed=2"]) == ["r.yaml:3: model: missing; write text"]
    assert load(Path("r.yaml"), ["model=a", "caa.range=[1, 2]"], Recipe).where["caa"] == "r.yaml:4"
    assert lines_of(None, []) == ["recipe: model: missing; write text"]


def test_a_missing_recipe_names_its_neighbor(folder: Path) -> None:
    Path("compare.yaml").write_text("")
    assert lines_of(Path("compar.yaml")) == ["compar.yaml: no such file; did you mean 'compare.yaml'?"]
    assert lines_of(Path("compare")) == ["compare: no such file; did you mean 'compare.yaml'?"]
    assert lines_of(Path("no/such/place.yaml")) == ["no/such/place.yaml: no such file; give the path of a YAML file"]
    assert lines_of(folder) == [f"{folder}: no such file; give the path of a YAML file"]
    assert len(lines_of(Path("x" * 5000))) == len(lines_of(Path("a\0b"))) == 1


def test_a_cycle_of_files_is_named(folder: Path) -> None:
    for name, base in (("a", "b"), ("b", "c"), ("c", "a")):
        Path(f"{name}.yaml").write_text(f"extends: {base}.yaml\n")
    assert lines_of(Path("a.yaml")) == [
        "c.yaml:1: extends: a cycle, a.yaml -> b.yaml -> c.yaml -> a.yaml; remove one of them"
    ]


def test_a_thousand_mistakes_are_cut_to_fifty(folder: Path) -> None:
    Path("r.yaml").write_text("model: tiny\n" + "".join(f"key{i}: 1\n" for i in range(1000)))
    lines = lines_of(Path("r.yaml"))
    assert len(lines) == 51
    assert lines[-1] == "r.yaml:1: 950 more mistakes; correct these first"


def test_extends_merges_mappings_and_replaces_lists(folder: Path) -> None:
    Path("deep").mkdir()
    Path("base.yaml").write_text(
        "model: a\nseed: 1\ncaa:\n  layers: [1, 2]\n  multipliers: [2]\nprompts: {x: p, y: q}\n"
    )
    Path("deep/middle.yaml").write_text("extends: ../base.yaml\ncaa:\n  layers: [3]\nprompts: {y: r}\n")
    Path("r.yaml").write_text("extends: deep/middle.yaml\nseed: 5\nlora_sft: {}\n")
    parsed = load(Path("r.yaml"), ["caa.range=[4, 5]", "seed=6", "seed=7"], Recipe)
    assert parsed.values == Recipe(
        model="a",
        seed=7,
        caa=Vector(layers=(3,), multipliers=(2.0,), range=(4, 5)),
        lora_sft=Adapter(),
        prompts={"x": "p", "y": "r"},
    )
    where = parsed.where
    assert where["model"] == "base.yaml:1"
    assert where["caa.layers"] == "deep/middle.yaml:3"
    assert where["caa.multipliers"] == "base.yaml:5"
    assert where["seed"] == where["caa.range"] == "override"
    assert "limit" not in where


def test_null_replaces_a_section(folder: Path) -> None:
    Path("base.yaml").write_text("model: a\nlora_sft: {rank: 4}\n")
    Path("r.yaml").write_text("extends: base.yaml\nlora_sft: null\n")
    assert load(Path("r.yaml"), [], Recipe).values.lora_sft is None
    assert load(Path("r.yaml"), ["lora_sft.rank=2"], Recipe).values.lora_sft == Adapter(rank=2)


def test_find_says_where_an_extended_file_is(folder: Path) -> None:
    Path("shipped").mkdir()
    Path("shipped/base.yaml").write_text("model: a\n")
    Path("r.yaml").write_text("extends: base\n")
    parsed = load(Path("r.yaml"), [], Recipe, find=lambda name, folder: folder / "shipped" / f"{name}.yaml")
    assert parsed.values.model == "a"


def test_yaml_surprises_are_gone(folder: Path) -> None:
    """yes/no/on/off and dates stay text, 1e-4 is a number, an integer is a number, an anchor is its value."""
    Path("r.yaml").write_text(
        "model: no\nrevision: 2024-01-01\ndose: 1\n"
        "lora_sft: {learning_rate: 1e-4, targets: [on, off, yes, 1:30]}\n"
        "caa: {multipliers: &m [1, -.5, 2., 1E3]}\n"
        "scales: {a: {multipliers: *m}, b: &b {layers: all}, c: {<<: *b}, d: {<<: *b, layers: [9]}}\n"
    )
    values = load(Path("r.yaml"), [], Recipe).values
    assert (values.model, values.revision) == ("no", "2024-01-01")
    assert values.lora_sft == Adapter(learning_rate=0.0001, targets=("on", "off", "yes", "1:30"))
    assert values.caa.multipliers == (1.0, -0.5, 2.0, 1000.0) == values.scales["a"].multipliers
    assert values.scales["b"] == values.scales["c"] == Vector(layers="all")
    assert values.scales["d"] == Vector(layers=(9,))
    assert type(values.caa.multipliers[0]) is float
    assert type(values.dose) is int
    assert type(load(Path("r.yaml"), ["dose=1.0"], Recipe).values.dose) is float


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\r\n", "null\n"])
def test_an_empty_file_is_all_defaults(folder: Path, text: str) -> None:
    Path("r.yaml").write_bytes(text.encode())
    assert load(Path("r.yaml"), [], Vector).values == Vector()
    assert load(None, [], Vector).values == Vector()


def test_windows_line_ends_are_read_and_counted(folder: Path) -> None:
    Path("r.yaml").write_bytes(b"model: a\r\nseed: 1\r\nsead: 2\r\n")
    assert lines_of(Path("r.yaml")) == ["r.yaml:3: sead: unknown key; did you mean 'seed'?"]


def test_overrides_split_outside_of_quotes_and_brackets() -> None:
    text = "caa.layers=[10, 13]  seed=1\nprompts={x: 'a  ]b'} revision=\"a b\" model=don't"
    assert split_overrides(text) == [
        "caa.layers=[10, 13]",
        "seed=1",
        "prompts={x: 'a  ]b'}",
        'revision="a b"',
        "model=don't",
    ]
    assert split_overrides("  ") == []
    for unclosed in ("a=[1", "a='x", 'a={b: "c}'):
        with pytest.raises(UserError, match="never closed; close it"):
            split_overrides(unclosed)


def test_flatten_gives_dotted_json_ready_keys() -> None:
    flat = flatten(Recipe(model="a", lora_sft=Adapter(targets=("q", "v")), prompts={"x": "p"}))
    assert flat["caa.layers"] == [3]
    assert flat["lora_sft.targets"] == ["q", "v"]
    assert flat["prompts.x"] == "p"
    assert flat["limit"] is None


# Everything YAML can hold in quotes: lone surrogates cannot be written to a file at all.
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
NAMES = TEXTS.filter(lambda name: name not in ("", "<<") and "." not in name)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VECTORS = st.builds(
    Vector,
    layers=st.just("all") | st.lists(st.integers(-(2**62), 2**62), max_size=3).map(tuple),
    multipliers=st.lists(FLOATS, min_size=1, max_size=3).map(tuple),
    normalize=st.sampled_from(("none", "behaviors")),
)
ADAPTERS = st.builds(Adapter, learning_rate=FLOATS, targets=st.none() | st.lists(TEXTS, max_size=3).map(tuple))
RECIPES = st.builds(
    Recipe,
    model=TEXTS,
    seed=st.integers(-(2**63) + 1, 2**63 - 1),
    share_prefix=st.booleans(),
    limit=st.none() | st.integers(0, 9),
    dose=FLOATS | st.integers(-9, 9),
    revision=st.none() | TEXTS | st.sampled_from(["null", "true", "1e5", "~", "no", "-", "? a", "a: b", "#", "1"]),
    caa=VECTORS,
    lora_sft=st.none() | ADAPTERS,
    prompts=st.dictionaries(NAMES, TEXTS, max_size=3),
    scales=st.dictionaries(NAMES, VECTORS, max_size=2),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values=RECIPES)
def test_a_dumped_recipe_loads_back_equal(values: Recipe, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("dump") / "r.yaml"
    path.write_bytes(dump(values).encode())
    loaded = load(path, [], Recipe).values
    assert loaded == values
    assert repr(loaded) == repr(values)  # -0.0, and 1 against 1.0
    assert dump(loaded) == dump(values)


SEED = """\
# A recipe that is right, to be broken.
model: tiny
seed: 3
share_prefix: false
dose: 0.5
revision: "a: b"
report_to: [wandb, trackio]
caa: &vector
  layers: [1, 2]
  multipliers:
  - -1
  - 1.5e-1
  normalize: behaviors
lora_sft: {rank: 8, learning_rate: 1e-4, targets: ['q', "v"]}
prompts:
  long: |
    two
    lines
  folded: >-
    one
    line
scales: {x: *vector}
"""
PIECES = [
    *"\t\n\r\0:-[]{}&*!|>'\"%@`#,?~=<.e0\\\x85\u2028\ufeff\x1b\ud7ff\U0001f600",
    *(
        "  ",
        "---\n",
        "...\n",
        "<<: *vector",
        "&a [*a]",
        "!!python/name:os.system",
        "!<x> ",
        "%YAML 3.0\n",
        "%TAG ! x\n",
    ),
    *(
        "9" * 5000,
        "1e9999",
        ".nan",
        "-.inf",
        "null",
        "true",
        "\\x",
        '"\\ud800"',
        '"\\U00110000"',
        "? ",
        "- " * 40,
        "{" * 40,
    ),
    *("extends: r.yaml\n", "extends: [x]\n", "caa: 3\n", "key: " * 5, "x" * 2000, "'" * 7, "[[" * 9, "a: &b\n", "*b"),
]
MUTATIONS: list[Callable[[random.Random, str], str]] = [
    lambda r, text: cut(r, text, ""),
    lambda r, text: cut(r, text, r.choice(PIECES)),
    lambda r, text: insert(r, text, r.choice(PIECES)),
    lambda r, text: insert(r, text, chr(r.choice([r.randrange(32), r.randrange(0xD800), 0x10FFFF]))),
    lambda r, text: "\n".join(r.sample(text.split("\n"), len(text.split("\n")))),
    lambda r, text: insert(r, text, text[: r.randrange(len(text) + 1)]),
    lambda r, text: text[: r.randrange(len(text) + 1)],
]


def cut(r: random.Random, text: str, new: str) -> str:
    start = r.randrange(len(text) + 1)
    return text[:start] + new + text[start + r.randrange(12) :]


def insert(r: random.Random, text: str, new: str) -> str:
    at = r.randrange(len(text) + 1)
    return text[:at] + new + text[at:]


def fuzz(folder: Path, *, count: int, seed: int) -> int:
    """Break recipes and overrides at random; returns how many were refused, each by well-formed lines alone."""
    r = random.Random(seed)
    path, refused = folder / "r.yaml", 0
    for _ in range(count):
        text = SEED
        for _ in range(r.randrange(1, 5)):
            text = r.choice(MUTATIONS)(r, text)
        data = text.encode("utf-8", "surrogatepass")
        if r.random() < 0.05 and data:
            data = data[: (at := r.randrange(len(data)))] + bytes([r.randrange(256)]) + data[at + 1 :]
        path.write_bytes(data)
        overrides = [cut(r, "caa.layers=[1, 2]", r.choice(PIECES)) for _ in range(r.randrange(2))]
        begun = time.process_time()
        try:
            load(path, overrides, Recipe)
        except UserError as error:
            refused += 1
            check_lines(error.lines, path)
        assert time.process_time() - begun < 1, data
    return refused


def check_lines(lines: tuple[str, ...], path: Path) -> None:
    assert lines
    for line in lines:
        start, _, number = line.split(": ")[0].rpartition(":")
        assert line.startswith("override: ") or (start == str(path) and number.isdigit()), line
        assert "; " in line, line
        assert terminal_safe(line) == line


def test_broken_recipes_never_give_a_traceback(tmp_path: Path) -> None:
    assert fuzz(tmp_path, count=500, seed=0) > 300


@pytest.mark.slow
def test_ten_thousand_broken_recipes_never_give_a_traceback(tmp_path: Path) -> None:
    assert fuzz(tmp_path, count=10_000, seed=1) > 6_000


@pytest.mark.parametrize(
    "text",
    [
        "prompts:\n" + "".join(f"  k{i}: 1\n" for i in range(5000)),
        "".join(f"k{i}: 1\n" for i in range(5000)),
        f"caa: {{layers: [{'a, ' * 9000}]}}\n",
        "[" * 60_000,
        "{" * 60_000,
        "- " * 30_000,
        "? " * 30_000,
        "a: &a\n" * 10_000,
        f"model: {'x' * 60_000}\nseed: {'y' * 5_000}\n",
        f"model: '{chr(39) * 60_000}\n",
    ],
    ids=range(10),
)
def test_a_hostile_recipe_is_refused_in_about_a_second(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    begun = time.process_time()
    lines = lines_of(tmp_path / "r.yaml")
    assert time.process_time() - begun < 2
    assert all(len(line) < 1500 for line in lines)


def test_a_check_imports_nothing_heavy() -> None:
    heavy = "torch", "transformers", "pandas", "numpy", "scipy", "pydantic", "safetensors"
    modules = "caa_bench.config.recipe_yaml, caa_bench.runs.folder"
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
