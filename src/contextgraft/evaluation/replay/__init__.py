"""One sample again: its prompt rebuilt from its specification, its model checked, the results compared."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq

from contextgraft.checkpoint.input_files import unchanged
from contextgraft.config.text_file import beside
from contextgraft.errors import InputError, MismatchError, VerificationError
from contextgraft.evaluation.backends.base import NoResponse, lifetime
from contextgraft.evaluation.backends.loading import load_config
from contextgraft.evaluation.backends.registry import BackendConfig, PromptLimits, check_backend, make_backend
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer, load_tokenizer
from contextgraft.evaluation.models import EvalModel, open_eval_model
from contextgraft.evaluation.questions import Question, ids_digest
from contextgraft.evaluation.replay.replayed_sample import ReplayedSample, replayed_sample
from contextgraft.evaluation.scoring import SCORING
from contextgraft.evaluation.spec import EvalSpec
from contextgraft.evaluation.suites.base import LoadedModel, Measurement, SampleColumns, SampleRow
from contextgraft.formats.sample_files import check_intact, check_sample_file
from contextgraft.formats.samples import SCHEMA, as_today
from contextgraft.rope.model_class import quiet_transformers


def read_row(path: Path, number: int) -> SampleRow:
    """One row of a table of samples; InputError for a spoiled table, no such row, or a skipped model."""
    if not path.is_file():
        raise InputError(
            "cannot read the samples", path=path, expected="a table that `contextgraft evaluate --out` wrote",
            received="not a file" if path.exists() else "no such file",
            remedy=beside(path) or "check the path",
        )  # fmt: skip
    check_intact(path)
    table = as_today(pq.read_table(path))
    if missing := set(SCHEMA.names) - set(table.column_names):
        raise InputError("is not a table of samples", path=path, expected=f"the column {min(missing)}")
    check_sample_file(path)
    if number >= table.num_rows:
        raise InputError("has no such row", path=path, expected=f"0 to {table.num_rows - 1}", received=number)
    row: SampleRow = table.slice(number, 1).to_pylist()[0]
    if row["recipe"] is None:
        raise InputError(f"row {number} is of a model that was skipped", path=path, received=row["reason"])
    with usable_specification():
        dict(json.loads(row["recipe"]))
    return row


@contextmanager
def usable_specification() -> Iterator[None]:
    """Whatever a row of another program makes of the code inside is one InputError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise InputError(
            "the row's specification of its prompt cannot be used",
            expected="a row that `contextgraft evaluate` wrote",
            received=f"{type(error).__name__}: {error}"[:200],
        ) from None


@quiet_transformers()
def replay_sample(
    row: SampleRow,
    model: Path,
    spec: EvalSpec,
    backend: BackendConfig,
    reference: Path | None = None,
    *,
    log: Callable[[str], object] = str,
    advance: Callable[[int], object] = int,
) -> ReplayedSample:
    """Evaluate a model again on what a row says.

    `spec` has the question sets and measurements that the row may come from; their lengths and samples do not
    matter. `reference` is the model from which divergence is measured, if it is not the row's own. `advance`
    is called with the bytes of tensors as they are read to identify the model, `log` with a line after it.

    Raises MismatchError for a model or reference that is not the row's, and VerificationError if the row's
    specification does not give the recorded prompt.
    """
    check_backend(backend, 1)
    opened = open_checked(row["model"], model, "the row", row["model_digest"], advance)
    log("the model is the row's; it is loaded, and the row is computed again")
    replay = replay_question if is_question(row) else replay_measurement
    with unchanged(opened.inputs):
        return replay(row, opened, spec, backend, reference)


@quiet_transformers()
def rebuild_prompt(row: SampleRow, folder: Path, spec: EvalSpec) -> str:
    """The text of a row's prompt, rebuilt with the tokenizer of a model folder; no model is loaded.

    `spec` is as for `replay_sample`. Raises VerificationError if the prompt is not the recorded one, for
    example because the folder has another tokenizer.
    """
    load_config(folder)  # before the tokenizer, whose loader reads it, too
    tokenizer = load_tokenizer(folder)
    if is_question(row):
        with usable_specification():
            question = rebuild_question(spec, tokenizer, row)
        check_same("prompt", row["prompt_digest"], ids_digest(question.ids))
        return tokenizer.decode_all(question.ids)
    with usable_specification():
        measurement = find_measurement(row, spec.measurements)
        rebuilt = matching_columns(row, measurement.unscored_rows(tokenizer, "skipped", "not evaluated"))
    if (digest := rebuilt.get("prompt_digest")) is not None:  # requests of lm-eval depend on no tokenizer
        check_same("prompt", row["prompt_digest"], digest)
    return measurement.text(tokenizer)


def is_question(row: SampleRow) -> bool:
    """Whether a row is of a question: measurements have no answer, and tasks of lm-eval a document."""
    return row["answer"] is not None and "doc_id" not in json.loads(row["recipe"])


def open_checked(
    label: str, path: Path, whose: str, digest: str, advance: Callable[[int], object] = int
) -> EvalModel:
    """The model of a folder; MismatchError if its digest is another."""
    model = open_eval_model(label, path, advance)
    if model.digest != digest:
        raise MismatchError(f"is not the model of {whose}", path=path, expected=digest, received=model.digest)
    return model


