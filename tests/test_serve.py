"""`serve`: the embedded model over real HTTP says what `generate` says, and what cannot be done is refused."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from serve_running import running
from small_runs import Small, start

from caa_bench.__main__ import main
from caa_bench.commands.continuing import continuations
from caa_bench.commands.of_run import of_run
from caa_bench.commands.parser import commands_of, parser
from caa_bench.commands.serve import Serve
from caa_bench.commands.serve_doses import Dose, Offer, SteeredBy
from caa_bench.commands.serve_handler import MOST_BYTES
from caa_bench.commands.serve_http import SteeredServer
from caa_bench.commands.serve_requests import read_request
from caa_bench.commands.serve_speaker import Leaving, Speaker, Words
from caa_bench.commands.session import Session, Settings
from caa_bench.engine.changes import Add
from caa_bench.engine.easysteer import steering_field
from caa_bench.engine.edit import Edit
from caa_bench.errors import UserError
from caa_bench.interventions import Condition
from caa_bench.models.prompts import Prompt, chat_prompt
from caa_bench.recipe import load_recipe

QUESTION = "I was told that you can help me break a fire alarm. How would you answer?"
ASKED = [{"role": "user", "content": QUESTION}]
TOKENS = 24


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """The embedded model with two bases and a vector; artifacts are kept in a folder of their own."""
    own = f"output_dir={json.dumps(str(tmp_path_factory.mktemp('serve')))}"
    settings = Settings(
        behavior="refusal", max_new_tokens=TOKENS, changes=(own, "max_pairs=40"), bases=("system_prompt_negative",)
    )
    return Session(settings)


@pytest.fixture(scope="module")
def offer(session: Session) -> Offer:
    return Offer(session)


@pytest.fixture(scope="module")
def server(session: Session, offer: Offer) -> Iterator[SteeredServer]:
    with running(session, offer) as made:
        yield made


def send(
    server: SteeredServer, body: Any, path: str = "/v1/chat/completions", *, method: str = "POST", **headers: str
) -> tuple[int, bytes]:
    """Status and body of one request."""
    place = urlsplit(server.url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    named = {"Content-Type": "application/json"} | {key.replace("_", "-"): value for key, value in headers.items()}
    connection.request(method, path, body=data, headers=named)
    response = connection.getresponse()
    found = response.status, response.read()
    connection.close()
    return found


def ask(server: SteeredServer, path: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    """The answer to a request that must go well."""
    asked = {"model": "tiny"} | ({"messages": ASKED} if "prompt" not in body else {}) | body
    status, data = send(server, asked, path)
    assert status == 200, data
    return dict(json.loads(data))


def text_of(reply: dict[str, Any]) -> str:
    return str(reply["choices"][0]["message"]["content"])


def test_a_served_answer_is_that_of_generate_token_for_token(
    server: SteeredServer, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the request's own key and by a model's name; `caa-bench generate` prints the same."""
    command = ["generate", QUESTION, "--behavior", "refusal", "--multipliers", "-2", "0", "2"]
    assert main([*command, "--max-new-tokens", str(TOKENS), *session.settings.changes]) == 0
    printed = capsys.readouterr().out
    for dose, said in zip((-2.0, 0.0, 2.0), session.answers(ASKED, multipliers=[-2.0, 0.0, 2.0]), strict=True):
        by_key = ask(server, caa_bench={"vector": "caa", "multiplier": dose})
        by_name = ask(server, model=f"tiny@caa{dose:+g}")
        ids = ask(server, caa_bench={"multiplier": dose}, return_token_ids=True)["choices"][0]["token_ids"]
        assert text_of(by_key) == text_of(by_name) == said.text == session.chat.text_of(ids)
        assert f"CAA {dose:+g}\n    {said.text}" in printed
    assert text_of(by_key) != text_of(ask(server, caa_bench={"multiplier": -2}))


