"""A server that was compared with this machine: who generates, and what a row says of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from caa_bench.engine.easysteer import can_be_sent
from caa_bench.engine.edit import Edit
from caa_bench.engine.generate import Continuation
from caa_bench.evaluators.base import Job
from caa_bench.evaluators.served.check import check_server
from caa_bench.evaluators.served.generation import ServedGeneration
from caa_bench.evaluators.server import Server
from caa_bench.models.prompts import Prompt
from caa_bench.storage.row_kinds import SERVER

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Trusted:
    """Generates there. Holds no connection, so that it can be handed to another process.

    Args:
        server: where it is.
        checked: what the check found.
        gone: why it is asked no more in this run; "" as long as it answers.
    """

    server: Server
    checked: str
    gone: str = ""

    def say(self, *given: Any, **named: Any) -> list[list[Continuation]]:
        """As `ServedGeneration`; once the server did not answer, nothing more is asked.

        Raises:
            ConnectionError: it did not answer; the next run asks again.
        """
        if self.gone:
            raise ConnectionError(self.gone)
        try:
            return ServedGeneration(self.server)(*given, **named)
        except ConnectionError as error:
            self.gone = str(error)
            raise

    def note(self, edits: Sequence[Edit]) -> dict[str, str]:
        """What a row says that was made under these edits; nothing where it was made here."""
        made_there = f"{self.server.base_url} {self.server.model}: {self.checked}"
        return {SERVER: made_there} if can_be_sent(edits) else {}


def trusted(server: Server, jobs: Sequence[Job], prompts_of: Callable[[Job], list[Prompt]], *, most: int) -> Trusted:
    """The server, compared with this machine on a base that can be sent: one with vectors where there is any.

    Args:
        prompts_of: the prompts of a job.
        most: tokens of an answer.

    Raises:
        UserError: it cannot be reached, or it is not to be trusted.
    """
    sendable = [job for job in jobs if (base := job.base.edits(job.dose)) is not None and can_be_sent(base)]
    if not sendable:
        logger.warning("open_ended.server: nothing of this run can be sent, so all answers are generated here")
        return Trusted(server=server, checked="")
    job = max(map(partial(_with_all_items, among=sendable), sendable), key=lambda one: (_steers(one), len(one.items)))
    job = replace(job, items=job.items[: server.check_questions])
    checked = str(check_server(ServedGeneration(server), job, prompts_of(job), max_new_tokens=most))
    logger.info("open_ended.server: %s", checked)
    return Trusted(server=server, checked=checked)


def _with_all_items(job: Job, *, among: Sequence[Job]) -> Job:
    """The job with the items of all jobs on its base: a batch may be shorter than the check."""
    alike = [one for one in among if (one.base, one.dose) == (job.base, job.dose)]
    return replace(job, items=list({item.id: item for one in alike for item in one.items}.values()))


def _steers(job: Job) -> bool:
    return any(one.intervention is not None for one in job.treatments)
