"""Tasks of lm-evaluation-harness: loaded from a YAML or by name, with a metric and a draw of documents."""

import contextlib
import io
import logging
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.metrics import mean
from lm_eval.tasks import TaskManager

from contextgraft.errors import InputError

YAML = (".yaml", ".yml")
TYPES = ("multiple_choice", "loglikelihood", "generate_until")


def split_metric(name: str) -> tuple[str, str | None]:
    """A task, and the metric that is named after the last colon."""
    spec, colon, metric = name.rpartition(":")
    return (spec, metric) if colon else (name, None)


def task_names() -> frozenset[str]:
    """Names of all tasks that come with lm-eval; no data set is loaded."""
    with quiet_lm_eval():
        return frozenset(TaskManager().all_tasks)


def similar_tasks(name: str, known: Collection[str]) -> list[str]:
    """Names that a misspelt one may mean."""
    return get_close_matches(name, known, n=2, cutoff=0.8)


def load_task(spec: str) -> Any:
    """The one task of a YAML file, or lm-eval's task of that name; InputError if it cannot be loaded."""
    own = Path(spec).suffix in YAML
    if own and not Path(spec).is_file():
        raise InputError("cannot read the task", path=spec, expected="a YAML file of lm-eval")
    try:
        with quiet_lm_eval():
            loaded = TaskManager(include_defaults=not own).load([spec])
    except Exception as error:  # the file is the user's, and so is the code that it names
        raise InputError(
            "cannot be loaded as a task of lm-eval",
            path=spec,
            received=f"{type(error).__name__}: {error}"[:200],
            remedy="give the path of a YAML whose data are local files (dataset_path: json), or the name "
            "of a task of lm-eval whose data set is in the local cache",
        ) from None
    tasks = list(loaded["tasks"].values())
    if len(tasks) != 1:
        raise InputError("is a group", path=spec, expected="one task", received=f"{len(tasks)} tasks")
    if tasks[0].OUTPUT_TYPE not in TYPES:
        raise InputError(
            "is a task of a kind that is not supported",
            path=spec,
            expected=", ".join(TYPES),
            received=tasks[0].OUTPUT_TYPE,
        )
    return tasks[0]


def pick_metric(task: Any, spec: str, wanted: str | None) -> str:
    """The metric named, else the task's first; it must be a mean of scores for which higher is better."""
    better = task.higher_is_better()
    usable = [name for name, how in task.aggregation().items() if how is mean and better.get(name)]
    if not usable or (wanted is not None and wanted not in usable):
        raise InputError(
            "has no such score per sample",
            path=spec,
            expected=", ".join(usable) or "a metric that is a mean, higher being better",
            received=wanted or ", ".join(task.aggregation()),
        )
    return wanted or usable[0]


def draw_documents(task: Any, spec: str, samples: int | None, seed: int) -> tuple[int, ...]:
    """Numbers of the documents to evaluate, in order."""
    number = len(task.eval_docs)
    count = number if samples is None else samples
    if count > number:
        raise InputError(
            "has fewer documents than samples requested", path=spec, expected=count, received=number
        )
    return tuple(
        sorted(int(document) for document in np.random.default_rng(seed).permutation(number)[:count])
    )


@contextlib.contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Suppress the messages and progress bars that lm-eval prints unconditionally; errors are still raised.

    The logging level is not enough: lm-eval's `build_all_requests` draws a tqdm bar that no option disables.
    Only calls of lm-eval run inside: sys.stderr is replaced for the whole process meanwhile.
    """
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
