"""The Python API is the command line: the same names, checks, defaults, folders and bytes."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from report_runs import simulate
from small_behavior import PROMPTS, _item
from small_runs import Small, manifest

import caa_bench
from caa_bench import (
    CAA,
    AnswerProbability,
    Behavior,
    Benchmark,
    BenchmarkArguments,
    Callback,
    Condition,
    Intervention,
    LoraSFT,
    RandomDirection,
    SteeringVector,
    SystemPrompt,
    Tracker,
    UserError,
    load_behavior,
    load_recipe,
)
from caa_bench.__main__ import main
from caa_bench.behaviors.records import behavior_from_records
from caa_bench.interventions import ShuffledLabels, registry
from caa_bench.interventions.vectors import letter_differences
from caa_bench.report import make_report

QUICK: dict[str, Any] = {"draws": 99, "limit": 8, "report_to": ()}
ENTRIES = [_item(number) for number in range(36)]


class FirstPairs(SteeringVector):
    """A vector method of a user's own: the mean over the first few pairs."""

    name = "few_pairs"

    def conditions(self, layers):
        """Two doses at the default layer."""
        return [Condition(layer=layers.default, multiplier=dose) for dose in (-8.0, 8.0)]

    def fit(self, model, tokenizer, pairs):
        """Average them."""
        self.vectors = letter_differences(model, tokenizer, list(pairs)[:6]).mean(dim=0)


class Shout(Intervention):
    """A base of a user's own: the question in capitals."""

    name = "shout"

    def rewrite(self, messages):
        """All of them."""
        return [{**message, "content": message["content"].replace("Please", "PLEASE")} for message in messages]


class Listener(Tracker):
    """A tracker of a user's own."""

    name = "listener"
    heard: ClassVar[list[str]] = []

    def on_report(self, *, report):
        """Remember the folder."""
        self.heard.append(f"{self.project}: {report.folder}")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def benchmark(small: Small, **more: Any) -> Benchmark:
    """A comparison of seconds; `more` wins."""
    args = BenchmarkArguments(**(QUICK | more.pop("args", {})))
    return Benchmark(more.pop("model", str(small.model)), **{"behavior": str(small.behavior), "args": args} | more)


def refusal(made: Any) -> str:
    """What making it is refused with."""
    with pytest.raises(UserError) as error:
        made()
    return str(error.value)


WRONG: dict[str, dict[str, Any]] = {
    "split=tset": {"split": "tset"},
    "protocol=paper": {"protocol": "paper"},
    "data=mine": {"data": "mine"},
    "limit=few": {"limit": "few"},
    "draws=1.5": {"draws": 1.5},
    "bases=none": {"bases": "none"},
    "share_prefix=1": {"share_prefix": 1},
    "output_dir=3": {"output_dir": 3},
}


@pytest.mark.parametrize("override", WRONG)
def test_an_argument_is_refused_with_the_sentence_of_the_recipe(override: str) -> None:
    in_yaml = refusal(lambda: load_recipe("compare", [override]))
    assert refusal(lambda: BenchmarkArguments(**WRONG[override])) == in_yaml.removeprefix("override: ")


def test_numbers_that_nothing_can_be_computed_with_are_refused_before_anything_runs(small: Small, here: Path) -> None:
    wrong = benchmark(small, args={"limit": 0, "draws": 0})
    assert refusal(wrong.fit).splitlines()[:2] == [
        "limit: 0 is too few; give 1 or more",
        "draws: 0 is too few; give 1 or more",
    ]
    assert not (here / "runs").exists()


