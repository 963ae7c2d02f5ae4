"""Which device a process of a run computes on, and in which dtype."""

import torch

from contextgraft.errors import InputError

DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}  # of activations, by device, unless stated
AMPERE = (8, 0)  # the first cards that FlashAttention supports
LARGEST_HEAD, HEAD_MULTIPLE = 256, 8  # of its head sizes


def choose_device(requested: str | None) -> str:
    """The type of device that was requested; by default a GPU if there is one. InputError if it is absent."""
    available = torch.cuda.is_available()
    if requested == "cuda" and not available:
        raise InputError(
            "no such device on this machine", expected="--device cpu", received=f"--device {requested}"
        )
    return requested or ("cuda" if available else "cpu")


def choose_dtype(requested: str | None, device: str) -> torch.dtype:
    """The dtype of activations that was requested; by default that of the device."""
    dtype: torch.dtype = DTYPES[device] if requested is None else getattr(torch, requested)
    return dtype


def check_kernel(device: str, head_dim: int, capability: tuple[int, int] | None) -> None:
    """Raise InputError unless the ring's kernel on GPUs takes this head size and this card.

    `capability` is that of the card; other devices take everything.
    """
    if device != "cuda":
        return
    remedy = "train on one GPU without torchrun, whose attention is that of transformers"
    if capability is not None and capability < AMPERE:
        raise InputError(
            "the attention kernel of several processes does not support this card",
            expected=f"compute capability {AMPERE[0]}.{AMPERE[1]} or more",
            received=".".join(map(str, capability)),
            remedy=remedy,
        )
    if head_dim % HEAD_MULTIPLE or head_dim > LARGEST_HEAD:
        raise InputError(
            "the attention kernel of several processes does not support this head size",
            expected=f"a multiple of {HEAD_MULTIPLE} up to {LARGEST_HEAD}",
            received=head_dim,
            remedy=remedy,
        )


def card_capability(device: torch.device) -> tuple[int, int] | None:
    """Compute capability of a GPU; None for other devices."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None
