"""One sample again: its prompt rebuilt from its recipe, its model checked, the outcome compared."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from lm_eval.api.instance import Instance

from contextgraft.errors import InputError, MismatchError, VerificationError
from contextgraft.evaluation.backends.base import NoAnswer
from contextgraft.evaluation.backends.registry import Engine, Needs, check_engine, make_backend
from contextgraft.evaluation.build_questions import is_question, rebuild
from contextgraft.evaluation.harness import request_of
from contextgraft.evaluation.models import Candidate, candidate
from contextgraft.evaluation.questions import Question
from contextgraft.evaluation.requests import ids_digest
from contextgraft.evaluation.scoring import SCORING
from contextgraft.evaluation.suites.base import Measure, Subject
from contextgraft.evaluation.suites.spec import Exam
from contextgraft.formats.samples import SCHEMA

Row = Mapping[str, Any]

# A figure is summed in another order where other prompts lay beside it in a batch.
RELATIVE, ABSOLUTE = 1e-3, 1e-6


@dataclass(frozen=True)
class Asking:
    """What a row is replayed with: formats, skills, texts and tasks it may name, and how models are run.

    `reference` is the model that divergence is measured from; None where it is the row's own model.
    """

    exam: Exam
    measures: Sequence[Measure]
    engine: Engine
    reference: Path | None = None


@dataclass(frozen=True)
class Replay:
    """What a sample says and what came of it now; `prompt` is the text of what the model was given.

    `expected`, `recorded` and `output` are None where nothing was said, only measured.
    """

    model: str
    suite: str
    task: str
    length: int | None
    depth: float | None
    position: int | None
    prompt_tokens: int
    prompt: str
    scoring: str
    expected: str | None
    recorded: str | None
    recorded_score: float | None
    output: str | None
    score: float

    @property
    def agrees(self) -> bool:
        """Whether the same came of it again: the same words, and the same score but for rounding."""
        if self.recorded_score is None:
            return False
        near = math.isclose(self.score, self.recorded_score, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
        return near and self.output == self.recorded


def split_place(place: str) -> tuple[Path, int]:
    """FILE.parquet:ROW as path and row, counted from 0; InputError if it is neither."""
    file, colon, number = place.rpartition(":")
    if not colon or not number.isdigit():
        raise InputError("names no sample", path=place, expected="FILE.parquet:ROW, rows counted from 0")
    return Path(file), int(number)


def read_row(path: Path, number: int) -> Row:
    """One row of a table of samples; InputError if there is none such or its model was never asked."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError("cannot read the samples", path=path, received=str(error)) from None
    if missing := set(SCHEMA.names) - set(table.column_names):
        raise InputError("holds no samples", path=path, expected=f"the column {min(missing)}")
    if number >= table.num_rows:
        raise InputError("has no such row", path=path, expected=f"0 to {table.num_rows - 1}", received=number)
    row: Row = table.slice(number, 1).to_pylist()[0]
    if row["recipe"] is None:
        raise InputError(f"row {number} is of a model that was not asked", path=path, received=row["reason"])
    return row


def replay(row: Row, model: Path, asking: Asking) -> Replay:
    """Ask or measure a model as a row says, again.

    Raises MismatchError for another model or reference than the row's, and VerificationError if the recipe
    does not give the prompt that was asked.
    """
    check_engine(asking.engine, 1)
    who = own_model(row["model"], model, "the row", row["model_digest"])
    if is_question(row):
        return asked_again(row, who, asking)
    return measured_again(row, who, asking)


def own_model(label: str, path: Path, whose: str, digest: str) -> Candidate:
    """The model of a folder; MismatchError if it is not the one with that digest."""
    who = candidate(label, path)
    if who.digest != digest:
        raise MismatchError(f"is not the model of {whose}", path=path, expected=digest, received=who.digest)
    return who


