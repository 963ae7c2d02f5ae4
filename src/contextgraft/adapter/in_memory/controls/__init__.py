"""Control rows of a graft: changes of a target that show what the adapter itself contributes.

A control is a function from a target and an adapter to a merge plan, in a file of its own, and a row of
`CONTROLS`. Its graft is computed in memory like any other; nothing is written.
"""

from contextgraft.adapter.in_memory.controls.base import Control
from contextgraft.adapter.in_memory.controls.theta_only import theta_only

CONTROLS: dict[str, Control] = {"theta_only": theta_only}