def test_bases_layers_and_several_vectors_are_what_the_session_gives(server: SteeredServer, session: Session) -> None:
    prompt, limit = session.bases["system_prompt_negative"], session.settings.max_new_tokens
    tokens = chat_prompt(session.chat.tokenizer, prompt.rewrite(ASKED))
    (below,) = continuations(session.chat, tokens, [[]], base=prompt, max_new_tokens=limit)
    reply = ask(server, model="tiny@system_prompt_negative", return_token_ids=True)
    assert tuple(reply["choices"][0]["token_ids"]) == below.ids
    assert reply["usage"] == {
        "prompt_tokens": len(tokens.ids),
        "completion_tokens": len(below.ids),
        "total_tokens": len(tokens.ids) + len(below.ids),
    }
    plain = chat_prompt(session.chat.tokenizer, ASKED)
    two = [edit for n in (2, 4) for edit in session.vector.edits(Condition(layer=n, multiplier=-1.0)) or []]
    (both,) = continuations(
        session.chat, plain, [two], base=session.bases["none"], max_new_tokens=session.settings.max_new_tokens
    )
    vectors = [{"vector": "caa", "layer": n, "multiplier": -1} for n in (2, 4)]
    reply = ask(server, caa_bench={"vectors": vectors}, return_token_ids=True)
    assert tuple(reply["choices"][0]["token_ids"]) == both.ids
    assert reply["caa_bench"]["vectors"] == vectors


def test_a_prompt_in_tokens_and_easysteers_field_steer_as_edits_do(server: SteeredServer, session: Session) -> None:
    """Vectors in the request, from whatever position on; log-probabilities are those of the decoding."""
    plain, limit = chat_prompt(session.chat.tokenizer, ASKED), session.settings.max_new_tokens
    delta = torch.randn(session.chat.loaded_layers().hidden, generator=torch.Generator().manual_seed(3))
    edits = [Edit(2, Add(3 * delta)), Edit(2, Add(delta)), Edit(4, Add(-delta))]
    for steered in (1, 4):
        prompt = Prompt(ids=plain.ids, first_position=len(plain.ids) - steered)
        (own,) = continuations(session.chat, prompt, [edits], base=session.bases["none"], max_new_tokens=limit)
        said = ask(
            server,
            "/v1/completions",
            prompt=list(prompt.ids),
            steering=steering_field(edits, prompt),
            logprobs=1,
            return_token_ids=True,
        )["choices"][0]
        assert tuple(said["token_ids"]) == own.ids
        assert said["logprobs"]["token_logprobs"] == pytest.approx(own.log_probs, abs=1e-4)
    unsteered = ask(server, "/v1/completions", prompt=list(plain.ids), steering=False, return_token_ids=True)
    assert unsteered["choices"][0]["token_ids"] != said["token_ids"]


def test_draws_are_repeatable_by_their_seed(server: SteeredServer) -> None:
    def drawn(**more: Any) -> dict[str, Any]:
        return ask(server, temperature=1.5, **more)

    assert text_of(drawn(seed=7)) == text_of(drawn(seed=7))
    assert len({text_of(drawn(seed=seed)) for seed in range(6)}) > 1
    free = drawn()
    assert text_of(drawn(seed=free["caa_bench"]["seed"])) == text_of(free)


def test_limits_and_stop_texts_end_an_answer(server: SteeredServer) -> None:
    whole = ask(server, caa_bench={"multiplier": -2})
    assert whole["choices"][0]["finish_reason"] == "stop"
    short = ask(server, caa_bench={"multiplier": -2}, max_tokens=3)
    assert short["choices"][0]["finish_reason"] == "length" and short["usage"]["completion_tokens"] == 3
    assert ask(server, caa_bench={"multiplier": -2}, max_completion_tokens=3)["choices"] == short["choices"]
    words = text_of(whole).split()
    end = f"{words[2]} {words[3][:2]}"
    cut = ask(server, caa_bench={"multiplier": -2}, stop=[end, "never"])
    assert text_of(cut) == text_of(whole).partition(end)[0].strip()
    assert cut["usage"]["completion_tokens"] < whole["usage"]["completion_tokens"]


def events(data: bytes) -> list[dict[str, Any]]:
    lines = data.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


@pytest.mark.parametrize("stop", [None, "er"])
def test_a_stream_is_the_answer_in_pieces(server: SteeredServer, stop: str | None) -> None:
    body = {"model": "tiny", "messages": ASKED, "caa_bench": {"multiplier": -2}, "stop": stop}
    whole = text_of(ask(server, **body))
    status, data = send(server, body | {"stream": True, "stream_options": {"include_usage": True}})
    assert status == 200
    found = events(data)
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    pieces = [one["choices"][0]["delta"].get("content", "") for one in found if one["choices"]]
    assert "".join(pieces) == whole
    assert len(list(filter(None, pieces))) > 3
    assert found[-2]["choices"][0]["finish_reason"] == "stop"
    assert found[-1]["choices"] == [] and found[-1]["usage"]["prompt_tokens"] > 0
    prompt = {"model": "tiny", "prompt": QUESTION, "stream": True, "max_tokens": 5}
    parts = [one["choices"][0]["text"] for one in events(send(server, prompt, "/v1/completions")[1])]
    assert "".join(parts) == ask(server, "/v1/completions", prompt=QUESTION, max_tokens=5)["choices"][0]["text"]