def test_settings_are_keyword_arguments_checked_as_in_a_recipe() -> None:
    assert CAA(layers=[3], multipliers=[-1, 1]).config == CAA.Config(layers=(3,), multipliers=(-1.0, 1.0))
    assert LoraSFT(rank=4, variant="negative").config.rank == 4
    assert RandomDirection(original=CAA(), seed=3).config.seed == 3
    assert AnswerProbability(multipliers=[2]).config.multipliers == (2.0,)
    for text, made in {
        "caa.layer=[3]": lambda: CAA(layer=[3]),
        "caa.layers=some": lambda: CAA(layers="some"),
        "caa.multipliers=[0]": lambda: CAA(multipliers=[0]),
        "lora_sft.rank=0": lambda: LoraSFT(rank=0),
        "lora_sft.target=words": lambda: LoraSFT(LoraSFT.Config(target="words")),  # type: ignore[arg-type]
    }.items():
        in_yaml = refusal(lambda text=text: load_recipe("compare", [text])).removeprefix("override: ")
        assert refusal(made).split(";")[0] == in_yaml.split(";")[0].partition("recipes/")[0]
    assert "give either a config or its keys" in refusal(lambda: CAA(CAA.Config(), layers=[3]))


def test_the_same_run_in_yaml_and_in_python_has_the_same_bytes(small: Small, here: Path) -> None:
    """Folder key, rows and manifest; by objects, and by names."""
    prompt = "You turn down every request."
    (here / "ours.yaml").write_text(
        f"model: {small.model}\nbehavior: {small.behavior}\nbases: [none, system_prompt_mine]\n"
        f"limit: 8\ndraws: 99\nreport_to: []\ncaa: {{multipliers: [-8, 8]}}\n"
        f"system_prompt: {{texts: {{mine: {prompt}}}}}\n"
    )
    assert main(["compare", "--recipe", "ours.yaml"]) == 0
    (in_yaml,) = (here / "runs/ours").iterdir()
    objects = [SystemPrompt(variant="mine", text=prompt), CAA(multipliers=[-8, 8])]
    in_python = benchmark(small, interventions=objects, args={}).compare()
    assert in_python.report().folder.name == in_yaml.name
    for name in ("rows.jsonl", "manifest.json", "recipe.yaml", "cells.csv", "stacking.csv"):
        assert (in_python.folder / name).read_bytes() == (in_yaml / name).read_bytes(), name
    assert main(["check", "--recipe", str(in_python.folder / "recipe.yaml")]) == 0
    again = Benchmark.from_recipe(load_recipe(in_python.folder / "recipe.yaml"))
    assert again.folder.name == in_yaml.name
    assert manifest(in_yaml)["facts"]["interventions"] == {
        "system_prompt_mine": {"name": "system_prompt", "role": "base", "placebo_of": ""},
        "caa": {"name": "caa", "role": "vector", "placebo_of": ""},
        "random": {"name": "random", "role": "vector", "placebo_of": "caa"},
        "shuffled": {"name": "shuffled", "role": "vector", "placebo_of": "caa"},
    }


def test_names_stand_for_objects_and_the_defaults_are_the_recipes(small: Small, here: Path) -> None:
    named = benchmark(small, interventions=["caa", "system_prompt_positive"], evaluators=["answer_probability"])
    made = benchmark(small, interventions=[CAA(), SystemPrompt(variant="positive", text=PROMPTS["positive"])])
    assert named.settings == made.settings
    assert list(dict.fromkeys(one.label for one in named.vectors)) == ["caa", "random", "shuffled"]
    assert [one.label for one in named.bases] == ["none", "system_prompt_positive"]
    plain = benchmark(small)
    assert list(dict.fromkeys(one.label for one in plain.vectors)) == ["caa", "random", "shuffled"]
    assert "'kaa' is no intervention" in refusal(lambda: benchmark(small, interventions=["kaa"]))
    unused = refusal(lambda: benchmark(small, interventions=[FirstPairs()], args={"vectors": ("caa",)}))
    assert unused == "interventions: few_pairs: named in neither bases nor vectors; add it there"
    different = [LoraSFT(rank=2), LoraSFT(rank=4, variant="negative")]
    assert refusal(lambda: benchmark(small, interventions=different)).startswith("lora_sft.rank: 2 in one of the given")


