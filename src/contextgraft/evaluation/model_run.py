"""One model of a run: what is kept of it from an earlier run, and what is still to be asked."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from contextgraft.checkpoint.digest import json_digest
from contextgraft.evaluation.backends.base import Backend, Recorder
from contextgraft.evaluation.backends.loading import load_config, positions
from contextgraft.evaluation.backends.registry import Engine, Needs, engine_key, make_backend
from contextgraft.evaluation.harness import Sitting, ask, make_sittings, request_of
from contextgraft.evaluation.models import Candidate
from contextgraft.evaluation.questions import Question
from contextgraft.evaluation.response_cache import Journal, read, request_key
from contextgraft.evaluation.sample_rows import row
from contextgraft.evaluation.suites.base import Measure, Row, Subject
from contextgraft.evaluation.suites.spec import Exam, exam_digest
from contextgraft.formats import samples

ELSEWHERE = "needs the weights in this process: --backend hf"


class Watcher(Protocol):
    """Who wants to know how far a run is."""

    def model(self, label: str, units: Mapping[str, int], known: int) -> None:
        """A model is about to be asked so many units of each suite; `known` were answered before."""

    def asked(self, count: int) -> None:
        """So many more units are done."""

    def prefilled(self, prompt: int, computed: int) -> None:
        """Of so many prompt tokens asked, that many were computed, the others shared."""

    def kept(self, label: str) -> None:
        """A model's samples were there already."""


@dataclass(frozen=True)
class Prepared:
    """An exam in the ids of one tokenizer."""

    questions: list[Question]
    sittings: list[Sitting]


def prepare(questions: list[Question]) -> Prepared:
    """Questions and their tasks."""
    return Prepared(questions, make_sittings(questions))


@dataclass(frozen=True)
class Interview:
    """A model's part of a run.

    `key` is the digest of all that decides its answers, `measure_keys` those of the rows of each measure.
    `identity` decides its predictions; `reference` is that of the model divergence is measured from, and
    `reference_digest` the digest of its weights.
    """

    candidate: Candidate
    prepared: Prepared
    measures: tuple[Measure, ...]
    engine: Engine
    reference: str
    reference_digest: str
    identity: str
    key: str
    measure_keys: tuple[str, ...]

    def answers(self, work: Path) -> pa.Table | None:
        """The rows of its questions, if an earlier run finished them."""
        return samples.read_if(work / f"{self.key}.parquet", self.key)

    def measured(self, work: Path) -> list[pa.Table | None]:
        """The rows of each measure that an earlier run finished."""
        return [samples.read_if(work / f"{key}.parquet", key) for key in self.measure_keys]

    def keep(self, table: pa.Table, work: Path, key: str) -> None:
        """Keep rows until the run is whole, unless something failed that might succeed another time."""
        if samples.complete(table):
            samples.write(table, work / f"{key}.parquet", key)


def identity(each: Candidate, engine: Engine) -> str:
    """Digest of all that decides a model's predictions."""
    return json_digest(
        {
            "model": each.digest,
            "tokenizer": each.tokens_digest,
            "engine": engine_key(engine),
            "versions": samples.versions(),
        }
    )


def keys_of(
    each: Candidate, exam: Exam, measures: Sequence[Measure], *, who: str, reference: str
) -> tuple[str, tuple[str, ...]]:
    """Digests of all that decides a model's rows: those of its questions, and those of each measure."""
    common = {"identity": who, "label": each.label, "graft": dict(each.graft)}
    questions = json_digest({**common, "exam": exam_digest(exam)})
    measured = [
        json_digest({**common, "measure": measure.key(), "reference": reference}) for measure in measures
    ]
    return questions, tuple(measured)


def conduct(interview: Interview, work: Path, watcher: Watcher, again: Sequence[Measure] = ()) -> pa.Table:
    """A model's rows: those of an earlier run where it finished them, else asked and measured now and kept.

    `again` are measures the model is measured on in any case, because others need what that leaves behind.
    The model is loaded only if something is missing, and let go at the end.
    """
    each = interview.candidate
    answers = interview.answers(work)
    measured = interview.measured(work)
    missing = [
        place
        for place, measure in enumerate(interview.measures)
        if measured[place] is None or measure in again
    ]
    if answers is not None and not missing:
        watcher.kept(each.label)
        return pa.concat_tables([answers, *(table for table in measured if table is not None)])
    questions = interview.prepared.questions if answers is None else []
    journal = work / f"{interview.key}.jsonl"
    measures = [interview.measures[place] for place in missing]
    watcher.model(each.label, units(questions, measures), known(questions, journal))
    backend = make_backend(each, interview.engine, needs(each, questions, measures))
    if answers is None:
        answers = answer(interview, backend, journal, watcher)
        interview.keep(answers, work, interview.key)
    for place in missing:
        rows = measure_rows(interview, interview.measures[place], backend, work, watcher.asked)
        table = samples.table(samples.common(each.label, each.digest, each.graft), rows)
        interview.keep(table, work, interview.measure_keys[place])
        measured[place] = table
    return pa.concat_tables([answers, *(table for table in measured if table is not None)])


def units(questions: Sequence[Question], measures: Sequence[Measure]) -> dict[str, int]:
    """How much is asked, by suite."""
    counts = Counter(question.suite for question in questions)
    for measure in measures:
        counts[measure.suite] += measure.count()
    return dict(counts)


def known(questions: Sequence[Question], journal: Path) -> int:
    """How many of the questions a journal answers."""
    answered = read(journal)
    return sum(request_key(request_of(question)) in answered for question in questions)


def needs(each: Candidate, questions: Sequence[Question], measures: Sequence[Measure]) -> Needs:
    """What an engine must hold to ask and measure all this."""
    lengths = [len(question.ids) + question.budget for question in questions]
    lengths += [measure.longest(each.tokens) for measure in measures]
    largest = max((max(question.ids) for question in questions), default=0)
    return Needs(longest=max(lengths, default=1), largest=largest)


def answer(interview: Interview, backend: Backend, journal_path: Path, watcher: Watcher) -> pa.Table:
    """Ask what the journal does not know; the rows of all questions."""
    each, prepared = interview.candidate, interview.prepared
    with Journal(journal_path, watcher.asked) as journal:
        recorder = Recorder(backend, journal, positions(load_config(each.path)))
        replies = ask(recorder, prepared.questions, prepared.sittings)
    if backend.prefill is not None:
        watcher.prefilled(backend.prefill.prompt, backend.prefill.computed)
    rows = map(row, prepared.questions, replies)
    return samples.table(samples.common(each.label, each.digest, each.graft), rows)


def measure_rows(
    interview: Interview, measure: Measure, backend: Backend, work: Path, advance: Callable[[int], object]
) -> list[Row]:
    """The rows of one measure; without scores where the model does not run in this process."""
    each = interview.candidate
    if backend.model is None:
        return measure.unmeasured(each.tokens, "skipped", ELSEWHERE)
    subject = Subject(
        model=backend.model,
        tokens=each.tokens,
        path=each.path,
        batch_size=interview.engine.batch_size,
        work=work,
        identity=interview.identity,
        reference=interview.reference,
        reference_digest=interview.reference_digest,
    )
    return measure.rows(subject, advance)