def replay_question(
    row: SampleRow, model: EvalModel, spec: EvalSpec, backend: BackendConfig, _: Path | None
) -> ReplayedSample:
    """The question of a row, answered again."""
    with usable_specification():
        question = rebuild_question(spec, model.tokenizer, row)
    check_same("prompt", row["prompt_digest"], ids_digest(question.ids))
    check_same("answer", row["answer"], question.answer)
    limits = PromptLimits(longest=len(question.ids) + question.budget, largest_id=max(question.ids))
    with lifetime(runner := make_backend(model, backend, limits)):
        [(_index, outcome)] = runner.responses([question.request])
    if isinstance(outcome, NoResponse):
        raise InputError("the model gave no response", path=model.path, received=outcome.reason)
    score = SCORING[question.scoring](outcome, question.answer)
    now = {"prompt_tokens": len(question.ids), "output": outcome, "score": score}
    return replayed_sample(row, model.tokenizer.decode_all(question.ids), now)


def rebuild_question(spec: EvalSpec, tokenizer: PromptTokenizer, row: SampleRow) -> Question:
    """The question of a row; InputError if no question set has its names, or none its content."""
    prompt_spec = json.loads(row["recipe"])
    label = ", ".join(str(row[name]) for name in ("suite", "task", "kind", "haystack") if row[name])
    remedy = "pass the format, kind, haystack, values, data or skill file that the row was evaluated with"
    named = [
        question_set
        for question_set in spec.question_sets
        if question_set.suite == row["suite"] and question_set.matches(row)
    ]
    if not named:
        raise InputError(f"nothing that was given matches the row: {label}", remedy=remedy)
    for question_set in named:
        if question_set.same_content(row, prompt_spec):
            return question_set.rebuild(row, prompt_spec, tokenizer)
    raise InputError(f"{label} is not what the row was evaluated with", remedy=remedy)


def check_same(name: str, recorded: Any, rebuilt: Any) -> None:
    """Raise VerificationError if a row's specification gave something else than was recorded."""
    if rebuilt != recorded:
        raise VerificationError(
            f"the row's specification gives another {name} than was recorded",
            expected=recorded,
            received=rebuilt,
        )


def replay_measurement(
    row: SampleRow, model: EvalModel, spec: EvalSpec, backend: BackendConfig, reference: Path | None
) -> ReplayedSample:
    """The window, prompt or document of a row alone; of the reference too, if it leaves something behind."""
    with usable_specification():
        measurement = find_measurement(row, spec.measurements)
    rows: list[SampleColumns] = []
    recorded = row["reference_digest"] or ""
    with TemporaryDirectory() as folder:
        work = Path(folder)
        first = () if measurement.ready(work, recorded) else reference_models(row, reference)
        for measured in (*first, model):
            rows = measure_alone(measured, measurement, backend, work, recorded)
    now = matching_columns(row, rows)
    check_same("prompt", row["prompt_digest"], now["prompt_digest"])
    if now["status"] != "ok":
        raise InputError("the model could not be measured", path=model.path, received=now["reason"])
    return replayed_sample(row, measurement.text(model.tokenizer), now)


def matching_columns(row: SampleRow, rows: Sequence[SampleColumns]) -> SampleColumns:
    """The columns of the same position and scoring, of those that one measurement gives."""
    where = ("position", "scoring")
    for columns in rows:
        if all(columns.get(name) == row[name] for name in where):
            return columns
    raise InputError(f"nothing that is measured has the row's {' and '.join(where)}")


def find_measurement(row: SampleRow, measurements: Sequence[Measurement]) -> Measurement:
    """The measurement of the row alone, from the first text or task that is the row's; else InputError."""
    name = f"{row['suite']} {row['task']}"
    failure = InputError("the text or task that the row was measured on was not given", received=name)
    for measurement in measurements:
        if measurement.suite != row["suite"]:
            continue
        try:
            return measurement.narrowed(row)
        except InputError as error:
            failure = error
    raise failure


def reference_models(row: SampleRow, reference: Path | None) -> Iterator[EvalModel]:
    """The model from which a row's divergence was measured, if it is another one."""
    digest = row["reference_digest"]
    if digest in (None, row["model_digest"]):
        return
    if reference is None:
        raise InputError(
            "the row is measured from another model's predictions",
            expected=f"the model of digest {digest}",
            remedy="pass that reference model as a second MODEL",
        )
    yield open_checked("reference", reference, "the row's reference", digest)


def measure_alone(
    model: EvalModel, measurement: Measurement, backend: BackendConfig, work: Path, reference: str
) -> list[SampleColumns]:
    """The rows of one model, which is freed at the end."""
    limits = PromptLimits(longest=measurement.longest(model.tokenizer), largest_id=0)
    if backend.in_process:
        measurement.prepare(work, backend)
    loaded = make_backend(model, backend, limits)
    if loaded.model is None:
        raise InputError("a measurement needs the weights in this process", remedy="pass --backend hf")
    return measurement.rows(
        LoadedModel(
            model=loaded.model,
            tokenizer=model.tokenizer,
            path=model.path,
            batch_size=backend.batch_size,
            work=work,
            identity=model.digest,
            reference=reference,
            reference_digest=reference,
            prefill_chunk=backend.prefill_chunk,
        )
    )
