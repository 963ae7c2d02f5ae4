"""Which documents of LongBench v2 are asked about."""

from typing import Any


def short(documents: Any) -> Any:
    """Those that the benchmark calls short: up to 32,000 words."""
    return documents.filter(lambda document: document["length"] == "short")
