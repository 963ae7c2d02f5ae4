"""Lists of token ids: the type of an encoder, and the two ways in which pieces of text are joined."""

from collections.abc import Callable, Sequence

Encode = Callable[[str], list[int]]


def cycle_tokens(ids: Sequence[int], offset: int, count: int) -> list[int]:
    """`count` ids from index `offset` on; after the last id the list starts again."""
    first = list(ids[offset : offset + count])
    while len(first) < count:
        first.extend(ids[: count - len(first)])
    return first


def prompt_ending(encode: Encode, question: str, lead: str, suffix_ids: Sequence[int]) -> list[int]:
    """The end of a prompt: the question, then `lead`, which begins the answer.

    `suffix_ids` end the user's turn of a chat; the lead stands behind them, in the assistant's turn.
    """
    if not suffix_ids:
        return encode(f"{question}{lead}")
    return [*encode(question), *suffix_ids, *(encode(lead.lstrip()) if lead.strip() else ())]


def interleave(filler: Sequence[int], inserts: Sequence[tuple[int, Sequence[int]]]) -> list[int]:
    """`filler` with each insert, an (index, ids) pair, placed before filler[index]; indices ascend."""
    out: list[int] = []
    start = 0
    for index, ids in inserts:
        out.extend(filler[start:index])
        out.extend(ids)
        start = index
    out.extend(filler[start:])
    return out
