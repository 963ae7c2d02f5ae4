"""One evaluation: many models, one specification, one table; resumable response by response."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from contextgraft.checkpoint.atomic import work_directory
from contextgraft.checkpoint.digest import json_digest
from contextgraft.errors import ContextgraftError, InputError, OutputError
from contextgraft.evaluation.backends.loading import keep_freed_memory
from contextgraft.evaluation.backends.registry import BackendConfig, check_backend
from contextgraft.evaluation.model_run import ModelRun, ProgressReporter, run_model
from contextgraft.evaluation.models import (
    EvalModel,
    ModelPaths,
    ModelVariant,
    SkippedModel,
    check_labels,
    open_models_and_variants,
    skipped_model,
)
from contextgraft.evaluation.questions import Question
from contextgraft.evaluation.sample_rows import skipped_table
from contextgraft.evaluation.spec import EvalSpec
from contextgraft.formats import samples
from contextgraft.formats.refusal import is_final
from contextgraft.rope.model_class import quiet_transformers

# a context in which a table is put in place; called with the table and the file that holds it until then
Publishing = Callable[[pa.Table, Path], AbstractContextManager[object]]
Questions = Mapping[str, Sequence[Question]]  # by the digest of the tokenizer that they are encoded with


@quiet_transformers()
def evaluate_models(
    models: ModelPaths,
    spec: EvalSpec,
    backend: BackendConfig,
    out: Path,
    progress: ProgressReporter,
    *,
    reference: str | None = None,
    allow_refused: bool = False,
    variants: Sequence[ModelVariant] = (),
    publishing: Publishing | None = None,
) -> pa.Table:
    """Evaluate every model, write the table to `out` and return it.

    `variants` are those of the first model, whose rows theirs follow; one that does not fit it gets one row
    that says why, and the others are evaluated. `reference` is the label of the model from which divergence
    is measured; None means the first one.
    Responses are kept in `.<out name>.partial/` until the table is complete: a run that finds them there, or
    the complete table of the same models, questions and settings, computes nothing twice; a table with the
    columns of an older version gets those of today. A table with failed
    rows is written too; its responses stay, and the next run repeats what failed. `publishing` writes what
    else is made from the table, while no other run can write `out`; the responses stay if it fails, too.
    Folders, labels and formats that cannot be used raise errors of the package's tree before any model is
    loaded; with `allow_refused`, a model that cannot be used gets one row that says why.
    """
    check_backend(backend, len(models) + len(variants), len(variants))
    samples.check_replaceable(out)
    opened, skipped = open_models_and_variants(models, variants, allow_refused=allow_refused)
    questions: dict[str, Sequence[Question]] = {}
    if allow_refused:
        opened, unsuited = split_by_tokenizer(opened, spec, questions)
        skipped += unsuited
    check_labels(opened)
    if not opened:
        table = pa.concat_tables(map(skipped_table, skipped))
        with work_directory(out) as work:
            put_in_place(table, json_digest([asdict(model) for model in skipped]), out, work, publishing)
        return table
    first = find_reference(opened, reference)
    if not out.exists():  # what the tokenizers cannot hold is told before the weights are read
        for model in opened:
            prepare_questions(model, spec, questions)
    runs = [ModelRun(model, spec, backend, reference=opened[first]) for model in opened]
    key = json_digest([*(run.keys for run in runs), *(asdict(model) for model in skipped)])
    with nullcontext() if publishing is None else work_directory(out):
        finished = samples.read_if(out, key)
        if finished is not None:
            for model in opened:
                progress.kept(model.label)
            if not samples.has_columns_of_today(out):
                samples.write(finished, out, key)
            with nullcontext() if publishing is None else publishing(finished, out):
                pass
    if finished is not None:
        remove_responses(out, {key for run in runs for key in (run.questions_key, *run.measurement_keys)})
        return finished
    for model in opened:
        prepare_questions(model, spec, questions)
    keep_freed_memory()
    with work_directory(out) as work:
        computed = run_all(runs, questions, first, work, progress, allow_refused=allow_refused)
        table = samples.with_roles(pa.concat_tables([*computed, *map(skipped_table, skipped)]))
        complete = samples.complete(table)
        put_in_place(table, key if complete else "", out, work, publishing)
        if complete:
            for file in work.iterdir():
                file.unlink()
    return table


def remove_responses(out: Path, keys: Collection[str]) -> None:
    """Remove what a run of these keys left that failed, or was killed, when its table was complete.

    Nothing is removed while another run is at work, or of other questions that is not finished.
    """
    with suppress(OutputError), work_directory(out) as work:
        files = list(work.iterdir())
        if all(file.stem in keys for file in files if file.suffix in (".jsonl", ".parquet")):
            for file in files:
                file.unlink()


def put_in_place(table: pa.Table, key: str, out: Path, work: Path, publishing: Publishing | None) -> None:
    """Write the table in the work directory, and rename it onto `out`."""
    whole = work / "whole"
    samples.write(table, whole, key)
    with nullcontext() if publishing is None else publishing(table, whole):
        whole.replace(out)


def split_by_tokenizer(
    models: Sequence[EvalModel], spec: EvalSpec, questions: dict[str, Sequence[Question]]
) -> tuple[list[EvalModel], list[SkippedModel]]:
    """The models whose tokenizer can hold the prompts, and the others."""
    suited: list[EvalModel] = []
    skipped: list[SkippedModel] = []
    for model in models:
        try:
            prepare_questions(model, spec, questions)
        except ContextgraftError as error:
            if not is_final(error):
                raise
            skipped.append(skipped_model(model.label, error))
        else:
            suited.append(model)
    return suited, skipped


def prepare_questions(model: EvalModel, spec: EvalSpec, questions: dict[str, Sequence[Question]]) -> None:
    """Encode the questions once per different tokenizer, and check the measurements against it."""
    if model.tokenizer_digest not in questions:
        for measurement in spec.measurements:
            measurement.check(model.tokenizer)
        questions[model.tokenizer_digest] = spec.questions(model.tokenizer)


def find_reference(models: Sequence[EvalModel], label: str | None) -> int:
    """The index of the model with that label, 0 for None; InputError if no model has it."""
    labels = [model.label for model in models]
    if label is not None and label not in labels:
        raise InputError("no model has the label of --reference", expected=", ".join(labels), received=label)
    return 0 if label is None else labels.index(label)


def run_all(
    runs: Sequence[ModelRun],
    questions: Questions,
    first: int,
    work: Path,
    progress: ProgressReporter,
    *,
    allow_refused: bool,
) -> list[pa.Table]:
    """The rows of every model, in their order; the reference is evaluated before the others.

    It is measured again if others need what an earlier run no longer has. What measurements need is prepared
    before any model is loaded. With `allow_refused`, a model that
    cannot be loaded gets the row that says so; if it is the reference, all models do.
    """
    reference = runs[first]
    measured = [run.kept_measurements(work) for run in runs]
    repeat = [
        measurement
        for index, measurement in enumerate(reference.spec.measurements)
        if any(tables[index] is None for tables in measured)
        and not measurement.ready(work, reference.reference_identity)
    ]

    if reference.backend.in_process:
        for index, measurement in enumerate(reference.spec.measurements):
            if any(tables[index] is None for tables in measured):
                measurement.prepare(work, reference.backend)

    def table_of(run: ModelRun) -> pa.Table:
        return run_model(
            run, questions[run.model.tokenizer_digest], work, progress, repeat if run is reference else ()
        )

    try:
        tables = {first: table_of(reference)}
    except ContextgraftError as error:
        return [refuse(run, error, allow_refused=allow_refused) for run in runs]
    for index, run in enumerate(runs):
        if index == first:
            continue
        try:
            tables[index] = table_of(run)
        except ContextgraftError as error:
            tables[index] = refuse(run, error, allow_refused=allow_refused)
    return [tables[index] for index in range(len(runs))]


def refuse(run: ModelRun, error: ContextgraftError, *, allow_refused: bool) -> pa.Table:
    """The one row of a model that cannot be evaluated, if that is allowed; else its error is raised again."""
    if not allow_refused or not is_final(error):
        raise error
    return skipped_table(skipped_model(run.model.label, error))
