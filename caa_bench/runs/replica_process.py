"""What runs in a process beside the run's own: evaluator and job in, rows or an error out. See `replicas.py`."""

from __future__ import annotations

import io
import pickle
import signal
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

from caa_bench.evaluators.base import Evaluator, Job, Row
from caa_bench.interventions import Intervention
from caa_bench.models.loading import Loading
from caa_bench.models.model import ChatModel


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What a process needs to hold the same model.

    Args:
        name / loading: of the model.
        dtype: what `auto` was decided to be, since it may rest on a measurement.
        threads: torch's, on which last bits depend on a CPU.
        plugins: files whose classes the run uses.
    """

    name: str
    loading: Loading
    dtype: Any
    threads: int
    plugins: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a job.

    Args:
        rows: empty where it failed.
        error: what computing it raised.
        unread: why it could not even be read; nothing was computed then.
    """

    rows: list[Row] = field(default_factory=list)
    error: Exception | None = None
    unread: Exception | None = None


@dataclass(frozen=True, kw_only=True)
class Work:
    """What goes to a process: interventions that it does not know yet, and a job that names them by number.

    Args:
        fresh: whether it is to forget what it knew.
        new / job: pickled.
    """

    fresh: bool
    new: bytes
    job: bytes


def pickled(evaluator: Evaluator, job: Job, known: list[Intervention]) -> bytes:
    """A job without its model; an intervention that was sent before goes as its number, a finetune's weights once.

    Args:
        known: what the receiver knows, in order; what is new is appended.
    """
    new: list[Intervention] = []
    fresh = not known

    def number(thing: Any) -> int | None:
        if not isinstance(thing, Intervention):
            return None
        if all(one is not thing for one in known):
            known.append(thing)
            new.append(thing)
        return next(n for n, one in enumerate(known) if one is thing)

    written = io.BytesIO()
    pickler = pickle.Pickler(written)
    pickler.persistent_id = number  # type: ignore[method-assign]
    pickler.dump((evaluator, replace(job, chat=None)))  # type: ignore[arg-type]
    return pickle.dumps(Work(fresh=fresh, new=pickle.dumps(new), job=written.getvalue()))


def serve(connection: Connection, copied: Copied) -> None:
    """The whole life of such a process; it loads the model with its first job."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # the run's own process decides what is finished
    import torch

    from caa_bench.storage.plugins import load_plugin

    torch.set_num_threads(copied.threads)
    for plugin in copied.plugins:
        load_plugin(plugin)
    chat = ChatModel(name=copied.name, loading=copied.loading)
    chat._dtype = copied.dtype
    answer_all(connection, chat)


def answer_all(connection: Connection, chat: ChatModel) -> None:
    """Job by job, until the connection ends: closed, or with the life of the process behind it."""
    known: list[Intervention] = []
    while True:
        try:
            received = connection.recv_bytes()
            connection.send_bytes(_sendable(_answered(received, chat, known)))
        except (EOFError, OSError):
            return


def unpickled(received: bytes, known: list[Intervention]) -> tuple[Evaluator, Job]:
    """What `pickled` made, on the other side; the job is still without its model."""
    work: Work = pickle.loads(received)  # noqa: S301 - of our own process
    if work.fresh:
        known.clear()
    known += pickle.loads(work.new)  # noqa: S301
    unpickler = pickle.Unpickler(io.BytesIO(work.job))  # noqa: S301
    unpickler.persistent_load = known.__getitem__  # type: ignore[method-assign]
    evaluator, job = unpickler.load()
    return evaluator, job


def _answered(received: bytes, chat: ChatModel, known: list[Intervention]) -> Answer:
    try:
        evaluator, job = unpickled(received, known)
    except Exception as error:
        return Answer(unread=error)
    try:
        return Answer(rows=evaluator.evaluate(replace(job, chat=chat)))
    except Exception as error:
        return Answer(error=error)


def _sendable(answer: Answer) -> bytes:
    """An error whose class cannot be sent goes as a RuntimeError that says the same."""
    try:
        written = pickle.dumps(answer)
        pickle.loads(written)  # noqa: S301
    except Exception:
        plain = [one and RuntimeError(f"{type(one).__name__}: {one}") for one in (answer.error, answer.unread)]
        written = pickle.dumps(Answer(error=plain[0], unread=plain[1]))
    return written