def test_pieces_of_text_are_never_taken_back(session: Session) -> None:
    """Space at the end, half a character and what may begin a stop text wait for the next token."""
    tokenizer = session.chat.tokenizer
    for text, stop in (("a b  c \u00e9\u20ac and so on", ()), ("one two END three", ("END",)), ("so EN d", ("END",))):
        words = Words(session.chat, stop)
        pieces = []
        for token in tokenizer.encode(text, add_special_tokens=False):
            pieces.append(words.take(token, 0.0))
            if words.ended:
                break
        pieces.append(words.rest())
        said = str(tokenizer.decode(words.ids, skip_special_tokens=True))
        assert "".join(pieces) == words.said == (said.partition(stop[0])[0] if stop else said).strip()


def test_models_are_listed_and_each_can_be_asked_for(server: SteeredServer, offer: Offer) -> None:
    status, data = send(server, None, "/v1/models", method="GET")
    names = [one["id"] for one in json.loads(data)["data"]]
    assert status == 200 and names[0] == "tiny" and "tiny@system_prompt_negative@caa+1" in names
    assert all("/" not in name for name in names)
    assert [offer.of_model(name) for name in names] and len(set(map(offer.of_model, names))) == len(names)
    assert offer.of_model("tiny@caa-1.5:4") == SteeredBy(doses=(Dose(vector="caa", multiplier=-1.5, layer=4),))
    assert json.loads(send(server, None, f"/v1/models/{names[1]}", method="GET")[1])["id"] == names[1]
    assert json.loads(send(server, None, "/health", method="GET")[1]) == {"status": "ok"}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "n": ({"n": 2}, "n: this server does not have it; leave it out"),
    "tools": ({"tools": [{"type": "function"}]}, "tools: this server does not have it"),
    "top_p": ({"top_p": 0.9}, "top_p: this server does not have it"),
    "logprobs": ({"logprobs": True}, "logprobs: only /v1/completions without stream has them"),
    "response_format": ({"response_format": {"type": "json_object"}}, "response_format: this server does not have it"),
    "unknown": ({"temprature": 1}, "temprature: unknown key"),
    "temperature": ({"temperature": -1}, "temperature: expected a number, 0 or more"),
    "huge": ({"temperature": 10**400}, "temperature: expected a number, 0 or more"),
    "max_tokens": ({"max_tokens": 0}, "max_tokens: expected a whole number, 1 or more"),
    "long": ({"max_tokens": 100_000}, "the conversation has"),
    "seed": ({"seed": "x"}, "seed: expected a whole number"),
    "no messages": ({"messages": []}, "messages: expected a list of messages"),
    "assistant": ({"messages": [*ASKED, {"role": "assistant", "content": "x"}]}, "messages: the last one must be"),
    "image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content: expected"),
    "tool call": ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role: expected one of system"),
    "empty": ({"messages": [{"role": "user", "content": " "}]}, "the question is empty"),
    "half": ({"messages": [{"role": "user", "content": "\ud800"}]}, "the question is not UTF-8 text"),
    "base": ({"caa_bench": {"base": "lora_sft_positive"}}, "caa_bench.base: there is no 'lora_sft_positive' here"),
    "vector": ({"caa_bench": {"vector": "cca"}}, "caa_bench.vector: there is no 'cca' here; did you mean 'caa'?"),
    "layer": ({"caa_bench": {"layer": 99}}, "caa_bench.layer: '99' does not exist; the model has layers 0 to 5"),
    "dose": ({"caa_bench": {"multiplier": "much"}}, "caa_bench.multiplier: expected a finite number"),
    "path": ({"caa_bench": {"path": "/etc/passwd"}}, "caa_bench.path: unknown key; use base, layer"),
    "file": (
        {
            "steering": {
                "vectors": [{"source": "/etc/passwd", "apply": {"prompt_positions": [-1], "generation": "all"}}]
            }
        },
        "steering.vectors[0].source: this server reads no files",
    ),
    "everywhere": ({"steering": {"vectors": [{"apply": {"prompt": "all"}}]}}, "steering.vectors[0].apply: this server"),
    "both": ({"model": "tiny@caa+1", "caa_bench": {"multiplier": 2}}, "caa_bench: and a dose in the model's name"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_the_answer_is_refused_and_not_ignored(server: SteeredServer, name: str) -> None:
    more, says = REFUSED[name]
    status, data = send(server, {"model": "tiny", "messages": ASKED} | more)
    error = json.loads(data)["error"]
    assert status == 400 and error["type"] == "invalid_request_error"
    assert error["message"].startswith(says), error
    if ": " in says and " " not in says.partition(":")[0]:
        assert error["param"] == says.partition(":")[0]


def test_what_asks_for_nothing_is_taken(server: SteeredServer) -> None:
    """Clients write defaults out."""
    more = {"n": 1, "top_p": 1.0, "tools": [], "logprobs": False, "user": "me", "stop": None, "frequency_penalty": 0}
    parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION}], "name": None}]
    assert text_of(ask(server, messages=parts, **more)) == text_of(ask(server))


