"""One training run: stages in turn, set aside now and then, taken up where it was left, published whole."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from contextgraft.checkpoint.atomic import RESUME_LOG, detach_log, publish_file
from contextgraft.checkpoint.model_folder import ModelFolder, open_model
from contextgraft.config.training import Recipe, load_recipe
from contextgraft.errors import InputError
from contextgraft.rope import settings
from contextgraft.rope.settings import RopeSettings
from contextgraft.training import run_identity
from contextgraft.training import state as states
from contextgraft.training.data import hub
from contextgraft.training.data.batches import Batches
from contextgraft.training.data.hub import Library, records
from contextgraft.training.data.packing import FOLDER, of_documents, pack
from contextgraft.training.data.sources import Context, memoised
from contextgraft.training.engine import Alone, Engine, Trainee, memory
from contextgraft.training.export import METRICS, write_folder
from contextgraft.training.metrics import Meter, earlier
from contextgraft.training.model import head_dim
from contextgraft.training.progress import Progress
from contextgraft.training.schedule import Step, learning_rate, steps, thetas
from contextgraft.training.tensorboard import Board, check_installed


@dataclass(frozen=True)
class Run:
    """What a run needs to know; everything in it is fixed from the start."""

    recipe: Recipe
    base: ModelFolder
    ropes: tuple[RopeSettings, ...]
    plan: tuple[Step, ...]
    batches: Batches
    work: Path
    checkpoint_seconds: float
    engine: Engine
    stop: Callable[[], bool]


@dataclass(frozen=True)
class Record:
    """What is kept and told of the steps: `metrics` are the model's, the meter's depend on the clock."""

    metrics: list[dict[str, Any]]
    meter: Meter
    progress: Progress
    board: Board | None

    def step(self, step: Step, row: Mapping[str, Any]) -> None:
        """Tell one step by its row of the meter."""
        self.progress.step(step, row)
        if self.board is not None:
            self.board.step(row)

    def write(self) -> None:
        """Make the rows so far readable."""
        self.meter.write()
        if self.board is not None:
            self.board.flush()


def train(
    config: Path,
    base_path: Path,
    out: Path,
    *,
    seed: int | None = None,
    replace: bool = False,
    checkpoint_seconds: float = 30.0,
    tell: Callable[[str], None] = lambda _: None,
    engine: Engine | None = None,
    stop: Callable[[], bool] = lambda: False,
    measures: Path | None = None,
    tensorboard: Path | None = None,
    library: Library | None = None,
) -> dict[str, Any]:
    """Train by a recipe and publish the model at `out`; the last step's metrics.

    The same command after an interruption goes on from the last checkpoint and ends with the bytes of an
    undisturbed run (same thread count). When `stop` says so the run is set aside and KeyboardInterrupt
    raised. A partial output of another order that has learnt something raises OutputError. Without an engine:
    in this process alone. `measures` is a Parquet file for what depends on the clock: a row a step
    (`training.meter`); `tensorboard` a folder for event files of the same. `library` is where data sets of
    the hub come from. An existing `out` raises OutputError unless `replace`.
    """
    if tensorboard is not None:
        check_installed()
    engine = engine or Alone()
    recipe = load_recipe(config)
    if seed is not None:
        recipe = recipe.model_copy(update={"seed": seed})
    base = open_model(base_path)
    with memory(), engine.publish(out, replace=replace) as work:
        engine.once(
            lambda: run_identity.begin(work, recipe, base, config, dtype=_name(engine.dtype), tell=tell)
        )
        context = _context(base, config.parent)
        engine.once(
            lambda: pack(
                recipe,
                config.parent,
                work,
                context.encode,
                context.prefix_ids,
                library=library,
                tell=tell,
                stop=stop,
            )
        )
        run = _prepare(recipe, base, context, work=work, engine=engine, stop=stop,
                       checkpoint_seconds=checkpoint_seconds)  # fmt: skip
        state = engine.load(work)
        metrics = _read_metrics(work, state.step)
        if state.step:
            tell(f"resuming after step {state.step} of {len(run.plan)}")
        before = engine.once(lambda: earlier(measures, state.step))
        meter = Meter(measures if engine.main else None, before)
        board = Board(tensorboard, state.step) if tensorboard is not None and engine.main else None
        record = Record(metrics, meter, Progress(run.plan, state.step, tell), board)
        first = run.plan[min(state.step, len(run.plan) - 1)].stage
        for stage in range(first, len(recipe.stages)):
            rope = run.ropes[stage]
            tell(
                f"stage {stage + 1}/{len(recipe.stages)}: "
                f"length {recipe.stages[stage].length}, theta {rope.theta:,.0f}"
            )
            trainee = engine.build(run.recipe, run.base, rope)
            states.restore(state, trainee.moving, trainee.adam)
            if stage == first:
                tell(_work_ahead(trainee, run.plan[state.step :]))
            done = state.step
            del state  # the weights of the stage before
            state = _run_stage(run, stage, done, trainee, record)
        learnt = engine.whole(state)
        engine.once(lambda: _finish(run, learnt, metrics))
    return metrics[-1]


def _work_ahead(trainee: Trainee, plan: Sequence[Step]) -> str:
    """What learns, where, and on how much."""
    moving = sum(parameter.numel() for parameter in trainee.moving.values())
    whole = sum(parameter.numel() for parameter in trainee.learner.parameters())
    tokens = sum(step.length * step.rows for step in plan)
    where = next(iter(trainee.moving.values())).device.type
    return f"{moving:,} of {whole:,} parameters learn, on {where}: {len(plan)} steps, {tokens:,} tokens"


def _finish(run: Run, learnt: Mapping[str, torch.Tensor], metrics: Sequence[Mapping[str, Any]]) -> None:
    """Everything that the result holds; what only the run needed stays at hand until that is in its place."""
    claimed = run.recipe.max_positions or max(stage.length for stage in run.recipe.stages)
    write_folder(
        run.work,
        base=run.base,
        learnt=learnt,
        rope=replace(run.ropes[-1], max_positions=claimed),
        recipe=run.recipe,
        dtype=_name(run.engine.dtype),
        data=records(of_documents(run.recipe), run.work),
    )
    _write_metrics(run.work, metrics)
    journal = run.work / RESUME_LOG
    journal.mkdir(exist_ok=True)
    for name in (run_identity.FILE, states.FILE, states.SHARED, FOLDER, hub.FOLDER):
        if (run.work / name).exists():
            (run.work / name).rename(journal / name)
    detach_log(run.work)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _prepare(
    recipe: Recipe, base: ModelFolder, context: Context, *, work: Path, engine: Engine, **how: Any
) -> Run:
    own = settings.read(base.config)
    ropes = tuple(
        replace(own, theta=theta, max_positions=max(stage.length, own.max_positions))
        for theta, stage in zip(thetas(recipe, own, head_dim(base.config)), recipe.stages, strict=True)
    )
    known = replace(context, encode=memoised(context.encode), work=work, seed=recipe.seed)
    plan = tuple(steps(recipe))
    batches = Batches(recipe, known, recipe.seed, plan)
    return Run(recipe, base, ropes, plan, batches, work=work, engine=engine, **how)


def _context(base: ModelFolder, folder: Path) -> Context:
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(
            "has no tokenizer that can be loaded", path=base.path, received=str(error)[:80]
        ) from None

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    begin = tokenizer.bos_token_id
    adds = begin is not None and tokenizer.encode("")[:1] == [begin]  # some have one and never add it
    return Context(encode, (int(begin),) if adds else (), len(tokenizer), folder)


def _run_stage(run: Run, stage: int, done: int, trainee: Trainee, record: Record) -> states.State:
    """All steps of one stage that are still to do, on a model built with the stage's theta."""
    engine = run.engine
    saved = time.monotonic()
    for step in run.plan[done:]:
        if step.stage != stage:
            break
        _step(run, step, trainee, record)
        done = step.number + 1
        due, last = time.monotonic() - saved >= run.checkpoint_seconds, done == len(run.plan)
        save, stop = engine.agree(save=due, stop=run.stop())
        if save or stop or last:
            if engine.main:
                _write_metrics(run.work, record.metrics)
                record.write()
            engine.save(states.capture(done, trainee.moving, trainee.adam), run.work, wait=stop or last)
            saved = time.monotonic()
        if stop and not last:
            record.progress.tell(f"set aside after step {done} of {len(run.plan)}")
            raise KeyboardInterrupt
    return states.capture(done, trainee.moving, trainee.adam)


