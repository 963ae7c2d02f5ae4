"""The files of an adapter folder: weights that may be read, and a sidecar that is whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.safetensors_header import CONVERT
from contextgraft.errors import CheckpointError, InputError, PickleRefused, first_names
from contextgraft.formats import peft
from contextgraft.formats.sidecar import SIDECAR
from contextgraft.rope import settings, travelling
from contextgraft.rope.parameters import without_file


def check_pickles(path: Path) -> None:
    """Raise PickleRefused for weights that are pickles, also for those that LongLoRA stores separately."""
    if not (path / peft.ADAPTER_WEIGHTS).exists() and (path / peft.ADAPTER_PICKLE).exists():
        raise PickleRefused(
            "has its weights as a pickle, which is never loaded",
            path=path / peft.ADAPTER_PICKLE,
            remedy=CONVERT,
        )
    if (path / peft.TRAINED_PICKLE).exists():
        raise PickleRefused(
            "holds the embeddings and norms of LongLoRA as a pickle, which is never loaded",
            path=path / peft.TRAINED_PICKLE,
            remedy=CONVERT,
        )


def check_weights(path: Path) -> None:
    """Raise CheckpointError for a folder whose weights have another name than PEFT's."""
    others = sorted(file.name for file in path.glob("*.safetensors") if file.name != peft.DENSE_DELTAS)
    if not (path / peft.ADAPTER_WEIGHTS).exists() and others:
        raise CheckpointError(
            f"has no {peft.ADAPTER_WEIGHTS}", path=path, expected="weights as PEFT saves them",
            received=first_names(others, 3),
            remedy="save it with PEFT's save_pretrained, or convert it with the program that trained it",
        )  # fmt: skip


def check_sidecar(path: Path, sidecar: dict[str, Any]) -> None:
    """Raise CheckpointError or InputError for a sidecar that lacks a record or has a malformed one."""
    needed = {"architecture": dict, "base": dict, "donor": dict, "max_length": int, "rank": int, "rope": dict,
              "selection": dict, "modules": dict, "dense": dict}  # fmt: skip
    missing = [key for key, form in needed.items() if not isinstance(sidecar.get(key), form)]
    if missing:
        raise CheckpointError(f"lacks {', '.join(missing)}", path=path / SIDECAR, remedy="extract it again")
    attention = sidecar.get("attention", {"changed": {}})
    with _named(path, "its record of attention settings"):
        travelling.from_json(attention.get("changed") if isinstance(attention, dict) else attention)
        travelling.from_json(attention.get("not_carried", {}))
    if not isinstance(attention.get("base", {}), dict):
        raise CheckpointError("has malformed attention settings of its base", path=path / SIDECAR)
    for side in ("base", "donor"):
        with _named(path, f"the RoPE settings of its {side}"):
            settings.from_json(sidecar["rope"].get(side))
        if not {"name", "digest"} <= set(sidecar[side]):
            raise CheckpointError(
                f"does not identify its {side}", path=path / SIDECAR, expected="name and digest"
            )
    if sidecar["max_length"] > 0 and not settings.from_json(sidecar["rope"]["donor"]).max_positions:
        raise CheckpointError(
            "max_position_embeddings cannot be used: the donor has none, but a context",
            path=path / SIDECAR, expected="a positive integer", received="0", remedy="extract it again",
        )  # fmt: skip


@contextmanager
def _named(path: Path, record: str) -> Iterator[None]:
    """Raise the errors inside as those of a record in the sidecar."""
    try:
        yield
    except InputError as error:
        raise CheckpointError(
            f"{record}: {without_file(error)}", path=path / SIDECAR, remedy="extract it again"
        ) from None
