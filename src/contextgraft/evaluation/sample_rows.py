"""Rows of the table of samples: one a question and response, one for a model that was not evaluated."""

from typing import Any

import pyarrow as pa

from contextgraft.checkpoint.model_folder import REFUSED
from contextgraft.evaluation.harness import Reply
from contextgraft.evaluation.models import Absent
from contextgraft.evaluation.questions import Question
from contextgraft.evaluation.requests import ids_digest
from contextgraft.formats.samples import common, table


def row(question: Question, reply: Reply) -> dict[str, Any]:
    """One sample's own columns."""
    return {
        "suite": question.suite,
        "task": question.task,
        "kind": question.kind,
        "haystack": question.haystack,
        "document": question.document,
        "length": question.length,
        "prompt_tokens": len(question.ids),
        "prompt_digest": ids_digest(question.ids),
        "depth": question.depth,
        "distractors": question.distractors,
        "seed": question.seed,
        "index": question.index,
        "recipe": question.recipe,
        "scoring": question.scoring,
        "answer": question.answer,
        "output": reply.output,
        "score": reply.score,
        "status": reply.status,
        "reason": reply.reason,
    }


def absent_row(each: Absent) -> pa.Table:
    """The one row of a model that could not be asked, of a suite of its own."""
    refused = {"suite": REFUSED, "task": each.verb, "status": "skipped", "reason": each.reason}
    return table(common(each.label, "", {}), [refused])
