"""Layer inputs in host memory, from the forward pass of a layer until it is recomputed.

Copies to the host are made while the layer and the next one are computed. In the backward pass the tensors of
a layer return while the layer after it is computed.
"""

from contextlib import nullcontext

import torch
from torch.autograd.graph import saved_tensors_hooks
from typing_extensions import override

from contextgraft.config.training import Recipe
from contextgraft.training.activations.host_copies import Copy, HostCopies, host_copies
from contextgraft.training.activations.selective_checkpointing import CheckpointContexts, ContextFn

IN_FLIGHT = 2  # layers whose tensors are still on the device in the forward pass


class OffloadedTensor:
    """A saved tensor of a layer, which leaves the device for host memory and returns once."""

    def __init__(self, tensor: torch.Tensor, layer: int, copies: HostCopies) -> None:
        self.layer, self._copies = layer, copies
        self._leaving: Copy | None = copies.to_host(tensor)
        self._host = self._leaving.result
        self._returning: Copy | None = None
        self._taken = False

    def leave(self) -> None:
        """Free the device's memory of it."""
        if self._leaving is not None:
            self._copies.wait(self._leaving)
            self._leaving = None

    def begin_to_return(self) -> None:
        """Begin to copy it to the device, if it is not there and nothing has taken it yet."""
        if self._leaving is None and self._returning is None and not self._taken:
            self._returning = self._copies.to_device(self._host)

    def take(self) -> torch.Tensor:
        """The tensor on the device, for what is computed next."""
        if self._leaving is not None:
            tensor = self._leaving.source
        else:
            self._returning = self._returning or self._copies.to_device(self._host)
            tensor = self._returning.result
        self._taken = True
        self.drop()
        return tensor

    def drop(self) -> None:
        """Free the device's memory of it, also of a copy that nothing has taken."""
        self.leave()
        if self._returning is not None:
            self._copies.wait(self._returning)
            self._returning = None


class Offloading(saved_tensors_hooks):
    """Hooks that keep saved tensors in host memory, by layers; entered around each forward pass.

    They take what activation checkpointing keeps: the inputs of the layers. Tensors inside a layer are
    recomputed and not offloaded. Vectors stay where they are: weights of norms, which FSDP frees by itself.
    """

    def __init__(self, copies: HostCopies) -> None:
        super().__init__(self._pack, self._unpack)
        self._copies = copies
        self._layers: list[list[OffloadedTensor]] = [[]]

    @override
    def __enter__(self) -> None:
        self._drop_from(0)
        self._layers = [[]]
        super().__enter__()

    def contexts(self, inner: ContextFn | None) -> ContextFn:
        """A `context_fn` of torch.utils.checkpoint, which calls it as a layer begins: that of `inner`."""

        def begin_layer() -> CheckpointContexts:
            self._begin_layer()
            return (nullcontext(), nullcontext()) if inner is None else inner()

        return begin_layer

    def _begin_layer(self) -> None:
        self._layers.append([])
        for tensor in self._layers[-1 - IN_FLIGHT] if len(self._layers) > IN_FLIGHT else ():
            tensor.leave()

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor | OffloadedTensor:
        if tensor.dim() < 2:
            return tensor
        offloaded = OffloadedTensor(tensor, len(self._layers) - 1, self._copies)
        self._layers[-1].append(offloaded)
        return offloaded

    def _unpack(self, packed: torch.Tensor | OffloadedTensor) -> torch.Tensor:
        """A tensor of a layer; meanwhile the others of this layer and of that before it begin to return."""
        if isinstance(packed, torch.Tensor):
            return packed
        self._drop_from(packed.layer + 1)
        for layer in reversed(self._layers[max(0, packed.layer - 1) :]):
            for tensor in layer:
                tensor.begin_to_return()
        return packed.take()

    def _drop_from(self, first: int) -> None:
        """Forget the tensors of this layer and of those after it."""
        for layer in self._layers[first:]:
            for done in layer:
                done.drop()
        del self._layers[first:]


def offloading(recipe: Recipe, device: torch.device) -> Offloading | None:
    """The hooks of a recipe for a device; None if it does not want them."""
    return Offloading(host_copies(device)) if recipe.activation_offloading else None
