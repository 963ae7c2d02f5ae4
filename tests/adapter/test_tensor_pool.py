"""Threads that compute tensors leave PyTorch with as many threads as it had."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from contextgraft.adapter.compute.tensor_pool import Buffers, for_each_tensor

COUNT = 3
ALONE = "import torch; print(torch.get_num_threads())"
IMPORTED_LATER = """
import sys
from contextgraft.adapter.compute.tensor_pool import for_each_tensor
assert "torch" not in sys.modules
seen = []
def compute(item, buffers):
    buffers.floats("values", 10)
    seen.append(sys.modules["torch"].get_num_threads())
for_each_tensor(compute, range(8), 2)
assert set(seen) == {1}
print(sys.modules["torch"].get_num_threads())
"""


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(COUNT)
    yield
    torch.set_num_threads(before)


def test_a_tensor_is_computed_in_one_thread_and_afterwards_the_number_is_as_before() -> None:
    seen = []

    def compute(_: int, buffers: Buffers) -> None:
        buffers.floats("values", 10)
        seen.append(torch.get_num_threads())

    for_each_tensor(compute, range(8), 2)
    assert (set(seen), torch.get_num_threads()) == ({1}, COUNT)


def test_the_number_is_as_before_after_an_error() -> None:
    def fail(_: int, buffers: Buffers) -> None:
        buffers.floats("values", 10)
        raise RuntimeError("expected")

    with pytest.raises(RuntimeError, match="expected"):
        for_each_tensor(fail, range(8), 2)
    assert torch.get_num_threads() == COUNT


def test_buffers_of_the_caller_do_not_change_the_number() -> None:
    Buffers().floats("values", 10)
    assert torch.get_num_threads() == COUNT


def test_torch_that_is_imported_by_a_thread_keeps_its_own_number() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    alone, later = (
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
        for code in (ALONE, IMPORTED_LATER)
    )
    assert later == alone
