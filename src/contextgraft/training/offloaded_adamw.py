"""AdamW whose moments are in host memory between steps."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from typing_extensions import override

from contextgraft.training.activations.host_copies import Copy, HostCopies

MOMENTS = ("exp_avg", "exp_avg_sq")
Moves = dict[tuple[torch.nn.Parameter, str], Copy]  # of moments, by parameter and name


class OffloadedAdamW(torch.optim.AdamW):
    """AdamW with its moments in host memory; parameters are updated on their device, one after the other.

    While one is updated, the moments of the next arrive and those of the one before leave. Updates are
    AdamW's own: the numbers are the same to the bit.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], copies: HostCopies, **settings: Any) -> None:
        super().__init__(groups, **settings)
        self._copies = copies

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update all parameters, and wait until their moments are in host memory; there is no closure."""
        groups = self.param_groups
        try:
            self._update([{**group, "params": [each]} for group in groups for each in group["params"]])
        finally:
            self.param_groups = groups
        self._copies.synchronise()

    def _update(self, groups: list[dict[str, Any]]) -> None:
        """Update the one parameter of each group."""
        arriving, leaving = self._begin(groups[0], self._copies.to_device), Moves()
        for group, following in zip(groups, [*groups[1:], None], strict=True):
            here, arriving = arriving, self._begin(following, self._copies.to_device)
            self._end(here)
            self.param_groups = [group]
            super().step()
            previous, leaving = leaving, self._begin(group, self._copies.to_host)
            self._end(previous)
        self._end(leaving)

    def _begin(self, group: dict[str, Any] | None, copy: Callable[[torch.Tensor], Copy]) -> Moves:
        """Begin to copy the moments of the parameter of a group, if it has any."""
        return {
            (parameter, name): copy(self.state[parameter][name])
            for parameter in (group["params"] if group else ())
            for name in MOMENTS
            if name in self.state[parameter]
        }

    def _end(self, moves: Moves) -> None:
        """Wait for copies, and use their results."""
        for (parameter, name), copy in moves.items():
            self._copies.wait(copy)
            self.state[parameter][name] = copy.result
