"""Which device a process of a run computes on, and in which dtype."""

import torch

from contextgraft.errors import InputError

DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}  # of activations, by device, unless stated
AMPERE = (8, 0)  # the first cards that FlashAttention supports
HOPPER = (9, 0)  # the only ones that FlashAttention-3 supports
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


def use_flash_attention_3(device: torch.device) -> None:
    """Put FlashAttention-3 in place of PyTorch's FlashAttention-2; InputError if that cannot be."""
    option = "--flash-attention-3"
    if card_capability(device) != HOPPER:
        raise InputError(
            f"{option} needs a Hopper card (compute capability 9.0)",
            received=device.type if device.type != "cuda" else torch.cuda.get_device_name(device),
            remedy=f"remove {option}",
        )
    try:
        from torch.nn.attention import activate_flash_attention_impl  # noqa: PLC0415 - not in torch 2.8

        activate_flash_attention_impl("FA3")
    except (ImportError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{option} does not work here",
            expected="its package flash_attn_interface, and a PyTorch that registers it",
            received=str(error).strip().partition("\n")[0],
            remedy=f"remove {option}",
        ) from None


def card_capability(device: torch.device) -> tuple[int, int] | None:
    """Compute capability of a GPU; None for other devices."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None
