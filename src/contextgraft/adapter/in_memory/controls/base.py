"""What a control is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.merge.plan import MergePlan
from contextgraft.errors import InputError
from contextgraft.rope.settings import RopeSettings


@dataclass(frozen=True)
class ControlInputs:
    """What a control is made of: a target's folder, and the adapters of one donor with which it is compared.

    The adapters share RoPE and attention settings; the first of them gives them. `published` are the RoPE
    settings of adapters without a record of their own. Controls of full rank need the folders of the base,
    of the donors, and of a donor trained on short texts only.
    """

    target: Path
    adapters: tuple[Adapter, ...]
    published: RopeSettings | None = None
    base: Path | None = None
    donors: tuple[Path, ...] = ()
    short_donor: Path | None = None

    @property
    def first(self) -> Adapter:
        """The first adapter."""
        return self.adapters[0]

    @property
    def largest(self) -> Adapter:
        """The adapter of the largest rank; of several the first."""
        return max(self.adapters, key=lambda adapter: adapter.rank)

    @property
    def donor_rope(self) -> RopeSettings:
        """The donor's RoPE settings; InputError for adapters without a record of them."""
        rope = self.first.rope or self.published
        if rope is None:
            raise InputError(
                "has no record of the donor's length, which the control needs",
                path=self.first.path,
                expected="an adapter that `contextgraft extract` wrote",
            )
        return rope


Control = Callable[[ControlInputs], MergePlan]  # raises what `plan_merge` raises
