"""Planning: every prompt once, nothing reused that is not there, and a grid for a fraction of its prefill."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextgraft.evaluation.backends.prefix_sharing import (
    PromptBatch,
    common_prefix,
    make_chains,
    plan_batches,
)

Prompts = list[tuple[int, ...]]


def computed(batches: list[PromptBatch]) -> int:
    return sum(batch.prefilled for batch in batches)


def grid(documents: int, depths: int, length: int, tail: int) -> Prompts:
    """Prompts of documents that share all but their last `tail` tokens."""
    return [
        (*[document] * (length - tail), *[100 + depth] * tail)
        for document in range(documents)
        for depth in range(depths)
    ]


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple), min_size=1, max_size=30),
    st.integers(1, 5),
    st.integers(1, 40),
    st.booleans(),
)
def test_every_prompt_is_computed_once_and_reuses_only_what_its_predecessor_begins_with(
    prompts: Prompts, batch_size: int, batch_tokens: int, share: bool
) -> None:
    batches = plan_batches(prompts, batch_size=batch_size, batch_tokens=batch_tokens, share=share)
    assert sorted(index for batch in batches for index in batch.indices) == list(range(len(prompts)))
    for batch in batches:
        longest = max(batch.chains[0].lengths)
        assert len(batch.chains) == 1 or len(batch.chains) <= batch_size
        assert len(batch.chains) == 1 or len(batch.chains) * longest <= batch_tokens
        assert batch.reused[0] == 0
        assert share or set(batch.reused) == {0}
        for chain in batch.chains:
            assert chain.lengths == batch.chains[0].lengths == tuple(len(prompts[p]) for p in chain.indices)
            for step in range(1, len(chain.indices)):
                before, here = prompts[chain.indices[step - 1]], prompts[chain.indices[step]]
                assert batch.reused[step] <= common_prefix(before, here)
                assert batch.reused[step] < len(here)


@given(st.lists(st.integers(0, 1), max_size=12), st.lists(st.integers(0, 1), max_size=12))
def test_the_common_beginning_is_the_longest(a: list[int], b: list[int]) -> None:
    count = common_prefix(a, b)
    assert a[:count] == b[:count]
    assert a[: count + 1] != b[: count + 1] or count == min(len(a), len(b))


def test_a_document_with_five_questions_is_computed_once() -> None:
    prompts = grid(documents=6, depths=5, length=1000, tail=8)
    batches = plan_batches(prompts, batch_size=64, batch_tokens=4096, share=True)
    assert computed(batches) == 6 * (1000 + 4 * 8)
    assert computed(batches) < len(prompts) * 1000 / 4
    assert [len(batch.chains) for batch in batches] == [4, 2]


def test_texts_that_agree_up_to_a_depth_share_that_much() -> None:
    # A needle at a quarter, a half, three quarters of one haystack: 25, 50 and 75 tokens are common_prefix.
    prompts = [(*range(100, 100 + cut), 7, *range(100 + cut, 199)) for cut in (0, 25, 50, 75, 99)]
    assert (
        computed(plan_batches(prompts, batch_size=8, batch_tokens=10_000, share=True))
        == 100 + 100 + 75 + 50 + 25
    )


def test_many_short_questions_after_the_same_examples_run_side_by_side() -> None:
    prompts = [(*range(500), *[1000 + n] * 50) for n in range(200)]
    chains = make_chains(prompts)
    assert len(chains) == 19
    assert max(len(chain.indices) for chain in chains) == 11
    assert sum(chain.prefilled for chain in chains) == 19 * 500 + 200 * 50


def test_the_same_prompt_twice_computes_its_last_token_again() -> None:
    batches = plan_batches([(1, 2, 3, 4)] * 3, batch_size=8, batch_tokens=100, share=True)
    assert computed(batches) == 4 + 1 + 1


def test_a_chain_that_reuses_little_does_not_spoil_a_batch() -> None:
    alike = grid(documents=3, depths=4, length=100, tail=5)
    other = [(*[50] * 40, *[60 + n] * 60) for n in range(4)]
    batches = plan_batches([*alike, *other], batch_size=8, batch_tokens=10_000, share=True)
    assert computed(batches) == 3 * 115 + 100 + 3 * 60
    assert sorted(len(batch.chains) for batch in batches) == [1, 3]


@pytest.mark.parametrize("share", [True, False])
def test_the_shortest_come_first(share: bool) -> None:
    batches = plan_batches([(1,) * 9, (2,) * 3, (3,) * 6], batch_size=8, batch_tokens=100, share=share)
    assert [batch.chains[0].lengths for batch in batches] == [(3,), (6,), (9,)]
