"""`generate` and `chat` on a small random model: what they say, reuse, refuse, and how they print it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from plain_loop import plain_forward
from small_runs import Command, Small, start_call

from caa_bench.__main__ import main
from caa_bench.commands.chat import Chat, Conversation
from caa_bench.commands.generate import answer_text
from caa_bench.commands.parser import commands_of, parser
from caa_bench.commands.session import Answer, Session, Settings
from caa_bench.errors import UserError
from caa_bench.interventions import Condition, LoraSFT
from caa_bench.models.loading import tuned_key
from caa_bench.models.model import ChatModel
from caa_bench.models.prompts import chat_prompt
from caa_bench.models.saving import Found, save_tuned

QUESTION = "Please mend 3 drums."
DOSES = (-8.0, 0.0, 8.0)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder, in which artifacts are kept."""
    return tmp_path_factory.mktemp("talk")


@pytest.fixture(autouse=True)
def there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in it."""
    monkeypatch.chdir(here)


def options(small: Small, *more: str) -> list[str]:
    """The small model and behavior as a command takes them."""
    return ["--model", str(small.model), "--behavior", str(small.behavior), "--max-new-tokens", "12", *more]


def session(small: Small, *, base: str = "none", tokens: int = 12) -> Session:
    """The same from Python."""
    return Session(Settings(model=str(small.model), behavior=str(small.behavior), max_new_tokens=tokens), base=base)


def plain_text(talk: Session, messages: Sequence[dict[str, str]], multiplier: float) -> str:
    """Greedy decoding by whole forwards of one row, without the engine."""
    prompt = chat_prompt(talk.chat.tokenizer, talk.base.rewrite(messages))
    ids, end = list(prompt.ids), talk.chat.tokenizer.eos_token_id
    edits = talk.vector.edits(Condition(multiplier=multiplier, layer=talk.layer))
    with talk.base.attach(talk.chat.model, Condition()):
        while len(ids) < len(prompt.ids) + talk.settings.max_new_tokens:
            logits, _ = plain_forward(talk.chat.model, ids, prompt.first_position, edits or ())
            if (token := int(logits[-1].argmax())) == end:
                break
            ids.append(token)
    return str(talk.chat.tokenizer.decode(ids[len(prompt.ids) :], skip_special_tokens=True)).strip()


@pytest.mark.parametrize(
    "base", ["none", "system_prompt_positive", "lora_sft_positive", "system_prompt_negative+lora_sft_positive"]
)
def test_answers_are_those_of_a_plain_loop(small: Small, base: str) -> None:
    """Every multiplier in one batch, on prompts and adapters, equals one row alone without the engine."""
    talk = session(small, base=base)
    before = {name: weight.clone() for name, weight in talk.chat.model.state_dict().items()}
    asked = [{"role": "user", "content": QUESTION}]
    answers = talk.answers(asked, multipliers=DOSES)
    assert [answer.text for answer in answers] == [plain_text(talk, asked, dose) for dose in DOSES]
    assert len({answer.text for answer in answers}) > 1, "steering shows"
    for name, weight in talk.chat.model.state_dict().items():
        assert torch.equal(weight, before[name])


def test_the_zero_dose_is_the_models_own_answer(small: Small) -> None:
    talk = session(small)
    asked = [{"role": "user", "content": QUESTION}]
    (answer,) = talk.answers(asked, multipliers=[0.0])
    prompt = chat_prompt(talk.chat.tokenizer, asked)
    said = talk.chat.model.generate(
        torch.tensor([prompt.ids]), max_new_tokens=12, do_sample=False, eos_token_id=talk.chat.tokenizer.eos_token_id
    )[0, len(prompt.ids) :]
    assert answer.text == str(talk.chat.tokenizer.decode(said, skip_special_tokens=True)).strip()


def test_generate_prints_a_block_a_multiplier(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", QUESTION, *options(small), "--multipliers", "-8", "0", "8", "--layer", "1"]
    assert main(command) == 0
    first = capsys.readouterr()
    head, *blocks = first.out.split("\n\n")
    assert head == f"Small on {small.model}, layer 1, base none"
    assert [block.splitlines()[0] for block in blocks] == ["CAA -8", "CAA +0", "CAA +8"]
    assert all(line.startswith("    ") for block in blocks for line in block.splitlines()[1:])
    assert not {"\x1b", "\r"} & set(first.out)
    assert main(command) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert "kept from before" in again.err


def test_generate_takes_what_compare_has_fitted(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = "lora_sft.max_pairs=4"
    assert (
        main(
            [
                "compare",
                *small.settings(
                    "vectors=[caa]", f"lora_sft.learning_rate={LoraSFT.Config().learning_rate}", "lora_sft.max_pairs=4"
                ),
            ]
        )
        == 0
    )
    kept = sorted(path.name for path in Path("runs/artifacts").iterdir() if path.is_dir())
    capsys.readouterr()
    assert main(["generate", QUESTION, *options(small, "--base", "lora_sft_positive", "--set", few)]) == 0
    assert capsys.readouterr().err.count("kept from before") == 2
    assert sorted(path.name for path in Path("runs/artifacts").iterdir() if path.is_dir()) == kept


@pytest.fixture(scope="module")
def tuned(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run of another vector than CAA, whose tuning chose layer 2 and a dose of 3.7."""
    folder = tmp_path_factory.mktemp("tuned")
    settings = ["bases=[none]", "vectors=[mean_centring]", "mean_centring.layers=[2]", "limit=4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        doses = "mean_centring.multipliers=[-7.4, -3.7, 3.7, 7.4]"
        assert main(small.compare(*settings, doses)) == 0
    manifest = json.loads((folder / "run/manifest.json").read_text())
    manifest["facts"]["tuning"] = {"settled": {"mean_centring": [2, 3.7]}, "untuned": "as another search found"}
    (folder / "run/manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_run_gives_its_vector_layer_and_doses(
    small: Small, tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the artifact that it fitted; what is named beside it wins."""
    monkeypatch.chdir(tuned)
    capsys.readouterr()
    assert main(["generate", QUESTION, "--run", "run", "--max-new-tokens", "12"]) == 0
    found = capsys.readouterr()
    head, *blocks = found.out.split("\n\n")
    assert head == f"Small on {small.model}, layer 2, base none"
    assert [block.splitlines()[0] for block in blocks] == [f"mean_centring {dose}" for dose in ("-3.7", "+0", "+3.7")]
    assert "nobody has tuned" not in found.err and "kept from before" in found.err
    command = ["generate", QUESTION, "run=run", "layer=1", "multipliers=[5]", "max_new_tokens=12"]
    assert main(command) == 0
    named = capsys.readouterr().out
    assert "layer 1," in named and "\nmean_centring +5\n" in named
    talked = Chat().session(
        commands_of(parser())["chat"].parse_args(["--run", "run", "--quiet", "--max-new-tokens", "12"])
    )
    assert (talked.layer, talked.doses, talked.vector.label) == (2, (-3.7, 3.7), "mean_centring")
    asked = [{"role": "user", "content": QUESTION}]
    (answer,) = talked.answers(asked, multipliers=[3.7])
    assert f"mean_centring +3.7\n{answer_text(answer, indent='    ')}" in found.out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--run", "run", "--model", "tiny"], "run: has its own behavior, model and recipe; leave yours out"),
        (["--run", "run", "--layer", "9"], "mean_centring.layers: "),
        (["--run", "rn"], "rn: there is no run there"),
    ],
)
def test_what_a_run_cannot_give_is_one_line(
    more: list[str], says: str, tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tuned)
    assert main(["generate", QUESTION, *more]) == 2
    said = capsys.readouterr()
    assert says in said.err and said.err.count("\n") == 1 and not said.out


def test_a_layer_that_nobody_tuned_is_said(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    """Once, on stderr; not where it is named, and not on the embedded model, whose config knows it."""
    note = (
        "caa-bench: layer 1 is a default that nobody has tuned on this model, and so is the dose; name a finished run"
    )
    assert main(["generate", QUESTION, *options(small)]) == 0
    found = capsys.readouterr()
    assert found.err.count(note) == 1 and "CAA -1\n" in found.out and "CAA +1\n" in found.out
    assert not Session(Settings(behavior="refusal", changes=("max_pairs=8",), progress=False)).is_default_layer


def test_a_model_tuned_before_is_steered_where_that_worked(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `caa-bench tune --save` keeps in the model's config."""
    for module in ("saving", "model"):
        monkeypatch.setattr(f"caa_bench.models.{module}.own_models_folder", lambda: tmp_path)
    found = {tuned_key("caa", "small"): Found(layer=2, multiplier=2.5, effect=1.0, says="well")}
    save_tuned("mine", ChatModel.find(str(small.model)).loading, found)
    talk = Session(Settings(model="mine", behavior=str(small.behavior), progress=False))
    assert (talk.layer, talk.doses, talk.is_default_layer) == (2, (-2.5, 2.5), False)


def talk(small: Small, said: bytes, *more: str, folder: Path) -> Command:
    """`caa-bench chat` in a process of its own, its input from a pipe; it has ended."""
    typed = folder / "typed.txt"
    typed.write_bytes(said)
    done = start_call(_chat, ["chat", *options(small, *more)], str(typed), folder=folder)
    done.wait()
    return done


def _chat(argv: list[str], typed: str) -> None:
    with Path(typed).open() as sys.stdin:
        sys.exit(main(argv))


def test_a_piped_conversation_changes_dose_and_base_while_talking(small: Small, here: Path) -> None:
    """Each answer is what the session gives to the conversation so far; nothing is read behind /quit."""
    typed = [QUESTION, "", "/multiplier -8", "Why?", "/reset", "/base system_prompt_positive", QUESTION, "/quit", "no"]
    done = talk(small, "\n".join(typed).encode(), "--multiplier", "8", folder=here)
    assert done.wait() == 0, done.stderr()
    one, two = session(small), session(small, base="system_prompt_positive")
    asked = [{"role": "user", "content": QUESTION}]
    (first,) = one.answers(asked, multipliers=[8.0])
    more = [*asked, {"role": "assistant", "content": first.text}, {"role": "user", "content": "Why?"}]
    (second,) = one.answers(more, multipliers=[-8.0])
    (third,) = two.answers(asked, multipliers=[-8.0])
    expected = [
        f"Small on {small.model}, layer 1, base none, CAA +8; /help lists what can be changed",
        answer_text(first),
        "CAA -8",
        answer_text(second),
        "a new conversation",
        "base system_prompt_positive",
        answer_text(third),
    ]
    assert done.stdout() == "\n".join(expected) + "\n"


@pytest.mark.slow
def test_a_mistake_while_talking_is_a_line_and_the_conversation_goes_on(small: Small, here: Path) -> None:
    typed = [
        "/multiplier much",
        "/multiplier nan",
        "/dose 3",
        "/base",
        "/base lora",
        "x" * 600,
        "/help",
        "/multiplier 2",
    ]
    done = talk(small, "\n".join(typed).encode(), folder=here)
    assert done.wait() == 0
    lines = [line for line in done.stderr().splitlines() if line.startswith("caa-bench: ")]
    says = [
        "layer 1 is a default that nobody has tuned",
        "/multiplier: 'much' is no number",
        "multiplier: nan is no dose",
        "/dose: no such command; use /multiplier, /base, /reset, /help, /quit",
        "/base: no name",
        "'lora' is no intervention",
        "the model takes 512, the answer's 12 included; shorten it, or start anew",
    ]
    assert len(lines) == len(says), lines
    assert all(words in line for words, line in zip(says, lines, strict=True))
    assert "Traceback" not in done.stderr()
    out = done.stdout().splitlines()
    assert out[-1] == "CAA +2"
    assert "/quit             leave (or end the input)" in out


def test_a_base_that_is_not_there_leaves_everything_as_it_was(small: Small) -> None:
    talk = session(small, base="system_prompt_positive")
    conversation = Conversation(talk, multiplier=1.0)
    with pytest.raises(UserError, match="no system prompt called 'loud'"):
        conversation.take("/base system_prompt_loud")
    assert talk.base.label == "system_prompt_positive"
    assert conversation.take("/quit") is None


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--multipliers", "inf"], "multiplier: inf is no dose; give a finite number"),
        (["--multipliers", "few"], "--multipliers: 'few' is no number"),
        (["--layer", "9"], "caa.layers: "),
        (["--base", "lora"], "'lora' is no intervention"),
        (["--base", "system_prompt_loud"], "no system prompt called 'loud'"),
        (["--behavior", "refusl"], "did you mean 'refusal'?"),
        (["--behavior", "all"], "there is no behavior 'all'"),
        (["--model", "tini"], "did you mean 'tiny'?"),
        (["--max-new-tokens", "0"], "--max-new-tokens: 0 is too few; give 1 or more"),
        (["--recipe", "compar"], "did you mean 'compare'?"),
        (["--set", "sed=1"], "did you mean 'seed'?"),
    ],
)
def test_mistakes_are_one_line(more: list[str], says: str, small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(["generate", QUESTION, *options(small, *more)])
    except SystemExit as error:
        status = int(error.code or 0)
    said = capsys.readouterr()
    assert status == 2
    assert says in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize(("question", "says"), [(" ", "the question is empty"), ("a\udcff", "is not UTF-8 text")])
def test_questions_that_are_none_are_one_line(
    question: str, says: str, small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", question, *options(small)]) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_a_pipe_that_is_no_text_is_one_line(small: Small, here: Path) -> None:
    done = talk(small, b"caf\xe9\n", folder=here)
    lines = done.stderr().splitlines()
    assert "Traceback" not in done.stderr()
    assert lines[-1].endswith("convert it first, for example with iconv") or "is not UTF-8 text" in lines[-1]


def test_what_a_model_says_cannot_drive_a_terminal() -> None:
    """Lines stay lines; escapes, carriage returns and direction marks do not."""
    text = answer_text(Answer(text="one\x1b[2J\ntwo\rthree\u202e\x1b]0;title\x07", cut=True), indent="  ")
    assert text == "  one\n  two three\n  (cut at --max-new-tokens)"
    assert answer_text(Answer(text="", cut=False)) == "(nothing)"
