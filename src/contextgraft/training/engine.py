"""Where a run happens: in this process alone, or in many that act as one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import torch

from contextgraft.checkpoint import atomic as publish
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.config.training import Recipe
from contextgraft.errors import InputError
from contextgraft.rope.settings import RopeSettings
from contextgraft.training import model as models
from contextgraft.training import state as states
from contextgraft.training.data.batches import Batch
from contextgraft.training.loss import Learner
from contextgraft.training.micro_batch import whole

T = TypeVar("T")


@dataclass(frozen=True)
class Trainee:
    """A model with its loss, what of it moves, and the optimiser that moves it."""

    learner: Learner
    moving: Mapping[str, torch.nn.Parameter]
    adam: torch.optim.AdamW


class Outcome(NamedTuple):
    """Loss of a batch in nats; how many tokens of weight 1 are right, and how many there are.

    `inside`, `between`: bytes that the rings of all ranks sent inside nodes and between them.
    """

    loss: float
    right: int
    answers: int
    inside: int = 0
    between: int = 0


class Engine(Protocol):
    """What the run asks for; every process of a run calls the same methods in the same order."""

    main: bool
    dtype: torch.dtype  # of activations

    def once(self, act: Callable[[], T]) -> T:
        """The result of an act that only the main process does; its error is everyone's."""

    def publish(self, out: Path, *, replace: bool = False) -> AbstractContextManager[Path]:
        """The work directory that becomes `out`, as `checkpoint.publish`."""

    def build(self, recipe: Recipe, base: ModelFolder, rope: RopeSettings) -> Trainee:
        """The base with these rotary settings, ready to be trained."""

    def backward(self, trainee: Trainee, batch: Batch, recipe: Recipe) -> Outcome:
        """The batch's loss, its gradient left in the parameters that move."""

    def clip(self, trainee: Trainee, most: float) -> float:
        """Scale the gradient down to this norm; its norm before."""

    def agree(self, *, save: bool, stop: bool) -> tuple[bool, bool]:
        """Whether the run is to be set aside now, or stopped, because any process wants it."""

    def load(self, work: Path) -> states.State:
        """The state that was last set aside."""

    def save(self, state: states.State, work: Path, *, wait: bool) -> None:
        """Set the state aside; without `wait` it may be written while the run goes on."""

    def whole(self, state: states.State) -> dict[str, torch.Tensor]:
        """The weights that moved, by name; empty but in the main process."""


class Alone:
    """One process; the state is one safetensors file."""

    main = True
    dtype = torch.float32

    def once(self, act: Callable[[], T]) -> T:
        """The act."""
        return act()

    def publish(self, out: Path, *, replace: bool = False) -> AbstractContextManager[Path]:
        """The work directory."""
        return publish.publish(out, replace=replace)

    def build(self, recipe: Recipe, base: ModelFolder, rope: RopeSettings) -> Trainee:
        """A model with torch's own attention."""
        model = models.prepared(recipe, base, rope, attention="sdpa")
        models.put_weights(model, base)
        moving = models.moving(model)
        return Trainee(
            Learner(model), moving, states.optimiser(recipe.optimiser, moving, frozen_rows=recipe.frozen_rows)
        )

    def backward(self, trainee: Trainee, batch: Batch, recipe: Recipe) -> Outcome:
        """All rows at once."""
        part = whole(batch)
        trainee.adam.zero_grad()
        loss, right = trainee.learner(part)
        torch.autograd.backward(loss)
        models.keep_rows(trainee.moving, recipe.frozen_rows)
        return Outcome(loss.item(), int(right), int(part.answers.sum()))

    def clip(self, trainee: Trainee, most: float) -> float:
        """The norm of all gradients."""
        return torch.nn.utils.clip_grad_norm_(trainee.moving.values(), most).item()

    def agree(self, *, save: bool, stop: bool) -> tuple[bool, bool]:
        """There is nobody to ask."""
        return save, stop

    def load(self, work: Path) -> states.State:
        """Of one process, or of many, whichever is later."""
        own = states.load(work)
        if not (work / states.SHARED).exists():
            return own
        from contextgraft.training.parallel import checkpoints  # noqa: PLC0415 - dear, and rarely needed

        return max(own, checkpoints.load(work), key=lambda state: state.step)

    def save(self, state: states.State, work: Path, *, wait: bool) -> None:  # noqa: ARG002
        """Written when this returns."""
        states.save(state, work)

    def whole(self, state: states.State) -> dict[str, torch.Tensor]:
        """As they are."""
        return states.weights(state)


@contextmanager
def memory() -> Iterator[None]:
    """Memory that torch is refused in the block raises InputError; torch has a type for it on GPUs only."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise InputError(
            "out of memory",
            remedy="activation_checkpointing, --rows-at-once 1, more processes on a sequence; see --plan",
        ) from None
