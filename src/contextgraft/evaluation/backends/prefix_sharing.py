"""Which prompts share the prefill of a common prefix, and which run in parallel. Pure.

Prompts are sorted by their ids, so that those with a common prefix are neighbours, and split into chains:
each prompt of a chain reuses what its predecessor computed, up to the first token in which both differ.
Chains of the same lengths run as one batch, so nothing is ever padded.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

MIN_SHARED_FRACTION = 0.25  # of a prompt; if less is shared, running in parallel is faster
MIN_CHAIN_LENGTH = 8  # prompts; so few one after another take little time even on fast devices
MAX_OVERHEAD = 1.125  # a batch may compute this many times what its chains would, each with its own reuse

Ids = Sequence[int]


@dataclass(frozen=True)
class PrefixChain:
    """Indices of prompts in processing order, and how many tokens each reuses (the first reuses none)."""

    indices: tuple[int, ...]
    lengths: tuple[int, ...]
    reused: tuple[int, ...]

    @property
    def prefilled(self) -> int:
        """Prompt tokens that are computed."""
        return sum(self.lengths) - sum(self.reused)


@dataclass(frozen=True)
class PromptBatch:
    """Chains of equal lengths that run in parallel; `reused` holds for all of them."""

    chains: tuple[PrefixChain, ...]
    reused: tuple[int, ...]

    @property
    def indices(self) -> tuple[int, ...]:
        """Indices of all its prompts, chain by chain."""
        return tuple(index for chain in self.chains for index in chain.indices)

    @property
    def prefilled(self) -> int:
        """Prompt tokens that are computed."""
        return len(self.chains) * (sum(self.chains[0].lengths) - sum(self.reused))


def plan_batches(
    prompts: Sequence[Ids], *, batch_size: int, batch_tokens: int, share: bool
) -> list[PromptBatch]:
    """Batches of all prompts, the shortest first; at most `batch_size` chains and `batch_tokens` in each.

    Without `share` every prompt is a chain of its own.
    """
    groups: dict[tuple[int, ...], list[PrefixChain]] = defaultdict(list)
    single = [PrefixChain((index,), (len(ids),), (0,)) for index, ids in enumerate(prompts)]
    for chain in make_chains(prompts) if share else single:
        groups[chain.lengths].append(chain)
    batches: list[PromptBatch] = []
    for lengths in sorted(groups, key=lambda lengths: (max(lengths), lengths)):
        most = max(1, min(batch_size, batch_tokens // max(lengths)))
        batches += make_batches(groups[lengths], most)
    return batches


def make_chains(prompts: Sequence[Ids]) -> list[PrefixChain]:
    """Prompts with a common prefix, as chains long enough to save prefill and short enough to batch."""
    order = sorted(range(len(prompts)), key=lambda index: tuple(prompts[index]))
    # At least the last token of a prompt is computed: its logits give the first token of the response.
    reuse = [min(common_prefix(prompts[a], prompts[b]), len(prompts[b]) - 1) for a, b in pairwise(order)]
    chains: list[PrefixChain] = []
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or reuse[end - 1] < MIN_SHARED_FRACTION * len(prompts[order[end]]):
            indices = order[start:end]
            lengths = [len(prompts[index]) for index in indices]
            chains += split_chain(PrefixChain(tuple(indices), tuple(lengths), (0, *reuse[start : end - 1])))
            start = end
    return chains


def common_prefix(a: Ids, b: Ids) -> int:
    """How many ids both begin with."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # a[:low] equals b[:low]; comparing slices is fast, comparing ids one by one is not
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def split_chain(chain: PrefixChain) -> Iterator[PrefixChain]:
    """Pieces that compute no more for repeated prefixes than for the rest; chains of few prompts stay whole.

    The few questions about a long text stay in one chain; many short questions after the same few-shot
    examples are split and run in parallel.
    """
    shared = min(chain.reused[1:], default=0)
    rest = chain.prefilled - chain.lengths[0]
    count = len(chain.indices)
    pieces = max(1, min(count // MIN_CHAIN_LENGTH, rest // shared)) if shared else 1
    size = -(-count // pieces)
    for start in range(0, count, size):
        span = slice(start, start + size)
        yield PrefixChain(chain.indices[span], chain.lengths[span], (0, *chain.reused[span][1:]))


def make_batches(chains: Sequence[PrefixChain], most: int) -> Iterator[PromptBatch]:
    """Chains of equal lengths in batches of at most `most`, those with similar reuse in the same batch."""
    current: list[PrefixChain] = []
    for chain in sorted(chains, key=lambda chain: chain.reused):
        if current and (len(current) == most or exceeds_overhead([*current, chain])):
            yield PromptBatch(tuple(current), shared_reuse(current))
            current = []
        current.append(chain)
    if current:
        yield PromptBatch(tuple(current), shared_reuse(current))


def exceeds_overhead(chains: Sequence[PrefixChain]) -> bool:
    """Whether the chains as one batch would compute far more than each of them with its own reuse."""
    computed = PromptBatch(tuple(chains), shared_reuse(chains)).prefilled
    return computed > MAX_OVERHEAD * sum(chain.prefilled for chain in chains)


def shared_reuse(chains: Sequence[PrefixChain]) -> tuple[int, ...]:
    """What every one of the chains can reuse, prompt by prompt."""
    return tuple(map(min, zip(*(chain.reused for chain in chains), strict=True)))
