"""The control of the RoPE settings: the adapter of the largest rank with the fine-tune's own theta."""

from dataclasses import replace

from contextgraft.adapter.in_memory.controls.base import ControlInputs
from contextgraft.adapter.merge.plan import MergePlan
from contextgraft.checkpoint.model_folder import MODEL_CONFIG, read_json
from contextgraft.rope import settings


def old_theta(inputs: ControlInputs) -> MergePlan:
    """The merge of the adapter with the target's RoPE; only the number of positions is the donor's."""
    own = settings.read(read_json(inputs.target / MODEL_CONFIG), inputs.target)
    rope = replace(own, max_positions=max(own.max_positions, inputs.donor_rope.context))
    return inputs.plan(inputs.largest, 1.0, rope=rope, attention=inputs.attention)
