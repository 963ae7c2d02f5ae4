"""Responses to questions: from the response cache, else from the backend; compared with the answers."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from contextgraft.evaluation.backends.base import Backend, GenerationRequest, NoResponse, Outcome
from contextgraft.evaluation.questions import Question
from contextgraft.evaluation.response_cache import ResponseCache, request_key
from contextgraft.evaluation.scoring import SCORING


@dataclass(frozen=True)
class ScoredResponse:
    """The response to one question; `score` is None unless `status` is "ok"."""

    output: str
    score: float | None
    status: str = "ok"
    reason: str | None = None


def respond(
    backend: Backend, cache: ResponseCache, questions: Sequence[Question], max_positions: int | None
) -> list[ScoredResponse]:
    """One scored response per question, in order; the backend is called suite by suite.

    A question that exceeds the model's `max_positions` is not given to the backend.
    """
    suites: dict[str, list[int]] = defaultdict(list)
    for index, question in enumerate(questions):
        suites[question.suite].append(index)
    scored: dict[int, ScoredResponse] = {}
    for indices in suites.values():
        outcomes = cached_outcomes(
            backend, cache, [questions[index].request for index in indices], max_positions
        )
        for index, outcome in zip(indices, outcomes, strict=True):
            scored[index] = score_response(questions[index], outcome)
    return [scored[index] for index in range(len(questions))]


def cached_outcomes(
    backend: Backend, cache: ResponseCache, requests: Sequence[GenerationRequest], max_positions: int | None
) -> list[Outcome]:
    """The outcome of each request, in order; responses that the cache lacks are computed and added."""
    outcomes: dict[int, Outcome] = {}
    missing: list[int] = []
    for index, request in enumerate(requests):
        known = cache.get(request_key(request))
        reason = exceeds_positions(request, max_positions)
        if known is not None:
            outcomes[index] = known
        elif reason is not None:
            outcomes[index] = NoResponse("truncated", reason)
        else:
            missing.append(index)
    if missing:
        for number, outcome in backend.responses([requests[index] for index in missing]):
            index = missing[number]
            outcomes[index] = outcome
            if isinstance(outcome, str):
                cache.add(request_key(requests[index]), outcome)
    return [outcomes[index] for index in range(len(requests))]


def exceeds_positions(request: GenerationRequest, max_positions: int | None) -> str | None:
    """Why a prompt is not given to a model with this many positions; None if it fits."""
    needed = len(request.prompt_ids) + request.max_new_tokens
    if max_positions is None or needed <= max_positions:
        return None
    return (
        f"needs {needed} tokens, the model has {max_positions} positions and no rotary ones; "
        "it was not evaluated"
    )


def score_response(question: Question, outcome: Outcome) -> ScoredResponse:
    """Compare a response with the expected answer by the question's scoring."""
    if isinstance(outcome, NoResponse):
        return ScoredResponse("", None, outcome.status, outcome.reason)
    return ScoredResponse(outcome, SCORING[question.scoring](outcome, question.answer))
