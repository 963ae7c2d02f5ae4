"""Rows of the table of samples: one per question and response, one per model that was skipped."""

from typing import Any

import pyarrow as pa

from contextgraft.checkpoint.model_folder import REFUSED
from contextgraft.evaluation.models import SkippedModel
from contextgraft.evaluation.questions import Question, ids_digest
from contextgraft.evaluation.responses import ScoredResponse
from contextgraft.formats.samples import common, table


def sample_row(question: Question, response: ScoredResponse) -> dict[str, Any]:
    """The columns of one sample, without those that all samples of a model share."""
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
        "chat": int(question.chat),
        "seed": question.seed,
        "sample_index": question.index,
        "recipe": question.prompt_spec,
        "scoring": question.scoring,
        "answer": question.answer,
        "output": response.output,
        "score": response.score,
        "status": response.status,
        "reason": response.reason,
    }


def refused_rows(samples: pa.Table) -> list[tuple[str, str, str]]:
    """Label, command and reason of every model that was skipped."""
    rows = samples.select(["model", "suite", "task", "reason"]).to_pylist()
    return [(row["model"], row["task"], row["reason"]) for row in rows if row["suite"] == REFUSED]


def skipped_table(model: SkippedModel) -> pa.Table:
    """The one row of a model that was skipped, in a suite of its own."""
    row = {"suite": REFUSED, "task": model.verb, "status": "skipped", "reason": model.reason}
    return table(common(model.label, "", {}), [row])
