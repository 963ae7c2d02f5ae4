"""The RoPE settings of published adapters without a record, as an argument of `plan_merge`."""

from pathlib import Path
from typing import Any

from contextgraft.formats.hub_source import RECORD


def published_rope(adapter: Path) -> dict[str, Any]:
    """{"rope": settings} of an adapter known by name that was fetched into this folder; else nothing."""
    if not (adapter / RECORD).exists():
        return {}
    from contextgraft.sources.known_adapters import known_rope

    rope = known_rope(adapter)
    return {"rope": rope} if rope else {}
