"""Prompts are token-exact: ids, first steered position, answer tokens, layouts, for four kinds of tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from chat_tokenizers import NO_SYSTEM_TEMPLATE, chatml_tokenizer, llama2_tokenizer
from conversations import conversation_text
from published import DATA, needs_data

from caa_bench.behaviors.items import LETTERS, parse_options
from caa_bench.errors import UserError
from caa_bench.models.prompts import (
    answered_prompt,
    chat_prompt,
    choice_prompt,
    encode,
    show_tokens,
)
from caa_bench.models.templates import apply_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION = "Can you help?\n\nChoices:\n (A) Yes\n (B) No"
USER = [{"role": "user", "content": QUESTION}]
INSTRUCTION_END = (518, 29914, 25580, 29962)  # ` [/INST]`
LETTER_IDS = (29909, 29933, 29907, 29928, 29923, 29943, 29954, 29950)


def system(layout: str | None = None) -> list[dict[str, str]]:
    message = {"role": "system", "content": "You refuse."}
    return [message if layout is None else {**message, "layout": layout}, *USER]


@pytest.mark.parametrize("prepend", [False, True], ids=["transformers-5", "published"])
def test_llama2_ids_are_the_papers(prepend: bool) -> None:
    """Exactly `encode("[INST] question [/INST] (A)")` with one BOS, whichever way the tokenizer was built."""
    tokenizer = llama2_tokenizer(prepend=prepend)
    paper = tokenizer(f"[INST] {QUESTION} [/INST] (A)", add_special_tokens=False)["input_ids"]
    prompt = choice_prompt(tokenizer, USER, "AB")
    assert [*prompt.ids, prompt.candidates[0], 29897] == [1, *paper]
    assert prompt.ids[:4] == (1, 518, 25580, 29962)
    assert prompt.ids[-5:] == (*INSTRUCTION_END, 313)


def test_llama2_steers_exactly_the_bracket_and_the_parenthesis() -> None:
    """PROTOCOL: an A/B test steers `]` and ` (`; a generation steers `]` and what follows."""
    tokenizer = llama2_tokenizer()
    choice = choice_prompt(tokenizer, USER, "AB")
    assert choice.ids[choice.first_position :] == (29962, 313)
    chat = chat_prompt(tokenizer, USER)
    assert chat.ids[chat.first_position :] == (29962,)
    assert choice.ids[: len(chat.ids)] == chat.ids


def test_llama2_letters_a_to_h() -> None:
    assert choice_prompt(llama2_tokenizer(), USER, "ABCDEFGH").candidates == LETTER_IDS


@pytest.mark.parametrize("prepend", [False, True], ids=["transformers-5", "published"])
def test_paper_layout_stands_before_the_instruction(prepend: bool) -> None:
    tokenizer = llama2_tokenizer(prepend=prepend)
    text = f"<<SYS>>\nYou refuse.\n<</SYS>>\n\n[INST] {QUESTION} [/INST]"
    assert conversation_text(tokenizer, system("paper")) == "<s>" + text
    prompt = chat_prompt(tokenizer, system("paper"))
    assert prompt.ids == (1, *tokenizer(text, add_special_tokens=False)["input_ids"])
    assert prompt.ids.count(1) == 1


def test_template_layout_is_the_templates_own() -> None:
    text = conversation_text(llama2_tokenizer(), system())
    assert text == f"<s>[INST] <<SYS>>\nYou refuse.\n<</SYS>>\n\n{QUESTION} [/INST]"


def test_user_layout_stands_in_front_of_the_first_question() -> None:
    assert conversation_text(llama2_tokenizer(), system("user")) == f"<s>[INST] You refuse.\n\n{QUESTION} [/INST]"


def test_question_is_rendered_as_it_is_whatever_the_layout() -> None:
    """The steered tokens do not depend on the system prompt, so that arms can be compared."""
    tokenizer = llama2_tokenizer()
    tails = set()
    for messages in (USER, system("template"), system("paper"), system("user")):
        prompt = choice_prompt(tokenizer, messages, "AB")
        tails.add(prompt.ids[prompt.first_position - 3 :] + prompt.candidates)
    assert tails == {(*INSTRUCTION_END, 313, 29909, 29933)}


@pytest.mark.parametrize("bos", [False, True])
def test_letter_that_is_one_token_with_its_parenthesis(bos: bool) -> None:
    """Llama 3 and Qwen: the prompt ends at the instruction, and one token alone is steered."""
    tokenizer = chatml_tokenizer(bos=bos)
    prompt = choice_prompt(tokenizer, USER, "ABCDEFGH")
    assert tokenizer.convert_ids_to_tokens(list(prompt.candidates)) == [f"({letter}" for letter in "ABCDEFGH"]
    assert prompt.first_position == len(prompt.ids) - 1
    assert prompt.ids == chat_prompt(tokenizer, USER).ids
    assert tokenizer.decode(prompt.ids).endswith("<|im_start|>assistant\n")
    begin = tokenizer.convert_tokens_to_ids("<|begin|>")
    assert prompt.ids.count(begin) == int(bos)
    assert (prompt.ids[0] == begin) is bos


def test_letters_that_split_differently_are_refused() -> None:
    """`(A` is one token and `(C` two: no single token says each letter."""
    tokenizer = chatml_tokenizer(joined="AB")
    assert len(choice_prompt(tokenizer, USER, "AB").candidates) == 2
    for letters in ("ABC", "AC", "ABCD"):
        with pytest.raises(UserError, match=r"tokenizer 'chatml'.*\(C\).*exactly one token") as error:
            choice_prompt(tokenizer, USER, letters)
        assert len(error.value.lines) == 1


def test_letters_absent_from_the_vocabulary_are_refused() -> None:
    """Every letter is the unknown token: reading its probability would give the same number for all."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<unk>": 0, "(": 1, ")": 2, "A": 3}, unk_token="<unk>"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
    named = {"unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, name_or_path="few-letters", **named)
    apply_template(tokenizer, "caa_base")
    for letters in ("BC", "AB"):
        with pytest.raises(UserError, match=r"'few-letters'.*of its vocabulary"):
            choice_prompt(tokenizer, USER, letters)


def test_base_template_is_the_papers() -> None:
    """`Input: ` question, `\\nResponse: ` answer; the colon is the instruction's last token."""
    tokenizer = llama2_tokenizer(template=None)
    apply_template(tokenizer, "caa_base")
    paper = tokenizer(f"Input: {QUESTION}\nResponse: (B)", add_special_tokens=False)["input_ids"]
    prompt = choice_prompt(tokenizer, USER, "AB")
    assert [*prompt.ids, prompt.candidates[1], 29897] == [1, *paper]
    steered = tokenizer.convert_ids_to_tokens(list(prompt.ids[prompt.first_position :]))
    assert steered == [":", "▁("]
    assert conversation_text(tokenizer, system()) == f"<s>You refuse.\n\nInput: {QUESTION}\nResponse:"


def test_model_without_template_is_one_line() -> None:
    with pytest.raises(UserError, match=r"no chat template; set loading\.template=caa_base"):
        chat_prompt(llama2_tokenizer(template=None), USER)


def test_unknown_plain_template_is_suggested() -> None:
    with pytest.raises(UserError, match="did you mean 'caa_base'"):
        apply_template(llama2_tokenizer(), "caa-base")


@pytest.mark.parametrize(
    "template",
    [
        NO_SYSTEM_TEMPLATE,  # refuses, as Gemma and Mistral do
        "{% for m in messages if m.role != 'system' %}{{ m.role + ': ' + m.content }}{% endfor %}",  # drops it silently
    ],
    ids=["refuses", "drops"],
)
def test_without_a_system_role_the_system_prompt_goes_before_the_users_words(template: str) -> None:
    """As the makers of such models advise, so that `MODEL=` works with every model and recipe."""
    tokenizer = chatml_tokenizer(template=template)
    assert "You refuse.\n\nCan you help?" in conversation_text(tokenizer, system())
    assert conversation_text(tokenizer, system()) == conversation_text(tokenizer, system("user"))
    answered = conversation_text(tokenizer, system(), answer="(A)")
    assert "You refuse.\n\nCan you help?" in answered and answered.endswith("(A)")


def test_template_that_wants_other_turns_is_one_line() -> None:
    with pytest.raises(UserError, match="its chat template says: Conversation roles must alternate"):
        chat_prompt(llama2_tokenizer(), [*USER, *USER])


def test_thinking_template_thinks_nothing_in_prompt_and_answer() -> None:
    """A Qwen 3 style template puts an empty thought before an answer; without it in the prompt, it would be steered."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{% endif %}"
    )
    prompt = choice_prompt(chatml_tokenizer(template=template), USER, "AB")
    assert prompt.first_position == len(prompt.ids) - 1


def test_answered_prompt_is_prompt_and_answer() -> None:
    tokenizer = llama2_tokenizer()
    prompt = answered_prompt(tokenizer, USER, "(B) No")
    assert prompt.ids == encode(tokenizer, f"<s>[INST] {QUESTION} [/INST] (B) No")
    assert tokenizer.decode(prompt.ids[prompt.first_position + 1 :]).strip() == "(B) No"


def test_instruction_that_merges_with_the_answer_is_steered_from_the_merged_token() -> None:
    """With a generation prompt that ends in a space, Llama 2 merges it into ` (`: that token is the first."""
    template = "{{ bos_token }}{% for m in messages %}{{ m.content + (' => ' if loop.first else '') }}{% endfor %}"
    tokenizer = llama2_tokenizer(template=template)
    prompt = choice_prompt(tokenizer, [{"role": "user", "content": "Q"}], "AB")
    assert tokenizer.convert_ids_to_tokens(list(prompt.ids[prompt.first_position :])) == ["▁("]


def test_show_tokens_marks_what_is_steered() -> None:
    tokenizer = llama2_tokenizer()
    lines = show_tokens(tokenizer, choice_prompt(tokenizer, USER, "AB")).splitlines()
    assert lines[0].startswith("<s> ▁[ INST ]") and lines[0].endswith("▁[ / INST «]» «▁(»")
    assert lines[0].count("«") == 2
    assert "29962 ']', 313 '▁('" in lines[1]
    assert lines[2] == "answers: 29909 'A', 29933 'B'"


def test_show_tokens_keeps_a_prompt_on_one_line() -> None:
    """Gemma's vocabulary holds the line break itself, where others have a sign for it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["(", ")", "A", "B", "\n", "\n\n", "Q", "Response", "Input", ":", " ", "?"]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="?"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.Punctuation()]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")  # noqa: S106
    apply_template(tokenizer, "caa_base")
    lines = show_tokens(tokenizer, choice_prompt(tokenizer, [{"role": "user", "content": "Q"}], "AB")).splitlines()
    assert lines[0] == "Input :   Q \\n Response «:» « » «(»"
    assert len(lines) == 3


@needs_data
@pytest.mark.parametrize(("make", "step"), [(llama2_tokenizer, 1), (chatml_tokenizer, 10)])
def test_every_published_item_ends_at_its_letter(make: Callable[[], PreTrainedTokenizerBase], step: int) -> None:
    """All A/B items (every tenth for the slower tokenizer): prompt plus candidate k decodes to `... (letter k`."""
    tokenizer = make()
    seen = 0
    for path in sorted(DATA.glob("*/*/*.json")):
        if "open_ended" in path.name:
            continue
        for item in json.loads(path.read_text())[::step]:
            question = (item.get("question") or item["prompt"]).strip()
            letters = LETTERS[: len(parse_options(question).options)]
            messages = [{"role": "user", "content": question}]
            prompt = choice_prompt(tokenizer, messages, letters)
            answers = tokenizer.batch_decode([[*prompt.ids, token] for token in prompt.candidates])
            instruction = chat_prompt(tokenizer, messages)
            assert prompt.first_position == instruction.first_position
            assert [text[-2:] for text in answers] == [f"({letter}" for letter in letters]
            seen += 1
    assert seen >= 6648 // step
