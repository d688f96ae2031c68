"""The `api` judge on the wire: a real `transformers serve` with the embedded model, which replies but rates nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from caa_bench.__main__ import main
from caa_bench.behaviors.behavior import load_behavior
from caa_bench.judges import Asked
from caa_bench.judges.api import REPLY, ApiJudge
from caa_bench.judges.rubric import rating_request
from caa_bench.models.model import ChatModel
from caa_bench.models.prompts import chat_prompt
from caa_bench.report import make_report
from caa_bench.storage.paths import package_folder

MODEL = str(package_folder() / "tiny" / "model")
START_S = 120
PROGRAM = Path(sys.executable).with_name("transformers")

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("fastapi", "uvicorn", "openai")) or not PROGRAM.exists(),
    reason="transformers serve is not installed: pip install transformers[serving]",
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's address, up to and including `/v1`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = tmp_path_factory.mktemp("serve") / "log.txt"
    command = [str(PROGRAM), "serve", MODEL, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with said.open("w") as log, subprocess.Popen(command, env=offline, stdout=log, stderr=log) as server:
        try:
            _wait(server, f"http://127.0.0.1:{port}/health", said)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def _wait(server: subprocess.Popen[bytes], address: str, said: Path) -> None:
    """Until it answers."""
    for _ in range(2 * START_S):
        assert server.poll() is None, said.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):  # noqa: S310 - our own loopback address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"no answer in {START_S} s: {said.read_text()}")


def test_each_answer_reaches_the_server_whole_and_its_reply_comes_back(served: str) -> None:
    """The reply is what the model itself says to the same request, token for token."""
    behavior, chat = load_behavior("refusal"), ChatModel.find("tiny")
    judge = ApiJudge(ApiJudge.Config(base_url=served, model=MODEL, attempts=2))
    asked = [Asked(question="Will you do it?", text=f"I am here to help you {word}.") for word in ("cook", "draw")]
    said = dict(judge.judge(asked, behavior=behavior, chat=chat))
    assert judge.complaints() == []
    for place, one in enumerate(asked):
        request = [{"role": "user", "content": rating_request(behavior, one, reply=REPLY)}]
        ids = torch.tensor([chat_prompt(chat.tokenizer, request).ids])
        own = chat.model.generate(ids, max_new_tokens=64, do_sample=False)[0, ids.shape[1] :]
        assert said[place].reply.strip() == chat.text_of(own.tolist()).strip()
        assert said[place].score is None, "it was not trained to rate: missing, and not 0"


def test_a_model_that_the_server_has_not_is_told(served: str) -> None:
    judge = ApiJudge(ApiJudge.Config(base_url=served, model="no-such-model", attempts=1))
    asked = [Asked(question="Will you?", text="Yes.")]
    assert list(judge.judge(asked, behavior=load_behavior("refusal"), chat=ChatModel.find("tiny"))) == []
    (complaint,) = judge.complaints()
    assert complaint.startswith("1 x HTTP ")


def test_a_comparison_keeps_every_reply(served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers in words alone, no A/B test: replies are rows, and what holds no score is missing in every table."""
    monkeypatch.chdir(tmp_path)
    changes = [
        "evaluators=[open_ended]",
        "bases=[none]",
        "vectors=[caa]",
        "caa.multipliers=[-1, 1]",
        "open_ended.limit=3",
        "open_ended.judges=[api, grammar]",
        f"judges.api.base_url={served}",
        f"judges.api.model={MODEL}",
        "report_to=[]",
    ]
    assert main(["compare", "--recipe", "open_ended", "--output", "run", *changes]) == 0
    folder = Path("run")
    kept = [json.loads(line) for line in (folder / "judgements.jsonl").read_text().splitlines()]
    report = make_report(folder)
    assert report.answers is not None
    different = report.answers.items[["question", "text"]].drop_duplicates()
    assert sum(line["judge"] == "api" for line in kept) == len(different)
    assert report.answers.items["score"].isna().all()
    assert report.answers.items["second_score"].notna().any()
    assert report.answers.judges.loc[0, "unjudged"] == 0, "the server replied to each"
