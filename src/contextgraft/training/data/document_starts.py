"""Documents of packed sequences that do not see each other: positions from where they begin."""

from collections.abc import Sequence

import torch


def last_start(positions: torch.Tensor, starts: Sequence[int]) -> torch.Tensor:
    """For each position the begin of its document; `starts` are sorted, the first is 0."""
    sorted_starts = torch.tensor(starts, device=positions.device)
    return sorted_starts[torch.searchsorted(sorted_starts, positions, right=True) - 1]


def restarting_positions(starts: Sequence[Sequence[int]], length: int) -> torch.Tensor:
    """Position ids (rows, length) int64 that begin at 0 in each document of each row."""
    positions = torch.arange(length)
    return torch.stack([positions - last_start(positions, row) for row in starts])
