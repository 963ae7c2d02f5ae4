"""What a control is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.merge.plan import MergePlan


@dataclass(frozen=True)
class ControlInputs:
    """What a control is made of: a target's folder, and the adapter whose graft it is compared with."""

    target: Path
    adapter: Adapter


Control = Callable[[ControlInputs], MergePlan]  # raises what `plan_merge` raises
