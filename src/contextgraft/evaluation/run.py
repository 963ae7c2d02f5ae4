"""One evaluation: many models, one exam, one table; resumable answer by answer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from contextgraft.checkpoint.digest import json_digest
from contextgraft.checkpoint.publish import workspace
from contextgraft.evaluation import results
from contextgraft.evaluation.answers import Recorder
from contextgraft.evaluation.candidates import Candidate, candidate, check_labels
from contextgraft.evaluation.engine import Engine, Needs, check_engine, engine_key, make_backend
from contextgraft.evaluation.harness import Sitting, ask, make_sittings, request_of
from contextgraft.evaluation.journal import Journal, read, request_key
from contextgraft.evaluation.models import keep_freed_memory, load_config, positions
from contextgraft.evaluation.questions import Question, needle_questions, skill_questions
from contextgraft.evaluation.suites import Exam, exam_digest
from contextgraft.evaluation.tokens import Tokens


class Watcher(Protocol):
    """Who wants to know how far a run is."""

    def model(self, label: str, questions: int, known: int) -> None:
        """A model is about to be asked that many questions; `known` were answered in an earlier run."""

    def asked(self, count: int) -> None:
        """So many more questions were asked."""

    def prefilled(self, prompt: int, computed: int) -> None:
        """Of so many prompt tokens asked, that many were computed, the others shared."""

    def kept(self, label: str) -> None:
        """A model's samples were there already."""


@dataclass(frozen=True)
class Prepared:
    """An exam in the ids of one tokenizer."""

    questions: list[Question]
    sittings: list[Sitting]


def evaluate_models(
    models: Sequence[tuple[str | None, Path]], exam: Exam, engine: Engine, out: Path, watcher: Watcher
) -> pa.Table:
    """Ask every model, write the table to `out` and return it.

    Answers wait in `.<out name>.partial/` until the table is whole: a run that finds them, or the whole table
    of the same models, questions and settings, asks nothing twice. A table with failed rows is written too;
    its answers stay, and the next run asks what failed. Folders, labels and formats that cannot be used raise
    errors of the package's tree before any model is asked.
    """
    check_engine(engine, len(models))
    results.check_replaceable(out)
    candidates = [candidate(label, path) for label, path in models]
    check_labels(candidates)
    keys = [part_key(each, exam, engine) for each in candidates]
    run = json_digest(keys)
    finished = results.read_if(out, run)
    if finished is not None:
        for each in candidates:
            watcher.kept(each.label)
        return finished
    prepared = prepare(candidates, exam)
    keep_freed_memory()
    with workspace(out) as work:
        parts = [
            part(each, prepared[each.tokens_digest], engine, watcher, work=work, key=key)
            for each, key in zip(candidates, keys, strict=True)
        ]
        table = pa.concat_tables(parts)
        whole = results.complete(table)
        results.write(table, work / "whole", run if whole else "")
        (work / "whole").replace(out)
        if whole:
            remove(work.iterdir())
    return table


def part_key(each: Candidate, exam: Exam, engine: Engine) -> str:
    """Digest of all that decides a model's rows."""
    return json_digest(
        {
            "label": each.label,
            "model": each.digest,
            "tokenizer": each.tokens_digest,
            "graft": dict(each.graft),
            "exam": exam_digest(exam),
            "engine": engine_key(engine),
            "versions": results.versions(),
        }
    )


def prepare(candidates: Iterable[Candidate], exam: Exam) -> dict[str, Prepared]:
    """The exam once for each different tokenizer, by its digest."""
    prepared: dict[str, Prepared] = {}
    for each in candidates:
        if each.tokens_digest not in prepared:
            questions = exam_questions(exam, each.tokens)
            prepared[each.tokens_digest] = Prepared(questions, make_sittings(questions))
    return prepared


def exam_questions(exam: Exam, tokens: Tokens) -> list[Question]:
    """All questions of an exam, needles first."""
    needles = needle_questions(exam.grid, tokens, exam.seed) if exam.grid else []
    return needles + [q for skill in exam.skills for q in skill_questions(skill, tokens, exam.seed)]


def part(
    each: Candidate, prepared: Prepared, engine: Engine, watcher: Watcher, *, work: Path, key: str
) -> pa.Table:
    """A model's rows: those of an earlier run if it finished them, else asked now and kept."""
    path = work / f"{key}.parquet"
    kept = results.read_if(path, key)
    if kept is not None:
        watcher.kept(each.label)
        return kept
    table = interview(each, prepared, engine, watcher, work / f"{key}.jsonl")
    if results.complete(table):
        results.write(table, path, key)
    return table


def interview(
    each: Candidate, prepared: Prepared, engine: Engine, watcher: Watcher, journal_path: Path
) -> pa.Table:
    """Load a model, ask it what the journal does not know, let it go."""
    questions = prepared.questions
    answered = read(journal_path)
    known = sum(request_key(request_of(question)) in answered for question in questions)
    watcher.model(each.label, len(questions), known)
    backend = make_backend(each, engine, needs(questions))
    with Journal(journal_path, watcher.asked) as journal:
        recorder = Recorder(backend, journal, positions(load_config(each.path)))
        replies = ask(recorder, questions, prepared.sittings)
    if backend.prefill is not None:
        watcher.prefilled(backend.prefill.prompt, backend.prefill.computed)
    return results.rows(each.label, each.digest, each.graft, questions, replies)


def needs(questions: Sequence[Question]) -> Needs:
    """What an engine must hold to ask the questions."""
    return Needs(
        longest=max(len(question.ids) + question.budget for question in questions),
        largest=max(max(question.ids) for question in questions),
    )


def remove(files: Iterable[Path]) -> None:
    """Delete what is no longer needed."""
    for file in files:
        file.unlink()
