"""The control of the settings: the donor's RoPE and attention settings, the fine-tune's own weights."""

from contextgraft.adapter.in_memory.controls.base import ControlInputs
from contextgraft.adapter.merge.plan import MergePlan


def theta_only(inputs: ControlInputs) -> MergePlan:
    """The merge of the adapter at scale 0."""
    return inputs.plan(inputs.first, 0.0)
