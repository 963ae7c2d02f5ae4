"""One model of a run: what an earlier run left of it, and what is still to be computed."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from contextgraft.checkpoint.digest import json_digest
from contextgraft.checkpoint.input_files import unchanged
from contextgraft.errors import InputChanged
from contextgraft.evaluation.backends.base import Backend, lifetime
from contextgraft.evaluation.backends.loading import load_config, max_positions
from contextgraft.evaluation.backends.registry import BackendConfig, PromptLimits, backend_key, make_backend
from contextgraft.evaluation.models import EvalModel, deciding_content
from contextgraft.evaluation.questions import Question
from contextgraft.evaluation.response_cache import ResponseCache, read_responses, request_key
from contextgraft.evaluation.responses import respond
from contextgraft.evaluation.sample_rows import sample_row
from contextgraft.evaluation.spec import EvalSpec
from contextgraft.evaluation.suites.base import LoadedModel, Measurement, SampleColumns
from contextgraft.formats import samples

NEEDS_LOCAL_WEIGHTS = "needs the weights in this process: --backend hf"


class ProgressReporter(Protocol):
    """Is called while a run proceeds."""

    def model(self, label: str, units: Mapping[str, int], known: int) -> None:
        """A model begins, with this many units per suite; `known` responses are in the cache."""

    def advance(self, count: int) -> None:
        """`count` more units are done."""

    def prefilled(self, prompt: int, computed: int) -> None:
        """Of `prompt` prompt tokens `computed` were computed, the others reused."""

    def kept(self, label: str) -> None:
        """A model's samples were complete already."""


def model_identity(model: EvalModel, backend: BackendConfig) -> str:
    """Digest of all that decides a model's predictions: its files, how it is run, and by which versions."""
    return json_digest(
        {**deciding_content(model), "engine": backend_key(backend), "versions": samples.versions()}
    )


@dataclass(frozen=True)
class ModelRun:
    """One model's share of a run.

    `reference` is the model from which divergence is measured, in most runs the first.
    """

    model: EvalModel
    spec: EvalSpec
    backend: BackendConfig
    reference: EvalModel

    @cached_property
    def identity(self) -> str:
        """Digest of all that decides the model's predictions."""
        return model_identity(self.model, self.backend)

    @cached_property
    def reference_identity(self) -> str:
        """Digest of all that decides the predictions of the reference model."""
        return model_identity(self.reference, self.backend)

    @cached_property
    def questions_key(self) -> str:
        """Digest of all that decides the rows of the questions."""
        return json_digest({**self._common, "exam": self.spec.questions_digest()})

    @cached_property
    def measurement_keys(self) -> tuple[str, ...]:
        """Digest of all that decides the rows of each measurement."""
        return tuple(
            json_digest({**self._common, "measure": measurement.key(), "reference": self.reference_identity})
            for measurement in self.spec.measurements
        )

    @property
    def keys(self) -> tuple[str, tuple[str, ...]]:
        """Digests by which a later run recognises finished rows: of questions, of each measurement."""
        return self.questions_key, self.measurement_keys

    @property
    def _common(self) -> dict[str, object]:
        # under the older names of the columns: tables that were written with these carry the same digest
        graft = {samples.OLDER_NAMES.get(name, name): value for name, value in self.model.graft.items()}
        return {"identity": self.identity, "label": self.model.label, "graft": graft}

    def kept_responses(self, work: Path) -> pa.Table | None:
        """The rows of its questions, if an earlier run completed them."""
        return samples.read_if(work / f"{self.questions_key}.parquet", self.questions_key)

    def kept_measurements(self, work: Path) -> list[pa.Table | None]:
        """The rows of each measurement that an earlier run completed."""
        return [samples.read_if(work / f"{key}.parquet", key) for key in self.measurement_keys]

    def table(self, rows: Sequence[SampleColumns]) -> pa.Table:
        """Rows of this model with the columns that all of them share."""
        return samples.table(samples.common(self.model.label, self.model.digest, self.model.graft), rows)


