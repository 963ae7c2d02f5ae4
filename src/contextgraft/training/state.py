"""What a run has learnt so far: moving weights and AdamW's moments by name, to be set aside and taken up.

The same state carries a run from one stage to the next (theta changes, so the model is built anew) and
from one process to another (as safetensors: no pickle).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from contextgraft.checkpoint.writer import save_tensors
from contextgraft.config.training import Optimiser
from contextgraft.errors import CheckpointError
from contextgraft.formats.tensor_names import is_embedding

FILE = "state.safetensors"  # of a run in one process
SHARED = "checkpoints"  # of a run in many
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class State:
    """Steps done, and tensors named `weight/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`."""

    step: int = 0
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)


def optimiser(
    recipe: Optimiser, moving: Mapping[str, torch.nn.Parameter], *, frozen_rows: int
) -> torch.optim.AdamW:
    """AdamW over what moves; vectors do not decay, nor do embeddings of which some rows must stay."""
    decays = {
        name: parameter.ndim > 1 and not (frozen_rows and is_embedding(name))
        for name, parameter in moving.items()
    }
    groups = [
        {
            "params": [parameter for name, parameter in moving.items() if decays[name] is decay],
            "weight_decay": recipe.weight_decay if decay else 0.0,
        }
        for decay in (True, False)
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        fused=True,
    )


def capture(step: int, moving: Mapping[str, torch.nn.Parameter], adam: torch.optim.AdamW) -> State:
    """The state as it is now; its tensors are the living ones, not copies."""
    tensors = {f"weight/{name}": parameter.detach() for name, parameter in moving.items()}
    for name, parameter in moving.items():
        tensors |= {f"{moment}/{name}": adam.state[parameter][moment] for moment in MOMENTS if step}
    return State(step, tensors)


def restore(state: State, moving: Mapping[str, torch.nn.Parameter], adam: torch.optim.AdamW) -> None:
    """Put a state into a freshly built model and optimiser."""
    if not state.step:
        return
    with torch.no_grad():
        for name, parameter in moving.items():
            parameter.copy_(state.tensors[f"weight/{name}"])
            moments = {moment: state.tensors[f"{moment}/{name}"] for moment in MOMENTS}
            steps = torch.tensor(float(state.step), device=parameter.device)  # where the fused kernel has it
            adam.state[parameter] = {"step": steps, **moments}


def weights(state: State) -> dict[str, torch.Tensor]:
    """The weights of a state, by the names of their parameters."""
    begin = "weight/"
    return {
        name.removeprefix(begin): value for name, value in state.tensors.items() if name.startswith(begin)
    }


def save(state: State, folder: Path) -> None:
    """Write the state atomically; a killed run leaves the one before."""
    save_tensors(folder / FILE, state.tensors, metadata={"step": str(state.step)})


def step(folder: Path) -> int:
    """Steps that the state in a folder has done."""
    path = folder / FILE
    if not path.exists():
        return 0
    with _opened(path) as file:
        return _step(file)


def load(folder: Path, place: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor) -> State:
    """The state in a folder, or the state of a run that has not begun; read tensor by tensor.

    `place` makes of a tensor what this process keeps of it.
    """
    path = folder / FILE
    if not path.exists():
        return State()
    with _opened(path) as file:
        names = list(file.keys())
        return State(_step(file), {name: place(file.get_tensor(name)) for name in names})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            "cannot be read", path=path, received=str(error)[:80], remedy="remove the folder and start anew"
        ) from None


def _step(file: Any) -> int:
    return int((file.metadata() or {})["step"])
