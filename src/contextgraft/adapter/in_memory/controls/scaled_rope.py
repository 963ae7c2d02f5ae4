"""The controls by the config alone: the fine-tune's own RoPE, scaled to the donor's length."""

import math
from dataclasses import replace

from contextgraft.adapter.in_memory.controls.base import ControlInputs
from contextgraft.adapter.merge.plan import MergePlan
from contextgraft.checkpoint.model_folder import MODEL_CONFIG, read_json
from contextgraft.errors import MismatchError
from contextgraft.rope import settings
from contextgraft.rope.settings import ORIGINAL, RopeSettings


def yarn(inputs: ControlInputs) -> MergePlan:
    """YaRN (Peng et al. 2023, arXiv 2309.00071) with transformers' defaults, by the config alone."""
    own, factor = _own_rope(inputs)
    rope = replace(
        own,
        max_positions=inputs.donor_rope.context,
        rope_type="yarn",
        extra={**own.extra, "factor": factor, ORIGINAL: own.max_positions},
    )
    return inputs.plan(inputs.first, 0.0, rope=rope, attention=None)


def dynamic_ntk(inputs: ControlInputs) -> MergePlan:
    """NTK-aware RoPE whose theta follows the length of the prompt (transformers' type `dynamic`)."""
    own, factor = _own_rope(inputs)
    rope = replace(own, rope_type="dynamic", extra={**own.extra, "factor": factor})
    return inputs.plan(inputs.first, 0.0, rope=rope, attention=None)


def _own_rope(inputs: ControlInputs) -> tuple[RopeSettings, float]:
    """The target's RoPE settings, and the factor to the donor's length; MismatchError where none fits."""
    own = settings.read(read_json(inputs.target / MODEL_CONFIG), inputs.target)
    factor = inputs.donor_rope.context / own.context
    if own.rope_type != "default" or own.by_layer_type:
        raise MismatchError(
            "has scaled RoPE itself, which a control by the config alone would replace", path=inputs.target,
            expected="RoPE of the type default, the same in all layers",
            received=f"{own.rope_type}{', by layer type' if own.by_layer_type else ''}",
            remedy="leave the control out",
        )  # fmt: skip
    if not math.isfinite(factor) or factor <= 1:
        raise MismatchError(
            "has the donor's length already", path=inputs.target,
            expected=f"fewer than {inputs.donor_rope.context} positions", received=f"{own.context}",
            remedy="leave the control out",
        )  # fmt: skip
    return own, factor
