"""The state of a run between steps: trained weights and AdamW's moments, by name.

A state in one file has a digest of its content and one of its run: the identity and the metrics of its steps.
When it is saved next follows how long saving takes.
The same state carries a run from one stage to the next (theta changes, so the model is built anew) and
from one process to another (as safetensors: no pickle).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from contextgraft.checkpoint.digest import Hasher, hasher
from contextgraft.checkpoint.writer import save_tensors
from contextgraft.config.text_file import check_regular
from contextgraft.config.training import Optimiser
from contextgraft.errors import raise_read_error
from contextgraft.formats.tensor_names import is_embedding
from contextgraft.training.activations.host_copies import host_copies
from contextgraft.training.loss import CausalLMWithLoss
from contextgraft.training.offloaded_adamw import MOMENTS, OffloadedAdamW

STATE_FILE = "state.safetensors"  # of a run in one process
IDENTITY_FILE = "order.json"  # in the same folder: what defines the run
METRICS_FILE = "metrics.jsonl"  # in the same folder: a line for each step
TRACKERS_FILE = "trackers.json"  # in the same folder: what trackers of metrics call the run
CHECKPOINTS = "checkpoints"  # folder of a distributed run
WEIGHT = "weight/"
SAVING_SHARE = 0.05  # of the time in which checkpoints are written, at most, if their interval is not stated
SHORTEST_INTERVAL = 30.0  # seconds, likewise
SPOILED = (SafetensorError, OSError, KeyError, ValueError, TypeError)  # or missing


@dataclass(frozen=True)
class SavedState:
    """Number of steps done, and tensors named `weight/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`."""

    step: int = 0
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def weights(self) -> dict[str, torch.Tensor]:
        """The trained weights, by the names of their parameters."""
        return {
            name.removeprefix(WEIGHT): value
            for name, value in self.tensors.items()
            if name.startswith(WEIGHT)
        }


@dataclass(frozen=True)
class TrainState:
    """A model with its loss, its trainable parameters by name, and the optimiser that updates them."""

    model: CausalLMWithLoss
    parameters: Mapping[str, torch.nn.Parameter]
    optimiser: torch.optim.AdamW

    @property
    def description(self) -> str:
        """How many parameters are trained, and where."""
        trainable = sum(parameter.numel() for parameter in self.parameters.values())
        total = sum(parameter.numel() for parameter in self.model.parameters())
        device = next(iter(self.parameters.values())).device.type
        return f"training {trainable:,} of {total:,} parameters on {device}"

    def capture(self, step: int) -> SavedState:
        """The state after `step` steps; its tensors share memory with the model and the optimiser."""
        tensors = {f"{WEIGHT}{name}": parameter.detach() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            tensors |= {
                f"{moment}/{name}": self.optimiser.state[parameter][moment] for moment in MOMENTS if step
            }
        return SavedState(step, tensors)

    def restore(self, saved: SavedState) -> None:
        """Put a saved state into a newly built model and optimiser."""
        if not saved.step:
            return
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(saved.tensors[f"{WEIGHT}{name}"])
                moments = {
                    moment: self._moment(saved.tensors[f"{moment}/{name}"], parameter) for moment in MOMENTS
                }
                # the fused kernel wants the step count on the parameter's device
                step = torch.tensor(float(saved.step), device=parameter.device)
                self.optimiser.state[parameter] = {"step": step, **moments}

    def _moment(self, saved: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor:
        """A moment where the optimiser keeps it."""
        if isinstance(self.optimiser, OffloadedAdamW):
            return saved.to("cpu")
        return saved.to(parameter.device)


class CheckpointTimer:
    """When the next checkpoint is due: after `seconds`, or after a time that follows the last checkpoint's.

    Then it is at least half a minute, and so long that a checkpoint is being written for at most a twentieth
    of the time, whether training goes on meanwhile or not. `clock` counts seconds.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._last, self._taken = clock(), 0.0

    @property
    def interval(self) -> float:
        """Seconds from one checkpoint to the next."""
        if self._seconds is not None:
            return self._seconds
        return max(SHORTEST_INTERVAL, self._taken / SAVING_SHARE)

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self._clock() - self._last >= self.interval

    @contextmanager
    def saving(self) -> Iterator[Callable[[], None]]:
        """Around the start of a checkpoint; gives what is called, by any thread, when it is written."""
        began = self._clock()

        def written() -> None:
            self._taken = self._clock() - began

        yield written
        self._last = self._clock()


