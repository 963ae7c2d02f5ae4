"""Which tensors to extract, and at which ranks."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from contextgraft.adapter.patterns import LimitedMatcher, is_pattern
from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.errors import library_errors
from contextgraft.formats.tensor_names import BY_TOKEN, TensorRole, tensor_role

SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # values that vLLM accepts as max_lora_rank


@dataclass(frozen=True)
class TensorSelection:
    """Tensors whose names match `include` and not `exclude`; embeddings only if they are listed."""

    include: str = ""
    exclude: str | None = None
    embeddings: tuple[TensorRole, ...] = ()
    matcher: LimitedMatcher | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], path: Path) -> Self:
        """A selection as an adapter's sidecar records it; CheckpointError if it cannot be used.

        Its patterns are those of whoever wrote the sidecar: they are matched within a time limit.
        """
        with library_errors("has a selection of tensors that cannot be used", path):
            include, exclude = str(data["include"]), None if data["exclude"] is None else str(data["exclude"])
            if not is_pattern(include) or not is_pattern(exclude or ""):
                raise ValueError("include and exclude are not regular expressions")
            roles = tuple(TensorRole(role) for role in data["embeddings"])
        return cls(include, exclude, roles, LimitedMatcher("selection", path))

    def role(self, info: TensorInfo, folder: Path) -> TensorRole:
        """The tensor's role if it is selected, else IGNORED."""
        if not self._matches(self.include, info.name) or (
            self.exclude and self._matches(self.exclude, info.name)
        ):
            return TensorRole.IGNORED
        own = tensor_role(info, folder)
        return TensorRole.IGNORED if own in BY_TOKEN and own not in self.embeddings else own

    def _matches(self, pattern: str, name: str) -> bool:
        if self.matcher is not None:
            return self.matcher.matches(pattern, name)
        return re.search(pattern, name) is not None


@dataclass(frozen=True)
class RankSpec:
    """The ranks of one adapter: `rank` everywhere, or as much of it as captures `energy` of each delta.

    With `steps`, ranks are rounded up to one of these.
    """

    rank: int
    energy: float | None = None
    steps: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The folder's name: r32, or e0.95."""
        return f"r{self.max_rank}" if self.energy is None else f"e{self.energy:g}"

    @property
    def max_rank(self) -> int:
        """The largest rank any module can get, before its own sides bound it."""
        return self._stepped(self.rank)

    @property
    def requested(self) -> dict[str, Any]:
        """What was requested, as the sidecar records it."""
        return {"rank": self.max_rank} | ({"energy": self.energy} if self.energy is not None else {})

    def rank_for(self, squares: Sequence[float], total: float) -> int:
        """Rank of a module whose squared singular values, largest first, add up to `total` with the rest."""
        if self.energy is None:
            return self.max_rank
        captured, rank = 0.0, 0
        while rank < min(self.max_rank, len(squares)) and captured < self.energy * total:
            captured += squares[rank]
            rank += 1
        return self._stepped(max(rank, 1))

    def _stepped(self, rank: int) -> int:
        return next((step for step in self.steps if step >= rank), rank)


def largest_rank(modules: Iterable[TensorInfo]) -> int:
    """The highest rank that any of the modules can have: the largest of their smaller sides; 0 of none."""
    return max((min(module.shape[-2:]) for module in modules), default=0)
