"""How an output is compared with the answer that was expected. Pure."""

from collections.abc import Callable


def exact(output: str, answer: str) -> float:
    """1 if both are the same words; the space around and between them does not count."""
    return float(output.split() == answer.split())


def contains(output: str, answer: str) -> float:
    """1 if the answer occurs in the output, in upper or lower case: RULER's recall of a single answer."""
    return float(" ".join(answer.lower().split()) in " ".join(output.lower().split()))


SCORING: dict[str, Callable[[str, str], float]] = {"exact": exact, "contains": contains}