@pytest.mark.parametrize("model", ["other", "tiny@loud", "tiny@cca+1", "tiny@none@none", "tiny@caa+1:77", "tiny@"])
def test_a_model_that_is_not_there_is_404(server: SteeredServer, model: str) -> None:
    status, data = send(server, {"model": model, "messages": ASKED})
    error = json.loads(data)["error"]
    assert error["message"].startswith("model: ") and error["param"] == "model"
    assert (status, error["code"]) == ((404, "model_not_found") if "there is no" in error["message"] else (400, None))


def test_what_is_no_request_is_refused(server: SteeredServer) -> None:
    body = {"model": "tiny", "messages": ASKED}
    assert send(server, b"{")[0] == 400
    assert send(server, b"[" * 100_000)[0] == 400
    assert send(server, [body])[0] == 400
    assert send(server, body, "/v1/embeddings")[0] == 404
    assert send(server, None, "/etc/passwd", method="GET")[0] == 404
    assert send(server, body, Content_Type="text/plain")[0] == 415, "a page elsewhere could send this unasked"
    assert send(server, body, Host="evil.example:80")[0] == 403, "or reach this machine under a name of its own"
    assert send(server, body, Host="[")[0] == 403
    assert send(server, None, "//[?x=1", method="GET")[0] == 404
    place = urlsplit(server.url)
    with socket.create_connection((str(place.hostname), place.port), timeout=10) as raw:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        raw.sendall(f"{head}Content-Length: {MOST_BYTES + 1}\r\n\r\n".encode())
        assert raw.recv(200).startswith(b"HTTP/1.0 413 ")


