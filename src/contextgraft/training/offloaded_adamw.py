"""AdamW whose moments are in host memory between steps."""

from collections.abc import Callable
from typing import Any

import torch
from typing_extensions import override

MOMENTS = ("exp_avg", "exp_avg_sq")


class OffloadedAdamW(torch.optim.AdamW):
    """AdamW with its moments in host memory; on a device are those of the parameter that is being updated.

    Updates are made on the parameter's device, as AdamW makes them: the numbers are the same to the bit.
    """

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update one parameter after the other; there is no closure."""
        groups = self.param_groups
        try:
            for group in groups:
                for parameter in group["params"]:
                    self.param_groups = [{**group, "params": [parameter]}]
                    self._update(parameter)
        finally:
            self.param_groups = groups

    def _update(self, parameter: torch.nn.Parameter) -> None:
        host = {name: moment for name, moment in self.state[parameter].items() if name in MOMENTS}
        self.state[parameter] |= {name: moment.to(parameter.device) for name, moment in host.items()}
        super().step()
        moments = {name: moment for name, moment in self.state[parameter].items() if name in MOMENTS}
        self.state[parameter] |= {name: host_copy(moment, host.get(name)) for name, moment in moments.items()}


def host_copy(moment: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """The tensor in host memory, in `out` or in new memory, pinned for GPUs; itself if it is there."""
    if moment.device.type == "cpu":
        return moment
    if out is None:
        out = torch.empty_like(moment, device="cpu", pin_memory=moment.device.type == "cuda")
    return out.copy_(moment)