def build_optimiser(
    settings: Optimiser, parameters: Mapping[str, torch.nn.Parameter], *, frozen_rows: int
) -> torch.optim.AdamW:
    """AdamW over the parameters; vectors do not decay, nor do embeddings with frozen rows.

    If the settings say so its moments are in host memory.
    """
    decays = {
        name: parameter.ndim > 1 and not (frozen_rows and is_embedding(name))
        for name, parameter in parameters.items()
    }
    groups: list[dict[str, Any]] = [
        {
            "params": [parameter for name, parameter in parameters.items() if decays[name] is decay],
            "weight_decay": settings.weight_decay if decay else 0.0,
        }
        for decay in (True, False)
    ]
    used = [group for group in groups if group["params"]]
    values: dict[str, Any] = {"lr": settings.learning_rate, "betas": settings.betas, "fused": True}
    if not settings.offload:
        return torch.optim.AdamW(used, **values)
    return OffloadedAdamW(used, host_copies(used[0]["params"][0].device), **values)


def save_state(saved: SavedState, folder: Path) -> None:
    """Write the state atomically, with its digest; if this is killed the previous file stays."""
    digest = hasher()
    for name in sorted(saved.tensors):
        _add(digest, name, saved.tensors[name])
    run = run_digest(folder, saved.step)
    metadata = {"step": str(saved.step), "digest": digest.hexdigest(), "run": run}
    tensors = {name: tensor.cpu() for name, tensor in saved.tensors.items()}
    save_tensors(folder / STATE_FILE, tensors, metadata=metadata)


def saved_step(folder: Path) -> int:
    """Number of steps done by the state in a folder; 0 if there is none, or if it is spoiled."""
    try:
        with _open(folder) as file:
            return _step(file)
    except SPOILED as error:
        raise_read_error(error, folder / STATE_FILE)
        return 0


def load_state(
    folder: Path, convert: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor
) -> SavedState:
    """The state in a folder, read tensor by tensor; an empty state if there is none, or if it is spoiled.

    A state is believed only if its digest is that of its content, and its run that of the folder (states of
    earlier versions do not name their run). `convert` is applied to every tensor, for
    instance to keep only the rows of this process.
    """
    tensors, digest = {}, hasher()
    try:
        with _open(folder) as file:
            for name in sorted(file.keys()):
                tensor = file.get_tensor(name)
                _add(digest, name, tensor)
                tensors[name] = convert(tensor)
            saved, recorded = SavedState(_step(file), tensors), file.metadata()
            run = run_digest(folder, saved.step)
            same = recorded["digest"] == digest.hexdigest() and recorded.get("run", run) == run
            return saved if same else SavedState()
    except SPOILED as error:
        raise_read_error(error, folder / STATE_FILE)
        return SavedState()


def _open(folder: Path) -> Any:
    """The state file; safetensors by itself reports most errors of opening it as a missing file.

    It is read, not mapped into memory: a file that is cut meanwhile, or a failing disk, would kill the
    process.
    """
    check_regular(folder / STATE_FILE)
    return safe_open(folder / STATE_FILE, framework="pt", backend="pread")


def run_digest(folder: Path, step: int) -> str:
    """A digest of the run in a folder: its identity, and the metrics of its first `step` steps."""
    digest = hasher()
    for name, lines in ((IDENTITY_FILE, None), (METRICS_FILE, step)):
        path = folder / name
        content = path.read_bytes().splitlines()[:lines] if path.is_file() else []
        digest.update(b"\n".join([*content, b""]))
    return digest.hexdigest()


def _add(digest: Hasher, name: str, tensor: torch.Tensor) -> None:
    """Add a tensor to a digest."""
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
    digest.update(raw.numpy().data)


def _step(file: Any) -> int:
    return int((file.metadata() or {})["step"])
