"""A graft that another device computed, against the same merge on a processor.

Devices add the terms of a product in different orders. The sums then differ in their last bits, and where
one is close to the middle of two values of the stored dtype, they are rounded to different ones. So an
element may differ by one step of the stored dtype, or, where a sum nearly cancels, by `ELEMENT` of the norm
of the tensor's delta; and all elements of a tensor together by `WHOLE` of it: a graft without its delta, or
with another, differs by more.
"""

import math
from dataclasses import asdict, dataclass, field

import torch

from contextgraft.adapter.merge.kernels.evidence import TensorEvidence
from contextgraft.adapter.verify.checks import check_equal
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.checkpoint.reader import DTYPES, read_bytes
from contextgraft.errors import VerificationError

ELEMENT = 1e-5
WHOLE = 0.02
BOUND = f"one step of the dtype or {ELEMENT:g} of the delta an element, {WHOLE:.0%} of the delta together"
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an element


@dataclass
class StoredDifference:
    """Differences between a graft's stored tensor and what is computed again; `add` is a merge's `write`."""

    graft: ModelFolder
    name: str
    different: int = 0
    squares: float = 0.0
    largest: float = 0.0  # of elements that differ by more than one step

    def add(self, offset: int, data: memoryview) -> None:
        """Compare a range of bytes."""
        info = self.graft[self.name]
        dtype = DTYPES[info.dtype]
        stored = read_bytes(self.graft, info, offset, offset + len(data)).view(dtype)
        again = torch.frombuffer(bytearray(data), dtype=dtype)
        difference = (stored.double() - again.double()).abs()
        self.different += int((difference > 0).sum())
        self.squares += float(difference.square().sum())
        beyond = difference[(_ordinals(stored) - _ordinals(again)).abs() > 1]
        if beyond.numel():
            self.largest = max(self.largest, float(beyond.max()))

    def check(self, recorded: TensorEvidence, again: TensorEvidence) -> None:
        """Raise VerificationError if the tensor, or what the manifest says of it, is beyond the bounds."""
        norm = again.delta_norm
        if not self.largest <= ELEMENT * norm or not math.sqrt(self.squares) <= WHOLE * norm:
            raise VerificationError(
                f"tensor {self.name} differs from the merge on this processor",
                expected=f"at most {BOUND}",
                received=f"{self.largest / norm if norm else math.inf:.3g} an element, "
                f"{math.sqrt(self.squares) / norm if norm else math.inf:.3g} together",
            )
        for key, value in asdict(again).items():
            known = getattr(recorded, key)
            if key == "digest_after" or (
                isinstance(value, float) and math.isclose(known, value, rel_tol=WHOLE)
            ):
                continue
            check_equal(f"{key} of tensor {self.name}", known, value)


@dataclass
class GraftDifferences:
    """The differences of all tensors of a graft."""

    graft: ModelFolder
    tensors: list[StoredDifference] = field(default_factory=list)
    bound: str = BOUND

    def tensor(self, name: str) -> StoredDifference:
        """Those of one more tensor."""
        difference = StoredDifference(self.graft, name)
        self.tensors.append(difference)  # by several threads
        return difference

    @property
    def different(self) -> int:
        """How many elements differ."""
        return sum(tensor.different for tensor in self.tensors)


def _ordinals(values: torch.Tensor) -> torch.Tensor:
    """Numbers of floating-point values in their order: neighbours differ by 1, -0.0 is 0.0."""
    size = values.element_size()
    bits = values.view(INTEGERS[size]).to(torch.int64)
    return torch.where(bits < 0, -(2 ** (8 * size - 1)) - bits, bits)