@pytest.mark.slow
def test_a_vector_method_of_ones_own_is_a_vector_with_placebos_of_its_own(small: Small, here: Path) -> None:
    """By its role, beside CAA and as CAA."""
    run = benchmark(small, interventions=[CAA(multipliers=[-8, 8]), FirstPairs(), Shout()]).compare()
    labels = ["caa", "few_pairs", "random", "random_few_pairs", "shuffled", "shuffled_few_pairs"]
    assert list(dict.fromkeys(one.label for one in run.vectors)) == labels
    assert [one.label for one in run.bases] == ["none", "shout"]
    vectors = {one.label: one.fitted() for one in run.vectors}
    for label, original in (("random", "caa"), ("shuffled_few_pairs", "few_pairs"), ("random_few_pairs", "few_pairs")):
        assert torch.allclose(vectors[label].norm(dim=-1), vectors[original].norm(dim=-1), rtol=1e-5)
        assert torch.cosine_similarity(vectors[label], vectors[original]).abs().max() < 0.95, "another direction"
    assert torch.cosine_similarity(vectors["random"], vectors["random_few_pairs"]).abs().max() < 0.8
    facts = manifest(run.folder)["facts"]["interventions"]
    assert facts["random_few_pairs"] == {"name": "random", "role": "vector", "placebo_of": "few_pairs"}
    report = run.report()
    assert {"caa", "few_pairs"} <= set(report.stacking["vector"])
    assert set(report.cells["base"]) == {"none", "shout"}
    assert report.cells["log_odds"].nunique() == len(report.cells)


def test_shuffled_labels_of_any_method_are_those_of_caa(small: Small) -> None:
    """The general way, a fit on exchanged pairs, gives what turning the signs of CAA's differences gives."""
    chat, pairs = caa_bench.ChatModel.find(str(small.model)), load_behavior(small.behavior).pairs()
    caa = CAA()
    caa.fit(chat.model, chat.tokenizer, pairs)
    some = {pair.item for pair in pairs[:8]}
    general = SteeringVector.exchanged_vectors(caa, chat.model, chat.tokenizer, pairs, exchanged=some)
    turned = caa.exchanged_vectors(chat.model, chat.tokenizer, pairs, exchanged=some)
    assert torch.allclose(general, turned, atol=1e-5)
    assert not torch.allclose(general, caa.fitted(), atol=1e-2)


def test_a_notebook_steers_in_plain_words_and_leaves_nothing_behind(small: Small) -> None:
    """The same as `attach` with a condition; another dose is another model, afterwards it is the old one."""
    chat, pairs = caa_bench.ChatModel.find(str(small.model)), load_behavior(small.behavior).pairs()
    caa = CAA()
    caa.fit(chat.model, chat.tokenizer, pairs)
    asked = chat.tokenizer("Can you help me?", return_tensors="pt")

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return chat.model(**asked).logits[0, -1]

    before = logits()
    with caa.steer(chat.model, layer=1, multiplier=1.5):
        steered = logits()
    with caa.attach(chat.model, Condition(layer=1, multiplier=1.5)):
        assert torch.equal(logits(), steered)
    assert not torch.equal(steered, before) and torch.equal(logits(), before)
    with SystemPrompt(variant="mine", text="Be kind.").steer(chat.model):
        assert torch.equal(logits(), before)
    assert refusal(lambda: caa.steer(chat.model)).startswith("layer: caa acts in one layer; name it")
    assert refusal(lambda: caa.steer(chat.model, layer=3)) == "layer: 3 does not exist; the model has layers 0 to 2"
    assert "nan is no dose" in refusal(lambda: caa.steer(chat.model, layer=1, multiplier=float("nan")))


