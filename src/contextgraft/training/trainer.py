"""One training run: stages in turn, with checkpoints, resumed after an interruption, published as a whole."""

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from contextgraft.checkpoint.atomic import RESUME_LOG, detach_log
from contextgraft.checkpoint.input_files import InputFiles, check_unchanged, unchanged
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.checkpoint.replaceable import check_apart
from contextgraft.config.resolved_study import referenced_files
from contextgraft.config.training import load_recipe
from contextgraft.errors import InputError
from contextgraft.formats.model.loadable import check_loadable
from contextgraft.formats.model.own_files import check_own_files
from contextgraft.formats.model.sharded_weights import MAX_SHARD_SIZE
from contextgraft.rope import settings
from contextgraft.rope.model_class import quiet_transformers
from contextgraft.training.data.batches import BatchSampler, TokenBatch
from contextgraft.training.data.context import load_context, memoised
from contextgraft.training.data.hub import FETCHED, DatasetProvider, dataset_records
from contextgraft.training.data.packing import PACKED, document_sources, pack
from contextgraft.training.data.prefetching import prefetched
from contextgraft.training.engine import SingleProcessEngine, StepResult, TrainingEngine, memory_errors
from contextgraft.training.fits import check_fits, check_ropes
from contextgraft.training.model import check_mlp_tiles, head_dim
from contextgraft.training.reporting.metrics import StepMetrics, read_metrics, read_previous, write_metrics
from contextgraft.training.reporting.progress import SilentReporter, StepProgress, TrainingReporter
from contextgraft.training.reporting.trackers.base import TrackedRun
from contextgraft.training.reporting.trackers.open import Trackers, check_installed, open_trackers
from contextgraft.training.reporting.utilisation import ModelFlops
from contextgraft.training.result.export import write_folder
from contextgraft.training.run_identity import check_resumable
from contextgraft.training.schedule import TrainingStep, learning_rate, stage_ropes, training_steps
from contextgraft.training.state import (
    CHECKPOINTS,
    IDENTITY_FILE,
    STATE_FILE,
    TRACKERS_FILE,
    CheckpointTimer,
    SavedState,
    TrainState,
)


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a run outside its recipe.

    `checkpoint_seconds` are the seconds between checkpoints; without them they follow how long one takes
    (`state.CheckpointTimer`), by `clock`.
    `seed` replaces the recipe's. `measures` is a Parquet file for metrics that depend on the clock, one row
    per step (`training.reporting.metrics`). `trackers` show the same rows (`training.reporting.trackers`): a
    folder for `tensorboard`, a project for `wandb`, an experiment for `mlflow`.
    `flops` is what MFU is computed from; without it there is none. A result whose weights have more than
    `max_shard_size` bytes is several files. An existing output raises OutputError unless `replace`.
    """

    seed: int | None = None
    checkpoint_seconds: float | None = None
    measures: Path | None = None
    trackers: Mapping[str, str] = field(default_factory=dict)
    flops: ModelFlops | None = None
    max_shard_size: float = MAX_SHARD_SIZE
    replace: bool = False
    clock: Callable[[], float] = time.monotonic


class Trainer:
    """A run in a work directory: call `setup`, `resume`, `run` and `finish` in this order."""

    def __init__(
        self,
        config: Path,
        base: Path,
        options: TrainingOptions,
        *,
        engine: TrainingEngine,
        reporter: TrainingReporter,
    ) -> None:
        check_installed(options.trackers)
        recipe = load_recipe(config)
        self.config, self.options, self.engine, self.reporter = config, options, engine, reporter
        self.recipe = recipe if options.seed is None else recipe.model_copy(update={"seed": options.seed})
        self.base = open_model(base)
        check_loadable(self.base)
        check_own_files(base)
        self.rope = settings.read(self.base.config, self.base.path)
        check_fits(self.recipe, self.base, self.rope)
        self.ropes = stage_ropes(self.recipe, self.rope, head_dim(self.base.config))
        check_ropes(self.base, self.ropes)
        self.longest = max(self.rope.max_positions, *(stage.context for stage in recipe.stages))
        self.inputs = self.base.inputs, InputFiles(referenced_files(config))
        self.steps = training_steps(self.recipe)

    def setup(self, work: Path, datasets: DatasetProvider | None) -> None:
        """Check that `work` belongs to this run, pack documents, prepare batches.

        What the recipe demands of the architecture is checked before anything is packed.
        """
        recipe, engine, folder = self.recipe, self.engine, self.config.parent
        self.work = work
        engine.run_on_main(
            lambda: check_resumable(
                work, recipe, self.base, self.config, dtype=self._dtype(), reporter=self.reporter
            )
        )
        for rope in {rope.rope_type: rope for rope in self.ropes}.values():
            engine.check(recipe, self.base, rope)
        engine.run_on_main(lambda: check_mlp_tiles(recipe, self.base, self.rope))
        context = load_context(self.base, folder)
        engine.run_on_main(lambda: pack(recipe, context, work, datasets=datasets, reporter=self.reporter))
        context = replace(context, encode=memoised(context.encode), work=work, seed=recipe.seed)
        self.batches = BatchSampler(recipe, context, recipe.seed, self.steps)

    def resume(self) -> None:
        """Load the last saved state and the metrics of its steps; a new run has none."""
        measures, main = self.options.measures, self.engine.main
        self.saved = self.engine.load(self.work)
        metrics = read_metrics(self.work, self.saved.step)
        if metrics is None:
            self.reporter.message("starting again: the metrics of the steps that are done cannot be read")
            self.saved, metrics = SavedState(), []
        self.metrics, done = metrics, self.saved.step
        if done:
            self.reporter.message(f"resuming after step {done} of {len(self.steps)}")
        previous_rows = self.engine.run_on_main(lambda: read_previous(measures, done))
        self.step_metrics = StepMetrics(measures if main else None, previous_rows, self.options.flops)
        self.trackers = Trackers({}, self.reporter)
        self.engine.run_on_main(lambda: self._open_trackers(done))
        self.progress = StepProgress(self.steps, done, self.reporter)

    def _open_trackers(self, done: int) -> None:
        run = TrackedRun(self.recipe.name, self.recipe.model_dump(mode="json"), done)
        self.trackers = open_trackers(self.options.trackers, run, self.work, self.reporter)

    def run(self) -> None:
        """Train all stages that are not finished; if the reporter asks to stop, raise KeyboardInterrupt."""
        first = self.steps[min(self.saved.step, len(self.steps) - 1)].stage
        steps = self.steps[self.saved.step :]
        self.timer = CheckpointTimer(self.options.checkpoint_seconds, self.options.clock)
        with self.trackers, closing(prefetched(self.batches.batch, steps)) as batches:
            for stage in range(first, len(self.recipe.stages)):
                self._run_stage(stage, self._build_stage(stage, summarise=stage == first), batches)
                free_memory()

    def finish(self) -> None:
        """Write the result; what only the run needs is kept until the result is in its place."""
        self.engine.run_with_weights(self.saved, self._write_result)

    def _build_stage(self, stage: int, *, summarise: bool) -> TrainState:
        """The model with the stage's theta and the saved weights."""
        stages, rope = self.recipe.stages, self.ropes[stage]
        scaled = stages[stage].rope and f", {rope.rope_type} with factor {rope.extra['factor']:g}"
        self.reporter.message(
            f"stage {stage + 1}/{len(stages)}: length {stages[stage].length}, "
            f"theta {rope.theta:,.0f}{scaled or ''}"
        )
        state = self.engine.build(self.recipe, self.base, rope)
        self.engine.run_on_main(lambda: check_unchanged(*self.inputs))
        state.restore(self.saved)
        if summarise:
            steps = self.steps[self.saved.step :]
            tokens = sum(step.tokens for step in steps)
            self.reporter.message(f"{state.description}: {len(steps)} steps, {tokens:,} tokens")
        self.saved = state.capture(self.saved.step)  # frees the weights of the previous stage
        return state

    def _run_stage(self, stage: int, state: TrainState, batches: Iterator[TokenBatch]) -> None:
        """Train the remaining steps of one stage."""
        done = self.saved.step
        self.step_metrics.begin_stage()
        for step in self.steps[done:]:
            if step.stage != stage:
                break
            self._train_step(step, state, next(batches))
            done, last = step.number + 1, step.number + 1 == len(self.steps)
            stop = self.reporter.stop_requested()
            save, stop = self.engine.sync_flags(save=self.timer.due(), stop=stop)
            if save or stop or last:
                self._write_metrics()
                with self.timer.saving() as written:
                    self.engine.save(state.capture(done), self.work, wait=stop or last, written=written)
            if stop and not last:
                self.reporter.message(f"saved after step {done} of {len(self.steps)}")
                raise KeyboardInterrupt
        self.saved = state.capture(done)

    def _train_step(self, step: TrainingStep, state: TrainState, batch: TokenBatch) -> None:
        """One optimiser step, with its metrics."""
        rate = learning_rate(self.recipe, step, len(self.steps))
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        result = self.engine.backward(state, batch, self.recipe)
        gradient_norm = self.engine.clip(state, self.recipe.optimiser.clip)
        if not math.isfinite(result.loss) or not math.isfinite(gradient_norm):
            self._write_metrics()  # of the steps that led here
            raise InputError(
                "training diverged",
                received=f"loss {result.loss}, gradient norm {gradient_norm} at step {step.number + 1}",
                remedy="use a lower learning rate",
            )
        state.optimiser.step()
        self._record(step, rate, gradient_norm, result)

    def _record(self, step: TrainingStep, rate: float, gradient_norm: float, result: StepResult) -> None:
        metrics = {
            "step": step.number + 1,
            "stage": step.stage + 1,
            "length": step.length,
            "theta": self.ropes[step.stage].theta,
            "learning_rate": rate,
            "loss": result.loss,
            "accuracy": result.correct / result.answers if result.answers else None,
        }
        self.metrics.append(metrics)
        row = self.step_metrics.row(metrics, step, gradient_norm, result)
        self.progress.update(step, row)
        self.trackers.write(row)

    def _write_metrics(self) -> None:
        if self.engine.main:
            write_metrics(self.work, self.metrics)
            self.step_metrics.write()
        self.trackers.flush()

    def _write_result(self, trained: Mapping[str, torch.Tensor]) -> None:
        recipe, work = self.recipe, self.work
        write_folder(
            work,
            base=self.base,
            trained=trained,
            rope=replace(self.ropes[-1], max_positions=recipe.max_positions or self.longest),
            recipe=recipe,
            dtype=self._dtype(),
            datasets=dataset_records(document_sources(recipe), work),
            max_shard_size=self.options.max_shard_size,
        )
        write_metrics(work, self.metrics)
        resume_log = work / RESUME_LOG
        resume_log.mkdir(exist_ok=True)
        for name in (IDENTITY_FILE, STATE_FILE, TRACKERS_FILE, CHECKPOINTS, PACKED, FETCHED):
            if (work / name).exists():
                (work / name).rename(resume_log / name)
        detach_log(work)

    def _dtype(self) -> str:
        return str(self.engine.dtype).removeprefix("torch.")


