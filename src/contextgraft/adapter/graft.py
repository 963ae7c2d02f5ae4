"""An adapter and a target that fit each other: what a merge will do, known before anything is written."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from contextgraft.adapter.architecture import FLOATS, refuse_other, refuse_shape
from contextgraft.adapter.folder import Adapter, open_adapter
from contextgraft.adapter.pair import LIBRARIES
from contextgraft.adapter.svd import TILE_ROWS
from contextgraft.checkpoint.identity import SIDECAR
from contextgraft.checkpoint.layout import PICKLES, ModelFolder, open_model
from contextgraft.errors import MismatchError
from contextgraft.rope import settings

FOREIGN = (*PICKLES, ".safetensors", ".gguf", ".onnx", ".onnx_data", ".h5", ".msgpack", ".npz")


@dataclass(frozen=True)
class Graft:
    """`changed` tensors get the adapter's delta times `scale`; scale 0 changes none, only RoPE."""

    adapter: Adapter
    target: ModelFolder
    scale: float

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the tensors that get a delta."""
        return tuple(sorted(self.adapter.shapes)) if self.scale else ()

    @property
    def bytes_to_read(self) -> int:
        """Bytes of the target's tensors."""
        return sum(info.bytes for info in self.target.tensors.values())

    def peak_bytes(self, threads: int) -> int:
        """Estimate of the memory beyond the program's own: tiles and the held factor."""
        rank = int(self.adapter.sidecar["rank"])
        widest = max(
            (shape[-1] if len(shape) > 1 else 1 for shape in self.adapter.shapes.values()), default=1
        )
        return LIBRARIES + threads * 4 * widest * (6 * TILE_ROWS + 2 * rank)

    @property
    def copied(self) -> tuple[str, ...]:
        """Other files that go along: all but weights in other forms, which would be those of the target."""
        return tuple(name for name in self.target.others if not _foreign(name))

    @property
    def left_out(self) -> tuple[str, ...]:
        """Weights in other forms, pickles among them."""
        return tuple(name for name in self.target.others if _foreign(name) and name != SIDECAR)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed but should be known."""
        before, base = (
            settings.read(self.target.config),
            settings.from_json(self.adapter.sidecar["rope"]["base"]),
        )
        if before == base:
            return ()
        return (
            f"{self.target.path}: RoPE (theta {before.theta:g}, {before.max_positions} positions) "
            f"differs from the base's (theta {base.theta:g}, {base.max_positions}); the donor's replaces it",
        )


def plan(adapter_path: Path, target_path: Path, scale: float) -> Graft:
    """Open both; any mismatch raises MismatchError naming both sides, before anything is written."""
    adapter, target = open_adapter(adapter_path), open_model(target_path)
    other = f"the adapter {adapter_path}"
    refuse_other(target, other, adapter.sidecar["architecture"])
    for name, shape in sorted(adapter.shapes.items()):
        refuse_shape(target, name, other, shape)
        if target[name].dtype not in FLOATS:
            raise MismatchError(
                f"tensor {name!r} cannot take a delta",
                path=target_path,
                expected=f"{', '.join(FLOATS)}, as {other} needs",
                received=target[name].dtype,
                remedy="use the target in its original precision",
            )
    _refuse_vocabulary(target)
    settings.read(target.config)
    return Graft(adapter, target, scale)


def _refuse_vocabulary(target: ModelFolder) -> None:
    """A target may have more or other tokens than the base, but its config and embedding must agree."""
    size = target.config.get("vocab_size")
    for name, info in target.tensors.items():
        if name.endswith("embed_tokens.weight") and size is not None and info.rows != size:
            raise MismatchError(
                f"config.json and tensor {name!r} disagree about the vocabulary",
                path=target.path,
                expected=f"{size} rows (vocab_size)",
                received=f"{info.rows}",
                remedy="the target itself is broken: fetch it again",
            )


def _foreign(name: str) -> bool:
    return (
        PurePosixPath(name).suffix in FOREIGN or name == SIDECAR or name.endswith(".safetensors.index.json")
    )
