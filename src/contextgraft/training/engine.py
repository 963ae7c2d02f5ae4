"""Engines: where a run computes, in this process alone or in many processes that act as one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import torch
from typing_extensions import override

from contextgraft.checkpoint import atomic
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.config.training import Recipe
from contextgraft.errors import InputError
from contextgraft.rope.settings import RopeSettings
from contextgraft.training.activations.compiled import check_compiler
from contextgraft.training.activations.offloading import Offloading, offloading
from contextgraft.training.activations.selective_checkpointing import keep_sdpa
from contextgraft.training.block_causal import check_block_causal
from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.loss import CausalLMWithLoss
from contextgraft.training.micro_batch import full_batch
from contextgraft.training.model import (
    build_trainable,
    cast_frozen,
    load_weights,
    materialise,
    trainable_parameters,
    zero_frozen_rows,
)
from contextgraft.training.result.gathered_weights import GatheredWeights
from contextgraft.training.state import (
    CHECKPOINTS,
    SavedState,
    TrainState,
    build_optimiser,
    load_state,
    save_state,
)

T = TypeVar("T")


class StepResult(NamedTuple):
    """Loss of a batch in nats; correctly predicted answer tokens (loss weight 1), and all answer tokens.

    The bytes are those that the rings of all ranks sent within nodes and between them.
    """

    loss: float
    correct: int
    answers: int
    bytes_within_nodes: int = 0
    bytes_between_nodes: int = 0


class TrainingEngine(Protocol):
    """What the trainer needs; every process of a run calls the same methods in the same order."""

    main: bool
    dtype: torch.dtype  # of activations
    memory_remedies: Sequence[str]  # what else saves memory, besides the recipe

    def run_on_main(self, task: Callable[[], T]) -> T:
        """Run a task in the main process only; all processes get its result, or its error."""

    def publish(self, out: Path, *, replace: bool = False) -> AbstractContextManager[Path]:
        """The work directory that becomes `out`, as `checkpoint.atomic.publish`."""

    def check(self, recipe: Recipe, base: ModelFolder, rope: RopeSettings) -> None:
        """Raise InputError if the engine cannot train this; called before any data is read."""

    def build(self, recipe: Recipe, base: ModelFolder, rope: RopeSettings) -> TrainState:
        """The base with these RoPE settings, ready to be trained."""

    def backward(self, state: TrainState, batch: TokenBatch, recipe: Recipe) -> StepResult:
        """Compute the loss of a batch and leave its gradient in the trainable parameters."""

    def clip(self, state: TrainState, max_norm: float) -> float:
        """Scale the gradient down to this norm; returns the norm before."""

    def sync_flags(self, *, save: bool, stop: bool) -> tuple[bool, bool]:
        """Whether to save the state now, and whether to stop: true if it is true in any process."""

    def load(self, work: Path) -> SavedState:
        """The state that was saved last."""

    def save(self, saved: SavedState, work: Path, *, wait: bool, written: Callable[[], None]) -> None:
        """Save the state and call `written`; without `wait` both may happen while the run goes on."""

    def run_with_weights(self, saved: SavedState, task: Callable[[Mapping[str, torch.Tensor]], T]) -> T:
        """As `run_on_main`, with the trained weights by name; each is gathered when the task reads it."""


class SingleProcessEngine(TrainingEngine):
    """Computes in this process, on one device; the state is one safetensors file.

    Attention is that of transformers, with every window and type of RoPE. Weights, gradients and moments are
    float32; with another `dtype` matrix products and attention are computed in it (torch.autocast), and the
    weights of linear layers that are not trained are kept in it.
    `rows_at_once` rows of a batch are computed in one pass, all by default.
    """

    main = True
    offloaded: Offloading | None = None  # of the model that was built last

    def __init__(
        self, device: str = "cpu", dtype: torch.dtype = torch.float32, rows_at_once: int | None = None
    ) -> None:
        self.device, self.dtype, self.rows_at_once = torch.device(device), dtype, rows_at_once
        rows = () if rows_at_once == 1 else ("--rows-at-once 1",)
        self.memory_remedies = (*rows, "fewer tokens in a batch", "more processes (torchrun)")

    @override
    def run_on_main(self, task: Callable[[], T]) -> T:
        return task()

    @override
    def publish(self, out: Path, *, replace: bool = False) -> AbstractContextManager[Path]:
        return atomic.publish(out, replace=replace)

    @override
    def check(self, recipe: Recipe, base: ModelFolder, rope: RopeSettings) -> None:
        """Attention is that of transformers, which supports what its classes support."""
        check_compiler(recipe, self.device)

    @override
    def build(self, recipe: Recipe, base: ModelFolder, rope: RopeSettings) -> TrainState:
        self.offloaded = offloading(recipe, self.device)
        model = build_trainable(
            recipe, base, rope, attention=None, keep_attention=keep_sdpa, offloaded=self.offloaded
        )
        cast_frozen(model, self.dtype, linear_only=True)
        materialise(model, self.device)
        load_weights(model, base)
        if recipe.has_block_causal:
            check_block_causal(model)
        parameters = trainable_parameters(model)
        optimiser = build_optimiser(recipe.optimiser, parameters, frozen_rows=recipe.frozen_rows)
        return TrainState(CausalLMWithLoss(model), parameters, optimiser)

    @override
    def backward(self, state: TrainState, batch: TokenBatch, recipe: Recipe) -> StepResult:
        full, rows = full_batch(batch), self.rows_at_once or len(batch.ids)
        state.optimiser.zero_grad()
        total, all_correct = 0.0, 0
        hooks = self.offloaded or nullcontext()
        for number, micro_batch in enumerate(full.to(self.device).split(rows)):
            arguments = position_arguments(batch, slice(number * rows, (number + 1) * rows), self.device)
            with hooks, torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                loss, correct = state.model(micro_batch, **arguments)
            torch.autograd.backward(loss)
            total, all_correct = total + loss.item(), all_correct + int(correct)
        zero_frozen_rows(state.parameters, recipe.frozen_rows)
        return StepResult(total, all_correct, int(full.answers.sum()))

    @override
    def clip(self, state: TrainState, max_norm: float) -> float:
        return torch.nn.utils.clip_grad_norm_(state.parameters.values(), max_norm).item()

    @override
    def sync_flags(self, *, save: bool, stop: bool) -> tuple[bool, bool]:
        return save, stop

    @override
    def load(self, work: Path) -> SavedState:
        """The later of the state of one process and the checkpoint of a distributed run."""
        saved = load_state(work)
        if not (work / CHECKPOINTS).exists():
            return saved
        from contextgraft.training.parallel.checkpoints import (  # noqa: PLC0415 - slow import
            load_checkpoint,
            remove_unusable,
        )

        remove_unusable(work)
        return max(saved, load_checkpoint(work), key=lambda state: state.step)

    @override
    def save(self, saved: SavedState, work: Path, *, wait: bool, written: Callable[[], None]) -> None:
        save_state(saved, work)
        written()

    @override
    def run_with_weights(self, saved: SavedState, task: Callable[[Mapping[str, torch.Tensor]], T]) -> T:
        weights = saved.weights()
        return task(GatheredWeights(weights, lambda name: weights[name].cpu()))


def position_arguments(batch: TokenBatch, rows: slice, device: torch.device) -> dict[str, torch.Tensor]:
    """Arguments of the layers for some rows whose position ids skip or begin anew; none for consecutive ones.

    Without a mask, transformers takes a position that does not follow the one before for the begin of another
    sequence, and lets no token attend across it: so it does for documents that do not see each other. A mask
    of ones is not built.
    """
    if batch.positions is None:
        return {}
    positions = batch.positions[rows].to(device)
    if batch.starts is not None:
        return {"position_ids": positions}
    return {"position_ids": positions, "attention_mask": torch.ones_like(positions)}


@contextmanager
def memory_errors(recipe: Recipe, engine: TrainingEngine) -> Iterator[None]:
    """Turn out-of-memory errors of torch, numpy and Python into InputError, with what is not done yet."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not _is_memory_error(error):
            raise
        remedies = [
            *([] if recipe.activation_checkpointing else ["activation_checkpointing"]),
            *([] if recipe.mlp_tiles > 1 else ["mlp_tiles"]),
            *([] if recipe.activation_offloading else ["activation_offloading"]),
            *([] if recipe.optimiser.offload else ["optimiser.offload"]),
            *engine.memory_remedies,
            "shorter stages",
        ]
        raise InputError("out of memory", remedy=f"{', '.join(remedies)}; see --plan") from None


def _is_memory_error(error: RuntimeError) -> bool:
    """On CPUs, and in libraries of CUDA, these errors have no type of their own."""
    texts = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in texts)