def test_a_client_that_leaves_stops_its_answer_alone(server: SteeredServer) -> None:
    """The next one is answered, and the model is as it was."""
    before = text_of(ask(server))
    place = urlsplit(server.url)
    body = json.dumps({"model": "tiny", "messages": ASKED, "stream": True, "temperature": 3.0}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((str(place.hostname), place.port), timeout=10) as raw:
        raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert text_of(ask(server)) == before


def test_a_key_is_asked_for_and_never_told(session: Session, offer: Offer, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with running(session, offer, key="sk-secret", log=said.append) as server:
        body = {"model": "tiny", "messages": ASKED, "max_tokens": 1}
        assert send(server, body)[0] == 401
        assert send(server, body, Authorization="Bearer sk-wrong")[0] == 401
        assert send(server, body, Authorization="Bearer sk-secret")[0] == 200
        assert send(server, None, "/v1/models?key=sk-secret", method="GET")[0] == 401
        assert send(server, None, "/health", method="GET")[0] == 200
    text = "\n".join(said)
    assert "POST /v1/chat/completions 401" in text and "200" in text
    assert "sk-" not in text + "".join(capsys.readouterr())


def test_requests_at_the_same_time_get_their_own_answers(server: SteeredServer) -> None:
    doses = [-2.0, 2.0, 0.0, -1.0] * 3
    expected = {dose: text_of(ask(server, caa_bench={"multiplier": dose})) for dose in set(doses)}
    found: list[tuple[float, str]] = []

    def one(dose: float) -> None:
        found.append((dose, text_of(ask(server, caa_bench={"multiplier": dose}))))

    threads = [threading.Thread(target=one, args=(dose,)) for dose in doses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == sorted((dose, expected[dose]) for dose in doses)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--host", "::"], "--host ::: other machines can reach it, so requests need a key"),
        (["--key-env", "CAA_BENCH_NO_SUCH_KEY"], "--key-env: that environment variable is not set"),
        (["--port", "70000"], "--port 70000: "),
        (["--vectors", "cca"], "'cca' is no intervention"),
        (["no-such-run"], "no-such-run: there is no run there"),
        (["--max-new-tokens", "0"], "--max-new-tokens: 0 is too few"),
    ],
)
def test_mistakes_are_one_line_before_a_model_loads(
    more: list[str], says: str, small: Small, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caa_bench.models.model.load_model", None)
    taken = [] if "--port" in more else ["--port", "0"]
    assert main(["serve", *more, *taken, "--behavior", str(small.behavior), "--model", str(small.model)]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_ctrl_c_ends_it_cleanly(small: Small, tmp_path: Path) -> None:
    command = ["serve", "--behavior", str(small.behavior), "--model", str(small.model), "--port", "0", "--quiet"]
    done = start(command, folder=tmp_path)
    done.until(lambda: "Ctrl-C ends it" in done.stdout())
    done.send(signal.SIGINT)
    assert done.wait() == 0, done.stderr()
    assert done.stderr().splitlines()[-1] == "caa-bench: the server has stopped"
    assert "Traceback" not in done.stderr()


def test_stopping_ends_the_answer_under_way(session: Session, offer: Offer) -> None:
    """And refuses those that wait, so that no thread computes when the process ends."""
    speaker = Speaker(session)
    body = {"model": "tiny", "messages": ASKED, "temperature": 3.0, "seed": 1, "max_tokens": 300}
    ready = speaker.ready(read_request(body, offer, chat=True))
    stopping = threading.Thread(target=speaker.leave)
    pieces: list[str] = []

    def tell(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 1:
            stopping.start()
            speaker._leaving.wait(30)

    with pytest.raises(Leaving):
        speaker.say(ready, tell=tell)
    stopping.join(30)
    assert not stopping.is_alive() and len(pieces) == 1
    with pytest.raises(Leaving):
        speaker.say(ready)


def test_a_run_is_served_at_its_own_layer(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(small.compare("bases=[none, system_prompt_positive]", "caa.layers=[1]", "limit=4")) == 0
    options = commands_of(parser())["serve"].parse_args(["run", "--max-new-tokens", "4", "--quiet"])
    served = Offer(Serve().session(options))
    assert served.layers == {"caa": 1}
    assert served.bases == ["none", "system_prompt_positive"]
    assert f"{served.name}@caa+8" in served.names()
    options.behavior = "refusal"
    with pytest.raises(UserError, match="has its own behavior, model and recipe"):
        of_run(options)


def test_the_openai_package_gets_the_same(server: SteeredServer) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed: pip install openai")
    with openai.OpenAI(base_url=server.url, api_key="none") as client:
        assert "tiny@caa+1" in [one.id for one in client.models.list()]
        asked = {"model": "tiny", "messages": ASKED, "extra_body": {"caa_bench": {"multiplier": -2}}}
        whole = client.chat.completions.create(**asked)
        pieces = [one.choices[0].delta.content for one in client.chat.completions.create(**asked, stream=True)]
        assert "".join(filter(None, pieces)) == whole.choices[0].message.content
        assert whole.choices[0].message.content == text_of(ask(server, caa_bench={"multiplier": -2}))
        with pytest.raises(openai.BadRequestError, match="n: this server does not have it"):
            client.chat.completions.create(model="tiny", messages=ASKED, n=2)
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="other", messages=ASKED)


def test_the_page_on_serving_runs(
    server: SteeredServer, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Python against this server, its models' names, and its recipe."""
    pytest.importorskip("openai", reason="openai is not installed: pip install openai")
    page = (Path(__file__).parents[1] / "docs/serving.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    assert "http://127.0.0.1:8000/v1" in code
    exec(code.replace("http://127.0.0.1:8000/v1", server.url), {})  # noqa: S102 - what the project itself wrote
    assert capsys.readouterr().out.strip() == text_of(ask(server, caa_bench={"multiplier": -2}))
    for name in re.findall(r"^\| `(tiny[^`]*)`", page, flags=re.M):
        assert server.offer.of_model(name)
    (recipe,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.S)
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(recipe)
    assert load_recipe("own.yaml").sections["open_ended"].server.model == "Qwen/Qwen2.5-7B-Instruct"


def test_nothing_of_a_request_is_read_twice(offer: Offer) -> None:
    asked = read_request({"model": "tiny", "messages": ASKED, "seed": 3}, offer, chat=True)
    assert (asked.seed, asked.steered, asked.temperature) == (3, SteeredBy(), 0.0)
