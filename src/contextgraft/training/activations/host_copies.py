"""Copies between a device and host memory that are made while the device computes."""

from typing import NamedTuple, Protocol

import torch
from typing_extensions import override


class Copy(NamedTuple):
    """A copy that was begun: source and result must stay alive until it was waited for."""

    source: torch.Tensor
    result: torch.Tensor
    done: torch.cuda.Event | None = None


class HostCopies(Protocol):
    """Begins copies; `wait` makes what is computed next wait for one of them, not the host."""

    def to_host(self, tensor: torch.Tensor) -> Copy:
        """Begin a copy into host memory."""

    def to_device(self, tensor: torch.Tensor) -> Copy:
        """Begin a copy of a tensor in host memory."""

    def wait(self, copy: Copy) -> None:
        """Wait for a copy before anything else is computed; its source may then be freed."""

    def synchronise(self) -> None:
        """Let the host wait for all copies, before it uses their results itself."""


class ImmediateCopies(HostCopies):
    """Copies that are complete when they have begun: of processors, within host memory."""

    @override
    def to_host(self, tensor: torch.Tensor) -> Copy:
        return Copy(tensor, tensor.clone())

    @override
    def to_device(self, tensor: torch.Tensor) -> Copy:
        return Copy(tensor, tensor.clone())

    @override
    def wait(self, copy: Copy) -> None:
        pass

    @override
    def synchronise(self) -> None:
        pass


class StreamCopies(HostCopies):
    """Copies of a GPU with pinned host memory, on a stream for each direction.

    Device memory is always that of the stream that computes, and is freed after `wait`: no use of it on that
    stream can come before the copy has ended.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._outwards, self._inwards = _stream(device), _stream(device)

    @override
    def to_host(self, tensor: torch.Tensor) -> Copy:
        host = torch.empty_like(tensor, device="cpu", pin_memory=True)
        return self._begin(tensor, host, self._outwards)

    @override
    def to_device(self, tensor: torch.Tensor) -> Copy:
        return self._begin(tensor, torch.empty_like(tensor, device=self._device), self._inwards)

    def _begin(self, source: torch.Tensor, result: torch.Tensor, stream: torch.cuda.Stream) -> Copy:
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            result.copy_(source, non_blocking=True)
        return Copy(source, result, stream.record_event())

    @override
    def wait(self, copy: Copy) -> None:
        assert copy.done is not None
        torch.cuda.current_stream(self._device).wait_event(copy.done)

    @override
    def synchronise(self) -> None:
        self._outwards.synchronize()
        self._inwards.synchronize()


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def host_copies(device: torch.device) -> HostCopies:
    """The copies of a device."""
    return StreamCopies(device) if device.type == "cuda" else ImmediateCopies()
