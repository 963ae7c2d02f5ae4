"""A digest of all other bytes of a Parquet file, inside it: page checksums leave out headers and the footer.

It is between the last page and the footer, where readers do not look: positions of pages are counted from the
file's beginning. It does not depend on the version or the settings of the library that wrote the file.
"""

from contextgraft.checkpoint.digest import hasher

MARK = b"contextgraft blake3 "
SIZE = len(MARK) + 32
TAIL = 8  # the footer's size, four bytes, and PAR1


def with_digest(raw: bytes) -> bytes:
    """The bytes of a Parquet file with their digest."""
    start = _footer(raw)
    return b"".join((raw[:start], MARK, _digest(raw[:start], raw[start:]), raw[start:]))


def is_spoiled(raw: bytes) -> bool:
    """Whether a Parquet file has a digest, which is not that of its other bytes; older ones have none."""
    start = _footer(raw)
    before, mark = raw[: max(start - SIZE, 0)], raw[max(start - SIZE, 0) : start]
    return mark.startswith(MARK) and mark != MARK + _digest(before, raw[start:])


def _footer(raw: bytes) -> int:
    """Where the footer begins."""
    return max(len(raw) - TAIL - int.from_bytes(raw[-TAIL:-4], "little"), 0)


def _digest(*blocks: bytes) -> bytes:
    digest = hasher()
    for block in blocks:
        digest.update(block)
    return bytes(digest.digest())
