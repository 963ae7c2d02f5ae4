"""Which prompts share the prefill of a common beginning, and which are worked through side by side. Pure.

Prompts are ordered by their ids, so that those with a common beginning are neighbours, and cut into chains:
each prompt of a chain reuses what its predecessor computed, as far as both agree. Chains of the same lengths
run as one batch, so nothing is ever padded.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

LEAST_SHARE = 0.25  # of a prompt; sharing less is worth less than running side by side
LEAST_CHAIN = 8  # prompts; so few one after the other cost little time even where computing is fast
MOST_SPOILT = 1.125  # a batch may cost this much more than its chains would, each with its own reuse

Ids = Sequence[int]


@dataclass(frozen=True)
class Chain:
    """Places of prompts in their list, in working order, and how many tokens each reuses (the first none)."""

    places: tuple[int, ...]
    lengths: tuple[int, ...]
    reused: tuple[int, ...]

    @property
    def prefilled(self) -> int:
        """Prompt tokens that are computed."""
        return sum(self.lengths) - sum(self.reused)


@dataclass(frozen=True)
class Batch:
    """Chains of equal lengths that go side by side; `reused` holds for all of them."""

    chains: tuple[Chain, ...]
    reused: tuple[int, ...]

    @property
    def places(self) -> tuple[int, ...]:
        """Places of all its prompts, chain by chain."""
        return tuple(place for chain in self.chains for place in chain.places)

    @property
    def prefilled(self) -> int:
        """Prompt tokens that are computed."""
        return len(self.chains) * (sum(self.chains[0].lengths) - sum(self.reused))


def plan(prompts: Sequence[Ids], *, batch_size: int, batch_tokens: int, share: bool) -> list[Batch]:
    """Every prompt in one batch, the shortest first; at most `batch_size` chains and `batch_tokens` at once.

    Without `share` every prompt is a chain of its own.
    """
    groups: dict[tuple[int, ...], list[Chain]] = defaultdict(list)
    for chain in make_chains(prompts) if share else singles(prompts):
        groups[chain.lengths].append(chain)
    batches: list[Batch] = []
    for lengths in sorted(groups, key=lambda each: (max(each), each)):
        most = max(1, min(batch_size, batch_tokens // max(lengths)))
        batches += make_batches(groups[lengths], most)
    return batches


def singles(prompts: Sequence[Ids]) -> list[Chain]:
    """Chains of one prompt."""
    return [Chain((place,), (len(ids),), (0,)) for place, ids in enumerate(prompts)]


def make_chains(prompts: Sequence[Ids]) -> list[Chain]:
    """Prompts with a common beginning, as chains that are long enough to save and short enough to batch."""
    order = sorted(range(len(prompts)), key=lambda place: tuple(prompts[place]))
    # At least the last token of a prompt is computed: its logits begin the answer.
    reuse = [min(common(prompts[a], prompts[b]), len(prompts[b]) - 1) for a, b in pairwise(order)]
    chains: list[Chain] = []
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or reuse[end - 1] < LEAST_SHARE * len(prompts[order[end]]):
            places = order[start:end]
            lengths = [len(prompts[place]) for place in places]
            chains += split(Chain(tuple(places), tuple(lengths), (0, *reuse[start : end - 1])))
            start = end
    return chains


def common(a: Ids, b: Ids) -> int:
    """How many ids both begin with."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # a[:low] equals b[:low]; comparing slices is quick, comparing ids one by one is not
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def split(chain: Chain) -> Iterator[Chain]:
    """As many pieces as cost no more in repeated beginnings than the rest costs anyway, none of few prompts.

    The few questions about a long text stay together; many short ones after the same examples do not, and run
    side by side.
    """
    shared = min(chain.reused[1:], default=0)
    rest = chain.prefilled - chain.lengths[0]
    count = len(chain.places)
    pieces = max(1, min(count // LEAST_CHAIN, rest // shared)) if shared else 1
    size = -(-count // pieces)
    for start in range(0, count, size):
        span = slice(start, start + size)
        yield Chain(chain.places[span], chain.lengths[span], (0, *chain.reused[span][1:]))


def make_batches(chains: Sequence[Chain], most: int) -> Iterator[Batch]:
    """Chains of equal lengths in batches of at most `most`, those that reuse alike together."""
    current: list[Chain] = []
    for chain in sorted(chains, key=lambda each: each.reused):
        if current and (len(current) == most or spoils(current, chain)):
            yield Batch(tuple(current), least(current))
            current = []
        current.append(chain)
    if current:
        yield Batch(tuple(current), least(current))


def spoils(current: Sequence[Chain], chain: Chain) -> bool:
    """Whether the batch would compute far more with this chain in it than its chains do apart."""
    together = [*current, chain]
    computed = Batch(tuple(together), least(together)).prefilled
    return computed > MOST_SPOILT * sum(each.prefilled for each in together)


def least(chains: Sequence[Chain]) -> tuple[int, ...]:
    """What every one of the chains can reuse, prompt by prompt."""
    return tuple(map(min, zip(*(chain.reused for chain in chains), strict=True)))