def asked_again(row: Row, who: Candidate, asking: Asking) -> Replay:
    """The question of a row, asked with token ids."""
    question = rebuild(asking.exam, who.tokens, row)
    check_prompt(question, row)
    needs = Needs(longest=len(question.ids) + question.budget, largest=max(question.ids))
    backend = make_backend(who, asking.engine, needs)
    request = Instance("generate_until", {}, request_of(question), 0)
    [(_, outcome)] = backend.answers([request])
    if isinstance(outcome, NoAnswer):
        raise InputError("the model could not be asked", path=who.path, received=outcome.reason)
    prompt = who.tokens.tokenizer.decode(question.ids, skip_special_tokens=False)
    score = SCORING[question.scoring](outcome, question.answer)
    return replayed(row, prompt, {"prompt_tokens": len(question.ids), "output": outcome, "score": score})


def check_prompt(question: Question, row: Row) -> None:
    """Raise VerificationError if the recipe gave another prompt or answer than the row's."""
    check_same("prompt", row["prompt_digest"], ids_digest(question.ids))
    check_same("answer", row["answer"], question.answer)


def check_same(name: str, recorded: Any, rebuilt: Any) -> None:
    """Raise VerificationError if a recipe gave something else than was asked."""
    if rebuilt != recorded:
        raise VerificationError(
            f"the recipe gives another {name} than was asked", expected=recorded, received=rebuilt
        )


def measured_again(row: Row, who: Candidate, asking: Asking) -> Replay:
    """The window, prompt or document of a row alone; of the reference too, where there is one."""
    measure = find_measure(row, asking.measures)
    with TemporaryDirectory() as work:
        for each in (*reference_of(row, asking), who):
            rows = measure_one(each, measure, asking.engine, Path(work), row["reference_digest"] or "")
    now = next(each for each in rows if each.get("position") == row["position"])
    check_same("prompt", row["prompt_digest"], now["prompt_digest"])
    if now["status"] != "ok":
        raise InputError("the model could not be measured", path=who.path, received=now["reason"])
    return replayed(row, measure.text(who.tokens), now)


def find_measure(row: Row, measures: Sequence[Measure]) -> Measure:
    """The measure of the row alone, of the first text or task that is the row's; InputError if none is."""
    name = f"{row['suite']} {row['task']}"
    refusal = InputError("what the row was measured on is not given", received=name)
    for measure in measures:
        if measure.suite != row["suite"]:
            continue
        try:
            return measure.again(row)
        except InputError as error:
            refusal = error
    raise refusal


def reference_of(row: Row, asking: Asking) -> tuple[Candidate, ...]:
    """The model that a row's divergence was measured from, where that is another one."""
    digest = row["reference_digest"]
    if digest in (None, row["model_digest"]):
        return ()
    if asking.reference is None:
        raise InputError(
            "the row is measured from another model's predictions",
            expected=f"the model of digest {digest}",
            remedy="give its folder behind the model's",
        )
    return (own_model("reference", asking.reference, "the row's reference", digest),)


def measure_one(
    each: Candidate, measure: Measure, engine: Engine, work: Path, reference: str
) -> list[dict[str, Any]]:
    """The rows of one model, which is let go at the end."""
    backend = make_backend(each, engine, Needs(longest=measure.longest(each.tokens), largest=0))
    if backend.model is None:
        raise InputError("a measure needs the weights in this process", remedy="pass --backend hf")
    subject = Subject(
        model=backend.model,
        tokens=each.tokens,
        path=each.path,
        batch_size=engine.batch_size,
        work=work,
        identity=each.digest,
        reference=reference,
        reference_digest=reference,
    )
    return measure.rows(subject)


def replayed(row: Row, prompt: str, now: Mapping[str, Any]) -> Replay:
    """A row beside what came of it now."""
    return Replay(
        model=row["model"],
        suite=row["suite"],
        task=row["task"],
        length=row["length"],
        depth=row["depth"],
        position=row["position"],
        prompt_tokens=now["prompt_tokens"],
        prompt=prompt,
        scoring=row["scoring"],
        expected=row["answer"],
        recorded=row["output"],
        recorded_score=row["score"],
        output=now.get("output"),
        score=now["score"],
    )


def as_json(replay: Replay) -> dict[str, Any]:
    """A replay as JSON values."""
    return {**asdict(replay), "agrees": replay.agrees}
