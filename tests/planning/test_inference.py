"""The formulas against the published figures and against models that are really built."""

import math

import pytest

from contextgraft.planning import inference
from contextgraft.planning.inference import Device, Shape
from contextgraft.planning.shape import read_shape

MILLION = 2**20
GIB = 2**30
TOY = Shape("toy", 1000, 1000, 8, 2, 4, (None, None, None), "bfloat16")
WINDOWED = Shape("windowed", 1000, 1000, 8, 2, 4, (None, 16, 16), "bfloat16")
ONE = Device(flops=2e9, utilisation=0.5, bandwidth=1e6, memory=1e4, usable=0.5)


@pytest.fixture(scope="module")
def small() -> Shape:
    return read_shape("llama3-8b", "auto")


@pytest.fixture(scope="module")
def large() -> Shape:
    return read_shape("llama3-70b", "auto")


def test_parameters_of_the_published_models(small: Shape, large: Shape) -> None:
    assert (small.parameters, large.parameters) == (8_030_261_248, 70_553_706_496)
    assert inference.weight_bytes(small) == 16_060_522_496  # the total_size of its safetensors index


def test_keys_and_values_at_a_million_tokens(small: Shape, large: Shape) -> None:
    assert inference.kv_bytes_per_token(small) == 131_072
    assert inference.kv_bytes_per_token(large) == 327_680
    assert inference.kv_bytes(small, MILLION) == 128 * GIB
    assert inference.kv_bytes(large, MILLION) == 320 * GIB


def test_prefill_is_the_formula(small: Shape, large: Shape) -> None:
    for shape, layers, width in ((small, 32, 4096), (large, 80, 8192)):
        expected = 2 * shape.parameters * MILLION + 2 * layers * width * MILLION**2
        assert inference.prefill_flops(shape, 0, MILLION) == expected
    # at 400 TFLOP/s one prefill of a million tokens takes 763 s and 3,973 s
    device = Device(400e12, 1.0, 1.0, 1.0)
    hours = [
        inference.prefill_hours(inference.prefill_flops(shape, 0, MILLION), device)
        for shape in (small, large)
    ]
    assert [round(3600 * each) for each in hours] == [763, 3973]


def test_devices_for_a_million_tokens(small: Shape, large: Shape) -> None:
    h100 = Device(989e12, 0.4, 3.35e12, 80e9)
    assert [inference.gpus(shape, MILLION, h100) for shape in (small, large)] == [3, 7]


@pytest.mark.parametrize("shape", [TOY, WINDOWED], ids=lambda shape: shape.name)
def test_what_is_read_in_pieces_costs_what_the_whole_costs(shape: Shape) -> None:
    for cut in (0, 1, 15, 16, 17, 100):
        pieces = inference.prefill_flops(shape, 0, cut) + inference.prefill_flops(shape, cut, 100)
        assert pieces == inference.prefill_flops(shape, 0, 100)


def test_pairs_are_counted_up_to_the_diagonal() -> None:
    """Brute force: position i of a layer with window w sees min(i + 1, w) positions, itself included."""
    length = 100
    for window in (None, 1, 16, 99, 100, 1000):
        shape = Shape("one", 0, 0, 1, 1, 1, (window,), "bfloat16")
        pairs = sum(min(i + 1, window or length) for i in range(length))
        assert abs(inference.prefill_flops(shape, 0, length) - 4 * pairs) <= 2 * length


def test_a_window_bounds_the_memory_and_ends_sharing() -> None:
    assert (
        inference.kv_bytes(WINDOWED, 10)
        == inference.kv_bytes(TOY, 10)
        == 10 * inference.kv_bytes_per_token(TOY)
    )
    assert inference.kv_bytes(WINDOWED, 100) == (100 + 16 + 16) * 2 * 2 * 4 * 2
    assert inference.kv_bytes_per_token(WINDOWED) == inference.kv_bytes_per_token(TOY)
    assert (TOY.shares, WINDOWED.shares) == (True, False)


def test_each_written_token_reads_weights_and_cache() -> None:
    assert inference.decode_bytes(TOY, 50, 3) == 3 * (2000 + inference.kv_bytes(TOY, 50))
    assert inference.decode_hours(3.6e9, ONE) == 1.0


def test_devices_round_up() -> None:
    assert inference.gpus(TOY, 1, ONE) == math.ceil((2000 + 96) / 5000) == 1
    assert inference.gpus(TOY, 100, ONE) == math.ceil((2000 + 9600) / 5000) == 3