def run_model(
    run: ModelRun,
    questions: Sequence[Question],
    work: Path,
    progress: ProgressReporter,
    repeat: Sequence[Measurement] = (),
) -> pa.Table:
    """A model's rows: those that an earlier run completed, the others computed now and kept in `work`.

    `repeat` are measurements to run in any case, because other models need what they leave behind. The model
    is loaded only if something is missing, and freed at the end. If its files are not those of its digest
    when it has been loaded, or at the end, what was computed is removed and InputChanged raised.
    """
    try:
        with unchanged(run.model.inputs):
            return _run_model(run, questions, work, progress, repeat)
    except InputChanged:
        for key in (run.questions_key, *run.measurement_keys):
            (work / f"{key}.jsonl").unlink(missing_ok=True)
            (work / f"{key}.parquet").unlink(missing_ok=True)
        raise


def _run_model(
    run: ModelRun,
    questions: Sequence[Question],
    work: Path,
    progress: ProgressReporter,
    repeat: Sequence[Measurement],
) -> pa.Table:
    responses = run.kept_responses(work)
    measured = run.kept_measurements(work)
    missing = [
        index
        for index, measurement in enumerate(run.spec.measurements)
        if measured[index] is None or measurement in repeat
    ]
    if responses is not None and not missing:
        progress.kept(run.model.label)
        return pa.concat_tables([responses, *(table for table in measured if table is not None)])
    unanswered = questions if responses is None else []
    cache_path = work / f"{run.questions_key}.jsonl"
    measurements = [run.spec.measurements[index] for index in missing]
    cached = read_responses(cache_path)
    known = sum(request_key(question.request) in cached for question in unanswered)
    progress.model(run.model.label, units(unanswered, measurements), known)
    backend = make_backend(run.model, run.backend, limits(run.model, unanswered, measurements))
    run.model.inputs.check_unchanged()
    if responses is None:
        responses = run.table(respond_to(run, questions, backend, cache_path, progress))
        keep(responses, work, run.questions_key)
    for index in missing:
        rows = measure(run, run.spec.measurements[index], backend, work, progress.advance)
        table = run.table(rows)
        keep(table, work, run.measurement_keys[index])
        measured[index] = table
    return pa.concat_tables([responses, *(table for table in measured if table is not None)])


def keep(table: pa.Table, work: Path, key: str) -> None:
    """Write rows to the work folder, unless something failed that might succeed the next time."""
    if samples.complete(table):
        samples.write(table, work / f"{key}.parquet", key)


def units(questions: Sequence[Question], measurements: Sequence[Measurement]) -> dict[str, int]:
    """How many questions, windows or prompts there are, by suite."""
    counts = Counter(question.suite for question in questions)
    for measurement in measurements:
        counts[measurement.suite] += len(measurement)
    return dict(counts)


def limits(
    model: EvalModel, questions: Sequence[Question], measurements: Sequence[Measurement]
) -> PromptLimits:
    """What a backend must be able to hold."""
    lengths = [len(question.ids) + question.budget for question in questions]
    lengths += [measurement.longest(model.tokenizer) for measurement in measurements]
    largest = max((max(question.ids) for question in questions), default=0)
    return PromptLimits(longest=max(lengths, default=1), largest_id=largest)


def respond_to(
    run: ModelRun,
    questions: Sequence[Question],
    backend: Backend,
    cache_path: Path,
    progress: ProgressReporter,
) -> list[SampleColumns]:
    """The rows of all questions; the backend runs those that the cache does not have."""
    positions = max_positions(load_config(run.model.path))
    with lifetime(backend), ResponseCache(cache_path, progress.advance) as cache:
        responses = respond(backend, cache, questions, positions)
    if backend.prefill is not None:
        progress.prefilled(backend.prefill.prompt, backend.prefill.computed)
    return list(map(sample_row, questions, responses))


def measure(
    run: ModelRun,
    measurement: Measurement,
    backend: Backend,
    work: Path,
    advance: Callable[[int], object],
) -> list[SampleColumns]:
    """The rows of one measurement; without scores if the model does not run in this process."""
    if backend.model is None:
        return measurement.unscored_rows(run.model.tokenizer, "skipped", NEEDS_LOCAL_WEIGHTS)
    loaded = LoadedModel(
        model=backend.model,
        tokenizer=run.model.tokenizer,
        path=run.model.path,
        batch_size=run.backend.batch_size,
        work=work,
        identity=run.identity,
        reference=run.reference_identity,
        reference_digest=run.reference.digest,
        prefill_chunk=run.backend.prefill_chunk,
    )
    return measurement.rows(loaded, advance)
