"""The control of the settings: the donor's RoPE and attention settings, the fine-tune's own weights."""

from contextgraft.adapter.in_memory.controls.base import ControlInputs
from contextgraft.adapter.merge.plan import MergePlan, ScaledAdapter, plan_merge


def theta_only(inputs: ControlInputs) -> MergePlan:
    """The merge of the adapter at scale 0."""
    return plan_merge([ScaledAdapter(inputs.first, 0.0)], inputs.target, rope=inputs.published)
