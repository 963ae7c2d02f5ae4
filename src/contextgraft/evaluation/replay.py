"""One sample asked again: its prompt rebuilt from its recipe, its model checked, its answer compared."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from lm_eval.api.instance import Instance

from contextgraft.errors import InputError, MismatchError, VerificationError
from contextgraft.evaluation.answers import NoAnswer
from contextgraft.evaluation.candidates import candidate
from contextgraft.evaluation.engine import Engine, Needs, check_engine, make_backend
from contextgraft.evaluation.exam import rebuild
from contextgraft.evaluation.harness import request_of
from contextgraft.evaluation.questions import Question
from contextgraft.evaluation.results import SCHEMA
from contextgraft.evaluation.scoring import SCORING
from contextgraft.evaluation.suites import Exam

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Replay:
    """What a sample says and what came of it now; `prompt` is the text of what the model was given."""

    model: str
    suite: str
    task: str
    length: int | None
    depth: float | None
    prompt_tokens: int
    prompt: str
    expected: str
    recorded: str
    recorded_score: float | None
    output: str
    score: float

    @property
    def agrees(self) -> bool:
        """Whether the model said the same again."""
        return self.output == self.recorded


def split_place(place: str) -> tuple[Path, int]:
    """FILE.parquet:ROW as path and row, counted from 0; InputError if it is neither."""
    file, colon, number = place.rpartition(":")
    if not colon or not number.isdigit():
        raise InputError("names no sample", path=place, expected="FILE.parquet:ROW, rows counted from 0")
    return Path(file), int(number)


def read_row(path: Path, number: int) -> Row:
    """One row of a table of samples; InputError if there is none such or it was not asked as a question."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError("cannot read the samples", path=path, received=str(error)) from None
    if missing := set(SCHEMA.names) - set(table.column_names):
        raise InputError("holds no samples", path=path, expected=f"the column {min(missing)}")
    if number >= table.num_rows:
        raise InputError("has no such row", path=path, expected=f"0 to {table.num_rows - 1}", received=number)
    row: Row = table.slice(number, 1).to_pylist()[0]
    if row["scoring"] not in SCORING or row["answer"] is None:
        raise InputError(
            f"row {number} is no question that was asked with token ids",
            path=path,
            expected=f"scoring {', '.join(SCORING)}",
            received=f"{row['suite']}, {row['scoring']}",
        )
    return row


def replay(row: Row, model: Path, exam: Exam, engine: Engine) -> Replay:
    """Ask a model the question of a row again.

    `exam` holds the formats and skills recipes refer to. Raises MismatchError for another model than the
    row's, and VerificationError if the recipe does not give the prompt that was asked.
    """
    check_engine(engine, 1)
    who = candidate(row["model"], model)
    if who.digest != row["model_digest"]:
        raise MismatchError(
            "is not the model of the row", path=model, expected=row["model_digest"], received=who.digest
        )
    question = rebuild(exam, who.tokens, row)
    check_prompt(question, row)
    needs = Needs(longest=len(question.ids) + question.budget, largest=max(question.ids))
    backend = make_backend(who, engine, needs)
    request = Instance("generate_until", {}, request_of(question), 0)
    [(_, outcome)] = backend.answers([request])
    if isinstance(outcome, NoAnswer):
        raise InputError("the model could not be asked", path=model, received=outcome.reason)
    return Replay(
        model=row["model"],
        suite=row["suite"],
        task=row["task"],
        length=row["length"],
        depth=row["depth"],
        prompt_tokens=len(question.ids),
        prompt=who.tokens.tokenizer.decode(question.ids, skip_special_tokens=False),
        expected=question.answer,
        recorded=row["output"],
        recorded_score=row["score"],
        output=outcome,
        score=SCORING[question.scoring](outcome, question.answer),
    )


def check_prompt(question: Question, row: Row) -> None:
    """Raise VerificationError if the recipe gave another prompt or answer than the row's."""
    for name, rebuilt, recorded in (
        ("prompt", len(question.ids), row["prompt_tokens"]),
        ("answer", question.answer, row["answer"]),
    ):
        if rebuilt != recorded:
            raise VerificationError(
                f"the recipe gives another {name} than was asked", expected=recorded, received=rebuilt
            )


def as_json(replayed: Replay) -> dict[str, Any]:
    """A replay as JSON values."""
    return {**asdict(replayed), "agrees": replayed.agrees}
