"""Products that only find a subspace: in float32, or in bfloat16 where the processor multiplies it faster.

They decide which basis a matrix is projected on, not the projection: rounding them changes the error of the
factors by a thousandth (docs/benchmarks.md). Legend of shape suffixes: T rows of a tile, N columns, W width
of a block.
"""

from collections.abc import Callable
from pathlib import Path

import torch

PROCESSOR = Path("/proc/cpuinfo")
FAST_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})  # instructions, as Linux names them

AddTransposed = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object]


def _in_float32(sum_NW: torch.Tensor, D_TN: torch.Tensor, Y_TW: torch.Tensor) -> None:
    sum_NW.addmm_(D_TN.T, Y_TW)


def _in_bfloat16(sum_NW: torch.Tensor, D_TN: torch.Tensor, Y_TW: torch.Tensor) -> None:
    """Factors rounded to bfloat16; the library adds up a tile in float32, and tiles are added in float32."""
    sum_NW.add_(torch.mm(D_TN.bfloat16().T, Y_TW.bfloat16()))


# Functions that add D^T Y to a sum, by the name that sidecars record
PRODUCTS: dict[str, AddTransposed] = {"float32": _in_float32, "bfloat16": _in_bfloat16}


def fastest_products(device: str, processor: Path = PROCESSOR) -> str:
    """The key of PRODUCTS for a device: the same on every machine with the same kind of processor."""
    if device != "cpu" or not processor.is_file():
        return "float32"
    lines = processor.read_text().splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "")
    library = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return "bfloat16" if library and FAST_BFLOAT16 & set(flags.split()) else "float32"
