"""One evaluation: many models, one exam, some measures, one table; resumable answer by answer."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from contextgraft.checkpoint.atomic import work_directory
from contextgraft.checkpoint.digest import json_digest
from contextgraft.errors import ContextgraftError, InputError
from contextgraft.evaluation.backends.loading import keep_freed_memory
from contextgraft.evaluation.backends.registry import Engine, check_engine
from contextgraft.evaluation.build_questions import questions_of
from contextgraft.evaluation.model_run import (
    Interview,
    Prepared,
    Watcher,
    conduct,
    identity,
    keys_of,
    prepare,
)
from contextgraft.evaluation.models import Absent, Candidate, absence, admit, check_labels
from contextgraft.evaluation.sample_rows import absent_row
from contextgraft.evaluation.suites.base import Measure
from contextgraft.evaluation.suites.spec import Exam
from contextgraft.formats import samples
from contextgraft.formats.refusal import is_final


def evaluate_models(
    models: Sequence[tuple[str | None, Path]],
    exam: Exam,
    engine: Engine,
    out: Path,
    watcher: Watcher,
    *,
    measures: Sequence[Measure] = (),
    reference: str | None = None,
    allow_refused: bool = False,
) -> pa.Table:
    """Ask and measure every model, write the table to `out` and return it.

    `reference` is the label of the model divergence is measured from, the first one if it is None.
    Answers wait in `.<out name>.partial/` until the table is whole: a run that finds them, or the whole table
    of the same models, questions and settings, asks nothing twice. A table with failed rows is written too;
    its answers stay, and the next run asks what failed. Folders, labels and formats that cannot be used raise
    errors of the package's tree before any model is asked; with `allow_refused`, a model that cannot be used
    gets one row that says so instead.
    """
    check_engine(engine, len(models))
    samples.check_replaceable(out)
    candidates, absent = admit(models, allow_refused=allow_refused)
    prepared: dict[str, Prepared] = {}
    if allow_refused:
        candidates, more = suited(candidates, exam, measures, prepared)
        absent += more
    check_labels(candidates)
    if not candidates:
        table = pa.concat_tables(map(absent_row, absent))
        samples.write(table, out, json_digest([asdict(each) for each in absent]))
        return table
    first = find_reference(candidates, reference)
    origin = identity(candidates[first], engine)
    identities = [identity(each, engine) for each in candidates]
    keys = [
        keys_of(each, exam, measures, who=who, reference=origin)
        for each, who in zip(candidates, identities, strict=True)
    ]
    run = json_digest([*keys, *(asdict(each) for each in absent)])
    finished = samples.read_if(out, run)
    if finished is not None:
        for each in candidates:
            watcher.kept(each.label)
        return finished
    for each in candidates:
        prepare_for(each, exam, measures, prepared)
    keep_freed_memory()
    interviews = [
        Interview(
            each,
            prepared[each.tokens_digest],
            tuple(measures),
            engine,
            origin,
            candidates[first].digest,
            who,
            *key,
        )
        for each, who, key in zip(candidates, identities, keys, strict=True)
    ]
    with work_directory(out) as work:
        answered = conduct_all(interviews, first, work, watcher, allow_refused=allow_refused)
        table = pa.concat_tables([*answered, *map(absent_row, absent)])
        whole = samples.complete(table)
        samples.write(table, work / "whole", run if whole else "")
        (work / "whole").replace(out)
        if whole:
            remove(work.iterdir())
    return table


def suited(
    candidates: Sequence[Candidate], exam: Exam, measures: Sequence[Measure], prepared: dict[str, Prepared]
) -> tuple[list[Candidate], list[Absent]]:
    """The candidates whose tokenizer can hold the exam, and the others."""
    fit: list[Candidate] = []
    absent: list[Absent] = []
    for each in candidates:
        try:
            prepare_for(each, exam, measures, prepared)
        except ContextgraftError as error:
            if not is_final(error):
                raise
            absent.append(absence(each.label, error))
        else:
            fit.append(each)
    return fit, absent


def prepare_for(
    each: Candidate, exam: Exam, measures: Sequence[Measure], prepared: dict[str, Prepared]
) -> None:
    """The exam once for each different tokenizer, by its digest; the measures checked against it."""
    if each.tokens_digest not in prepared:
        for measure in measures:
            measure.check(each.tokens)
        prepared[each.tokens_digest] = prepare(questions_of(exam, each.tokens))


def find_reference(candidates: Sequence[Candidate], label: str | None) -> int:
    """The place of the model with that label, of the first one for None; InputError if there is none."""
    labels = [each.label for each in candidates]
    if label is not None and label not in labels:
        raise InputError("no model is labelled as the reference", expected=", ".join(labels), received=label)
    return 0 if label is None else labels.index(label)


def conduct_all(
    interviews: Sequence[Interview], first: int, work: Path, watcher: Watcher, *, allow_refused: bool
) -> list[pa.Table]:
    """The rows of every model, in their order; the reference is interviewed before the others.

    It is measured again where others need what an earlier run no longer has. With `allow_refused`, one that
    cannot be loaded gets the row that says so; where it is the reference, so do all.
    """
    reference = interviews[first]
    wanted = [table is None for each in interviews for table in each.measured(work)]
    count = len(reference.measures)
    again = [
        measure
        for place, measure in enumerate(reference.measures)
        if any(wanted[place::count]) and not measure.ready(work, reference.reference)
    ]
    try:
        tables = {first: conduct(reference, work, watcher, again)}
    except ContextgraftError as error:
        return [refuse(each, error, allow_refused=allow_refused) for each in interviews]
    for place, interview in enumerate(interviews):
        if place == first:
            continue
        try:
            tables[place] = conduct(interview, work, watcher)
        except ContextgraftError as error:
            tables[place] = refuse(interview, error, allow_refused=allow_refused)
    return [tables[place] for place in range(len(interviews))]


def refuse(interview: Interview, error: ContextgraftError, *, allow_refused: bool) -> pa.Table:
    """The one row of a model that cannot be asked, if that is allowed; else its error again."""
    if not allow_refused or not is_final(error):
        raise error
    return absent_row(absence(interview.candidate.label, error))


def remove(files: Iterable[Path]) -> None:
    """Delete what is no longer needed."""
    for file in files:
        file.unlink()