@quiet_transformers()
def train(
    config: Path,
    base: Path,
    out: Path,
    options: TrainingOptions | None = None,
    *,
    engine: TrainingEngine | None = None,
    reporter: TrainingReporter | None = None,
    datasets: DatasetProvider | None = None,
) -> dict[str, Any]:
    """Train by a recipe and publish the model at `out`; returns the metrics of the last step.

    The same call after an interruption resumes at the last saved state and ends with the bytes of an
    uninterrupted run (with the same number of threads). A partial output of another run that has done any
    step raises OutputError, a base, recipe or data file that changes meanwhile InputChanged. When the
    reporter asks to stop, the state is saved and KeyboardInterrupt raised.
    Without an engine, everything runs in this process. `datasets` provides the data sets of the hub.
    """
    engine, options = engine or SingleProcessEngine(), options or TrainingOptions()
    check_apart(out, [base, config])
    trainer = Trainer(config, base, options, engine=engine, reporter=reporter or SilentReporter())
    with (
        memory_errors(trainer.recipe, engine),
        engine.publish(out, replace=options.replace) as work,
        unchanged(*trainer.inputs),
    ):
        trainer.setup(work, datasets)
        trainer.resume()
        trainer.run()
        trainer.finish()
    return trainer.metrics[-1]


def free_memory() -> None:
    """Free the model of a stage that has ended: the hooks of FSDP refer to each other, and to the model."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
