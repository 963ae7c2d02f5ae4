"""Questions as tasks of lm-evaluation-harness, one task a suite, and a model's replies to them."""

import contextlib
import io
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from contextgraft.evaluation.backends.base import NoAnswer, Recorder
from contextgraft.evaluation.questions import Question
from contextgraft.evaluation.requests import Arguments, arguments, ids_to_request

TASKS = Path(__file__).parent / "tasks"


@dataclass(frozen=True)
class Sitting:
    """One lm-eval task, and the place of each of its questions in the list it was made from."""

    task: Any
    places: tuple[int, ...]


@dataclass(frozen=True)
class Reply:
    """What came of one question; `score` is None unless `status` is "ok"."""

    output: str
    score: float | None
    status: str = "ok"
    reason: str | None = None


def make_sittings(questions: Sequence[Question]) -> list[Sitting]:
    """Tasks to reuse for every model with the same tokenizer, one for each suite."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, question in enumerate(questions):
        groups[question.suite].append(place)
    return [
        Sitting(make_task([questions[place] for place in places]), tuple(places))
        for places in groups.values()
    ]


def make_task(questions: Sequence[Question]) -> Any:
    """The lm-eval task of a suite, with these questions as its data."""
    rows = [
        {
            "prompt": ids_to_request(question.ids),
            "answer": question.answer,
            "scoring": question.scoring,
            "budget": question.budget,
            "stop": list(question.stop),
        }
        for question in questions
    ]
    name = f"contextgraft_{questions[0].suite}"
    with quiet():
        manager = TaskManager(include_path=TASKS, include_defaults=False, metadata={"rows": rows})
        return manager.load([name])["tasks"][name]


def request_of(question: Question) -> Arguments:
    """The arguments of the request that asks a question."""
    return arguments(ids_to_request(question.ids), question.budget, question.stop)


def ask(recorder: Recorder, questions: Sequence[Question], sittings: Sequence[Sitting]) -> list[Reply]:
    """One reply a question, in order."""
    replies: dict[int, Reply] = {}
    for sitting in sittings:
        asked = [questions[place] for place in sitting.places]
        scores = sit(recorder, sitting)
        given = [reply(recorder, question, score) for question, score in zip(asked, scores, strict=True)]
        replies.update(zip(sitting.places, given, strict=True))
    return [replies[place] for place in range(len(questions))]


def reply(recorder: Recorder, question: Question, score: float) -> Reply:
    """The reply to one question; its score counts only where there was an answer."""
    outcome = recorder.outcome(request_of(question))
    if isinstance(outcome, NoAnswer):
        return Reply("", None, outcome.status, outcome.reason)
    return Reply(outcome, score)


def sit(recorder: Recorder, sitting: Sitting) -> list[float]:
    """Run one task; a score a question.

    `evaluate` and not `simple_evaluate`, which asks git, pip and the hub about the machine on every call.
    """
    name = sitting.task.task_name
    with quiet():
        results = evaluate(lm=recorder, task_dict={"tasks": {name: sitting.task}}, bootstrap_iters=0)
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    return [sample["score"] for sample in samples]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's notices and its unconditional progress bars off the terminal; errors still raise."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