def _step(run: Run, step: Step, trainee: Trainee, record: Record) -> None:
    """One optimiser step; the model's metrics hold nothing that depends on the clock."""
    rate = learning_rate(run.recipe, step, len(run.plan))
    for group in trainee.adam.param_groups:
        group["lr"] = rate
    outcome = run.engine.backward(trainee, run.batches.at(step), run.recipe)
    norm = run.engine.clip(trainee, run.recipe.optimiser.clip)
    if not math.isfinite(outcome.loss) or not math.isfinite(norm):
        if run.engine.main:  # the steps that led there
            _write_metrics(run.work, record.metrics)
            record.write()
        raise InputError(
            "training diverged",
            received=f"loss {outcome.loss}, gradient norm {norm} at step {step.number + 1}",
            remedy="lower the rate",
        )
    trainee.adam.step()
    metrics = {
        "step": step.number + 1,
        "stage": step.stage + 1,
        "length": step.length,
        "theta": run.ropes[step.stage].theta,
        "learning_rate": rate,
        "loss": outcome.loss,
        "accuracy": outcome.right / outcome.answers if outcome.answers else None,
    }
    record.metrics.append(metrics)
    row = record.meter.step(metrics, step.length * step.rows, norm, outcome)
    record.step(step, row)


def _read_metrics(work: Path, done: int) -> list[dict[str, Any]]:
    """Metrics of the steps that the state holds."""
    path = work / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines[:done]]


def _write_metrics(work: Path, metrics: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in metrics)
    with publish_file(work / METRICS) as temporary:
        temporary.write_text(text, encoding="utf-8")
