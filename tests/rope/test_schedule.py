"""Theta of longer contexts: the published integers, and what a rule must refuse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextgraft.errors import InputError
from contextgraft.rope.schedule import RULES, absolute, progressive

GRADIENT = [65536, 262144, 524288]


def test_progressive_reproduces_the_published_integers() -> None:
    assert RULES["progressive"](500000, 8192, GRADIENT, 128) == [15296098, 207112184, 1062356830]


def test_progressive_in_one_jump() -> None:
    assert progressive(207112184, 262144, 1048576, 128) == 2804339835


def test_absolute_reproduces_the_published_integers() -> None:
    assert RULES["absolute"](500000, 8192, [2**20, 2**22], 128) == [3580165449, 45218125210]


@given(st.integers(1000, 10**7), st.integers(64, 2**20), st.integers(1, 64), st.sampled_from([32, 64, 128]))
def test_theta_grows_with_the_context(theta: int, length: int, factor: int, head_dim: int) -> None:
    assert progressive(theta, length, length * factor, head_dim) >= theta
    assert absolute(theta, length, length * factor) >= theta


@given(st.integers(1000, 10**7), st.integers(64, 2**20))
def test_the_same_context_keeps_theta(theta: int, length: int) -> None:
    assert progressive(theta, length, length, 64) == theta
    assert absolute(theta, length, length) == theta


def test_refusals() -> None:
    with pytest.raises(InputError, match="must not become shorter"):
        progressive(10000, 1024, 512, 64)
    with pytest.raises(InputError, match="head dimension"):
        progressive(10000, 512, 1024, 2)
    with pytest.raises(InputError, match="too short"):
        absolute(10000, 6, 1024)
