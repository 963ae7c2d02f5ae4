"""The RoPE settings of published adapters without a record, as an argument of `plan_merge`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from contextgraft.formats.hub_source import RECORD

if TYPE_CHECKING:
    from contextgraft.adapter.lora.adapter import Adapter


def published_rope(adapters: "Sequence[Adapter]") -> dict[str, Any]:
    """{"rope": settings} if the adapters have none on record and some are known by name; else nothing.

    What is recorded and what is known must agree, else MismatchError.
    """
    unrecorded = [adapter for adapter in adapters if adapter.rope is None]
    if not any((adapter.path / RECORD).exists() for adapter in unrecorded):
        return {}
    from contextgraft.adapter.merge.graft_config import check_one_rope
    from contextgraft.sources.known_adapters import known_rope

    ropes = [(adapter.path, adapter.rope or known_rope(adapter.path)) for adapter in adapters]
    known = [(path, rope) for path, rope in ropes if rope is not None]
    check_one_rope(known)
    return {"rope": known[0][1]} if known and len(unrecorded) == len(adapters) else {}
