"""Questions as tasks of lm-evaluation-harness, one task a prompt length, and a model's replies to them."""

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

from contextgraft.evaluation.questions import Question
from contextgraft.evaluation.token_lm import TokenLM, ids_to_request

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
    """Tasks to reuse for every model with the same tokenizer, the shortest prompts first.

    Questions of a task agree in suite, prompt tokens, budget and stop texts, so no batch is ever padded.
    """
    groups: dict[tuple[int, int, str, tuple[str, ...]], list[int]] = defaultdict(list)
    for place, question in enumerate(questions):
        groups[len(question.ids), question.budget, question.suite, question.stop].append(place)
    return [
        Sitting(make_task([questions[place] for place in groups[key]]), tuple(groups[key]))
        for key in sorted(groups)
    ]


def make_task(questions: Sequence[Question]) -> Any:
    """The lm-eval task of the suite, with these questions as its data and their budget of new tokens."""
    first = questions[0]
    rows = [
        {"prompt": ids_to_request(question.ids), "answer": question.answer, "scoring": question.scoring}
        for question in questions
    ]
    name = f"contextgraft_{first.suite}"
    with quiet():
        manager = TaskManager(include_path=TASKS, include_defaults=False, metadata={"rows": rows})
        task = manager.load([name])["tasks"][name]
    kwargs = {"max_gen_toks": first.budget, "until": list(first.stop)}
    task.set_config("generation_kwargs", kwargs, update=True)
    return task


def ask(
    lm: TokenLM, questions: Sequence[Question], sittings: Sequence[Sitting], room: int | None
) -> list[Reply]:
    """One reply a question, in order; `room` is how many tokens the model has positions for, if limited."""
    replies: dict[int, Reply] = {}
    for sitting in sittings:
        first = questions[sitting.places[0]]
        needed = len(first.ids) + first.budget
        if room is not None and needed > room:
            reason = (
                f"needs {needed} tokens, the model has {room} positions and no rotary ones; it was not asked"
            )
            given = [Reply("", None, "truncated", reason)] * len(sitting.places)
        else:
            given = sit(lm, sitting)
        replies.update(zip(sitting.places, given, strict=True))
    return [replies[place] for place in range(len(questions))]


def sit(lm: TokenLM, sitting: Sitting) -> list[Reply]:
    """Run one task; what torch cannot run (memory, say) becomes "failed" replies with its reason.

    `evaluate` and not `simple_evaluate`, which asks git, pip and the hub about the machine on every call.
    """
    name = sitting.task.task_name
    try:
        with quiet():
            results = evaluate(lm=lm, task_dict={"tasks": {name: sitting.task}}, bootstrap_iters=0)
    except RuntimeError as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return [Reply("", None, "failed", reason)] * len(sitting.places)
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    return [Reply(sample["filtered_resps"][0], sample["score"]) for sample in samples]


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
