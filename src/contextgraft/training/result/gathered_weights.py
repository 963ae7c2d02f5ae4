"""The trained weights for the result: each is gathered when it is read, and not kept."""

from collections.abc import Callable, Iterator, Mapping

import torch
from typing_extensions import override


class GatheredWeights(Mapping[str, torch.Tensor]):
    """Trained weights by name; whenever one is read, `gather` brings it to main memory."""

    def __init__(self, names: Mapping[str, object], gather: Callable[[str], torch.Tensor]) -> None:
        self._names, self._gather = dict.fromkeys(names), gather

    @override
    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._gather(name)

    @override
    def __contains__(self, name: object) -> bool:
        return name in self._names  # without gathering it

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    @override
    def __len__(self) -> int:
        return len(self._names)
