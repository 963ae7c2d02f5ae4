"""The names of the control rows, as studies and the command line have them.

`adapter.in_memory.controls` has a function for each.
"""

from typing import Literal

ControlName = Literal[
    "theta_only", "yarn", "dynamic_ntk", "random", "old_theta", "whole_delta", "short_donor"
]
THETA_ONLY: ControlName = "theta_only"  # is always evaluated
BY_CONFIG_ALONE: tuple[ControlName, ...] = ("yarn", "dynamic_ntk")  # no weight is changed
FROM_DONOR: ControlName = "whole_delta"  # needs the folders of base and donor
FROM_SHORT_DONOR: ControlName = "short_donor"  # needs the folders of the base and of a second donor
OF_NO_DONOR = (*BY_CONFIG_ALONE, FROM_SHORT_DONOR)  # the same for every donor of one length