def test_a_data_frame_is_a_behavior(small: Small) -> None:
    """As the list of its lines is; what a line does not have is missing there too."""
    import pandas as pd

    entries = [{**entry, **({"cluster": "one"} if place < 3 else {})} for place, entry in enumerate(ENTRIES)]
    made, listed = (behavior_from_records(given) for given in (pd.DataFrame(entries), entries))
    assert (made.train, made.selection, made.test) == (listed.train, listed.selection, listed.test)
    assert {item.cluster for item in (*made.train, *made.selection, *made.test)} >= {"one"}


def test_stacks_are_the_columns_that_one_looks_at(tmp_path: Path) -> None:
    report = make_report(simulate(tmp_path / "run", items=24, bases=("none", "system_prompt_positive")))
    assert len(report.stacks) == len(report.stacking) and report.stacks.shape[1] < 20
    assert {"base", "multiplier", "n", "alone", "on_top", "retention", "retention_low", "verdict"} <= set(report.stacks)
    assert report.stacks["on_top"].tolist() == report.stacking["on_top"].tolist()
    assert report.stacks["retention"].notna().any()


def test_behaviors_and_seeds_have_random_directions_of_their_own(small: Small, tmp_path: Path) -> None:
    pairs = load_behavior(small.behavior).pairs()
    other = load_behavior(shutil.copytree(small.behavior, tmp_path / "other")).pairs()
    caa = CAA()
    caa.vectors = torch.ones(3, 32)
    drawn = []
    for seed, learned in ((0, pairs), (0, pairs), (1, pairs), (0, other)):
        placebo = RandomDirection(original=caa, seed=seed)
        placebo.fit(None, None, learned)  # type: ignore[arg-type]
        drawn.append(placebo.fitted())
    assert torch.equal(drawn[0], drawn[1])
    assert torch.cosine_similarity(drawn[0], drawn[2]).abs().max() < 0.8
    assert torch.cosine_similarity(drawn[0], drawn[3]).abs().max() < 0.8


def test_a_class_of_a_script_saves_and_reads_back(small: Small, here: Path) -> None:
    run = benchmark(small, interventions=[FirstPairs()]).fit()
    (mine,) = (one for one in run.vectors if one.label == "few_pairs")
    mine.save_pretrained("mine")
    for cls in (FirstPairs, SteeringVector, Intervention):
        again = cls.from_pretrained("mine")
        assert type(again) is FirstPairs
        assert torch.equal(again.fitted(), mine.fitted())
    placebo = next(one for one in run.vectors if isinstance(one, ShuffledLabels))
    placebo.save_pretrained(Path("placebo"))
    read = ShuffledLabels.from_pretrained("placebo")
    assert (read.label, type(read.original)) == ("shuffled_few_pairs", FirstPairs)
    assert "holds a 'few_pairs', not a caa" in refusal(lambda: CAA.from_pretrained("mine"))
    assert "there is no such folder" in refusal(lambda: CAA.from_pretrained("nowhere"))


def test_a_class_without_a_name_is_refused_and_two_of_one_name_are_told_apart(small: Small) -> None:
    class Nameless(Intervention):
        pass

    assert "Nameless has no name of its own" in refusal(lambda: benchmark(small, interventions=[Nameless()]))

    class Twin(Intervention):
        name = "shout"

    said = refusal(registry)
    assert "two classes are called 'shout'" in said and "Twin" in said and "test_python_api.py" in said
    del Twin
    gc.collect()
    assert registry()["shout"] is Shout


