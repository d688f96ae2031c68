"""Task names -> lm-eval's tasks with their data, or one line that says what is wrong."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from lm_eval.tasks import TaskManager

from caa_bench.errors import UserError
from caa_bench.evaluators.lm_eval.scoring import aggregation_of
from caa_bench.evaluators.lm_eval.steered_model import UNDERSTOOD
from caa_bench.models.hub import first_line
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from lm_eval.api.task import Task


def load_tasks(names: list[str], *, folder: str) -> dict[str, Task]:
    """The tasks behind the names. lm-eval's own 14,000 are looked through only where the user's do not have them all,
    which takes seconds."""
    manager = TaskManager(include_path=folder or None, include_defaults=False)
    if not set(names) <= set(manager.all_tasks):
        manager = TaskManager(include_path=folder or None)
    known = manager.all_tasks
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(
            *(f"lm_eval.tasks: {_quoted_name(name)}: no such task; {_near(name, known)}" for name in unknown)
        )
    loaded: dict[str, Task] = {}
    for name in names:
        try:
            with quiet_lm_eval():
                loaded |= manager.load([name])["tasks"]
        except Exception as error:
            raise broken(name, error) from error
    return loaded


def _near(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return (
        f"did you mean {_quoted_name(near[0])}?"
        if near
        else "`lm-eval ls tasks` lists lm-eval's own; task_path adds yours"
    )


def broken(name: str, error: Exception) -> UserError:
    return UserError(
        f"lm_eval.tasks: {_quoted_name(name)} cannot be loaded ({type(error).__name__}: {first_line(error)}); check "
        "that its file is right and its data can be reached"
    )


def refused(name: str, task: Task) -> Iterator[str]:
    """What of a task cannot be measured here."""
    begin = f"lm_eval.tasks: {_quoted_name(name)}"
    if getattr(task, "UNSAFE_CODE", False):
        yield f"{begin} runs code that the model writes, which is refused; take it out"
    if getattr(task, "MULTIMODAL", False):
        yield f"{begin} asks about images or sound, and the model reads text; take it out"
    metrics = task.aggregation()
    if not any(aggregation_of(task, metric) for metric in metrics):
        yield f"{begin}: no value of one document in its metrics ({', '.join(metrics)}); take it out"
    drawn = task.get_config("generation_kwargs") or {}
    if task.OUTPUT_TYPE == "generate_until" and drawn.get("do_sample") and (more := sorted(drawn.keys() - UNDERSTOOD)):
        yield f"{begin} draws with {', '.join(more)}, which is not known here; set do_sample: false in its file"


def set_fewshot(task: Task, *, num_fewshot: int | None, seed: int) -> None:
    """As lm-eval's own evaluation does it."""
    own = task.get_config("num_fewshot")
    if num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=seed)


def _quoted_name(name: str) -> str:
    return repr(terminal_safe(name[:60]))


@contextlib.contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Without lm-eval's warnings and bars, which say nothing of this run; what goes wrong is raised."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
