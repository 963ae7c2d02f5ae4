"""Control rows of a graft: changes of a target that show what the adapter itself contributes.

A control is a function from a target and the adapters of a donor to a merge plan, and a row of `CONTROLS`.
Its graft is computed in memory like any other; nothing is written.
"""

from contextgraft.adapter.in_memory.controls.base import Control
from contextgraft.adapter.in_memory.controls.old_theta import old_theta
from contextgraft.adapter.in_memory.controls.random import random
from contextgraft.adapter.in_memory.controls.scaled_rope import dynamic_ntk, yarn
from contextgraft.adapter.in_memory.controls.theta_only import theta_only
from contextgraft.adapter.in_memory.controls.whole_delta import short_donor, whole_delta
from contextgraft.config.control_names import ControlName

CONTROLS: dict[ControlName, Control] = {
    "theta_only": theta_only,
    "yarn": yarn,
    "dynamic_ntk": dynamic_ntk,
    "random": random,
    "old_theta": old_theta,
    "whole_delta": whole_delta,
    "short_donor": short_donor,
}