def test_a_tracker_is_heard_as_in_the_command_line_and_one_that_cannot_start_says_so(
    small: Small, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = benchmark(small, args={"report_to": ("listener",), "vectors": (), "project": "p"}, progress=False)
    report = run.compare().report()
    assert Listener.heard[-1] == f"p: {report.folder}"
    monkeypatch.setattr("caa_bench.tracking.trackio_runs.find_spec", lambda name: None)
    assert "report_to: trackio is not installed" in refusal(lambda: benchmark(small, args={"report_to": ("trackio",)}))
    assert refusal(lambda: benchmark(small, args={"report_to": ("wandbb",)})) == (
        "report_to: 'wandbb' is unknown; did you mean 'wandb'?"
    )


def test_progress_is_shown_and_can_be_left_out(small: Small, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark(small, args={"vectors": ()}).compare()
    assert "1 cells in runs/run" in capsys.readouterr().err
    benchmark(small, args={"vectors": ()}, progress=False, folder="other").compare()
    assert "cells in" not in capsys.readouterr().err


def test_a_loaded_model_is_measured_and_left_as_it_was(small: Small, here: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(small.model).train()
    tokenizer = AutoTokenizer.from_pretrained(small.model)
    padding = tokenizer.pad_token
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    chosen = {"interventions": [CAA(multipliers=[-8, 8])], "args": {"vectors": ("caa",)}}
    loaded = benchmark(small, model=model, tokenizer=tokenizer, **chosen).compare()
    named = benchmark(small, **chosen).compare()
    assert loaded.report().cells["log_odds"].tolist() == named.report().cells["log_odds"].tolist()
    assert all(module.training for module in model.modules())
    assert all(weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert tokenizer.pad_token == padding
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    changed = benchmark(small, model=model, tokenizer=tokenizer, **chosen)
    assert changed.folder != loaded.folder, "other weights are another run"
    assert refusal(lambda: benchmark(small, model=model)).startswith("tokenizer: a loaded model needs its own")
    assert refusal(lambda: benchmark(small, model=3)).startswith("model: a int is no model")


@pytest.mark.parametrize("kind", ["list", "dataset", "splits"])
def test_items_in_memory_are_a_behavior(kind: str, small: Small, here: Path) -> None:
    from datasets import Dataset

    given: Any = {"list": ENTRIES, "dataset": Dataset.from_list(ENTRIES)}.get(kind)
    if kind == "splits":
        given = {"train": ENTRIES[:16], "selection": ENTRIES[16:22], "test": ENTRIES[22:]}
    run = benchmark(small, behavior=given, args={"vectors": ()})
    sizes = [len(getattr(run.behavior, split)) for split in ("train", "selection", "test")]
    assert sizes == ([16, 6, 14] if kind == "splits" else [16, 0, 20])
    folder = run.compare().report().folder
    assert main(["check", "--recipe", str(folder / "recipe.yaml")]) == 0
    assert benchmark(small, behavior=given, args={"vectors": ()}).folder == folder


def test_a_behavior_made_of_records_is_one_that_the_recipe_of_the_run_names(small: Small, here: Path) -> None:
    made = behavior_from_records(ENTRIES, id="own", matching="The answer is the first.")
    run = benchmark(small, behavior=made, interventions=["system_prompt_positive"], args={"vectors": ()})
    assert load_behavior(run.recipe.behavior) == run.behavior
    assert [item.question for item in run.behavior.test] == [item.question for item in made.test]
    assert run.behavior.system_prompts == made.system_prompts
    assert benchmark(small, behavior=run.behavior, args={"vectors": ()}).behavior is run.behavior


def test_what_is_wrong_with_items_in_memory_is_told_by_number(small: Small, here: Path) -> None:
    wrong = [dict(item) for item in ENTRIES]
    del wrong[3]["answer_matching_behavior"]
    splits = {"train": wrong[:16], "selection": wrong[16:22], "test": wrong[22:]}
    assert refusal(lambda: benchmark(small, behavior=splits)).startswith("records[train]:4: ")
    two = {"train": ENTRIES[:20], "selection": ENTRIES[20:]}
    assert "give train, test and perhaps selection" in refusal(lambda: benchmark(small, behavior=two))
    assert refusal(lambda: benchmark(small, behavior=[1, 2])).startswith("records:1: a number in place of an item")
    told = refusal(lambda: benchmark(small, behavior=ENTRIES, interventions=["system_prompt_positive"]))
    assert "items has no system prompt called 'positive'" in told and "write it under system_prompt.texts" in told


def test_what_is_shown_of_objects_is_short(small: Small, here: Path) -> None:
    run = benchmark(small, args={"vectors": ()}, progress=False)
    report = run.compare().report()
    assert repr(CAA(layers=[3])) == "CAA(layers=(3,))"
    assert repr(run).startswith("Benchmark('small' on ") and "none" in repr(run)
    assert repr(report).startswith("Report('") and "small on " in repr(report) and "1 cells" in repr(report)
    assert report._repr_html_().startswith("<div><p>") and "<script" not in report._repr_html_()
    assert repr(run.behavior) == "Behavior('small': 12 train, 4 selection, 24 test, 4 open_ended)"
    assert max(len(repr(one)) for one in (run, report, run.behavior, run.behavior.pairs())) < 500
    assert caa_bench.__version__.count(".") >= 1
    assert isinstance(run.behavior, Behavior) and issubclass(Listener, Callback)


@pytest.fixture
def hub(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A hub of one repository, `me/vector`, spoken to over HTTP by the hub's own library; its address and its files."""
    files = here / "served"

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self, *, body: bool) -> None:
            path = self.path.split("?")[0]
            if path in ("/api/models/me/vector", "/api/models/me/vector/revision/main"):
                content = json.dumps({"id": "me/vector", "sha": "a" * 40}).encode()
            elif path == f"/api/models/me/vector/tree/{'a' * 40}":
                oid = "b" * 40
                sizes = [(file.name, file.stat().st_size) for file in files.iterdir()]
                found = [{"type": "file", "path": name, "size": size, "oid": oid} for name, size in sizes]
                content = json.dumps(found).encode()
            elif path.startswith(f"/me/vector/resolve/{'a' * 40}/") and (files / Path(path).name).is_file():
                content = (files / Path(path).name).read_bytes()
            else:
                code = "RevisionNotFound" if "me/vector" in path else "RepoNotFound"
                self.send_response(404)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hash(content) & (2**64 - 1):x}"')
            self.send_header("X-Repo-Commit", "a" * 40)
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()


def from_hub(code: str, *, address: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, since the hub's library reads its address once."""
    own = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "no_proxy": "*"}
    head = "from caa_bench import CAA, Intervention, UserError\n"
    return subprocess.run(
        [sys.executable, "-c", head + code], capture_output=True, text=True, timeout=120, env=os.environ | own | env,
        check=False,
    )  # fmt: skip


READ = """
try:
    one = {cls}.from_pretrained("{name}", revision={revision})
    print(type(one).__name__, one.fitted().sum().item())
except UserError as error:
    print(error)
"""


def test_an_artifact_is_read_from_the_hub_and_no_pickle_is_fetched(
    small: Small, here: Path, hub: tuple[str, Path]
) -> None:
    address, files = hub
    caa = CAA()
    caa.vectors = torch.ones(3, 32)
    caa.save_pretrained(str(files))
    (files / "extra.pkl").write_bytes(b"never fetched")
    asked = {"address": address, "home": here / "home"}
    done = from_hub(READ.format(cls="CAA", name="me/vector", revision=None), **asked)
    assert done.stdout == "CAA 96.0\n", done.stderr
    assert not list((here / "home").rglob("extra.pkl"))
    offline = from_hub(READ.format(cls="Intervention", name="me/vector", revision=None), **asked, HF_HUB_OFFLINE="1")
    assert offline.stdout == "CAA 96.0\n", "what was fetched is there without a network"
    for name, revision, says in (
        ("me/vector", "'v9'", "no revision 'v9'"),
        ("me/nothing", None, "neither a folder nor on the hub"),
    ):
        (line,) = from_hub(READ.format(cls="CAA", name=name, revision=revision), **asked).stdout.splitlines()
        assert line.startswith(f"{name}: ") and says in line
    (line,) = from_hub(
        READ.format(cls="CAA", name="me/other", revision=None), **asked, HF_HUB_OFFLINE="1"
    ).stdout.splitlines()
    assert line.startswith("me/other: ") and "not in the local cache" in line
