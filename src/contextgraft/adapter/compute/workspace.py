"""Buffers that a thread fills again and again: fresh memory costs more than the arithmetic done in it."""

from dataclasses import dataclass, field

import torch

TILE = 1 << 21  # elements of a tile; fixed, for the order of summation decides the last bits


@dataclass
class Workspace:
    """Named one-dimensional buffers that grow to the largest request and are handed out as views."""

    device: str = "cpu"
    _buffers: dict[str, torch.Tensor] = field(default_factory=dict)

    def floats(self, name: str, count: int) -> torch.Tensor:
        """`count` float32 elements on the device, holding whatever was there before."""
        return self._view(name, count, torch.float32, self.device)

    def bytes(self, name: str, count: int) -> torch.Tensor:
        """`count` bytes in main memory."""
        return self._view(name, count, torch.uint8, "cpu")

    def _view(self, name: str, count: int, dtype: torch.dtype, device: str) -> torch.Tensor:
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < count:
            self._buffers.pop(name, None)
            buffer = self._buffers[name] = torch.empty(count, dtype=dtype, device=device)
        return buffer[:count]


def tile_rows(columns: int, elements: int = TILE) -> int:
    """Rows of a tile: as many as fit, at least one."""
    return max(1, elements // max(columns, 1))
