"""The formulas against the published figures and against models that are really built."""

import math

import pytest

from contextgraft.planning import memory
from contextgraft.planning.flops import prefill_flops, training_flops
from contextgraft.planning.hardware import Hardware
from contextgraft.planning.shapes.model_shape import ModelShape

from .shapes import LLAMA_8B, LLAMA_70B, made_up

MILLION = 2**20
GIB = 2**30
TOY = made_up("toy", None, None, None)
WINDOWED = made_up("windowed", None, 16, 16)
SLOW = Hardware(flops=2e9, utilisation=0.5, bandwidth=1e6, memory=1e4)


def test_parameters_of_the_published_models() -> None:
    assert (LLAMA_8B.parameters, LLAMA_70B.parameters) == (8_030_261_248, 70_553_706_496)
    assert memory.weight_bytes(LLAMA_8B) == 16_060_522_496  # the total_size of its safetensors index


def test_keys_and_values_at_a_million_tokens() -> None:
    assert memory.kv_bytes_per_token(LLAMA_8B) == 131_072
    assert memory.kv_bytes_per_token(LLAMA_70B) == 327_680
    assert memory.kv_bytes(LLAMA_8B, MILLION) == 128 * GIB
    assert memory.kv_bytes(LLAMA_70B, MILLION) == 320 * GIB


def test_prefill_is_the_formula() -> None:
    for shape, layers, width in ((LLAMA_8B, 32, 4096), (LLAMA_70B, 80, 8192)):
        expected = 2 * shape.parameters * MILLION + 2 * layers * width * MILLION**2
        assert prefill_flops(shape, 0, MILLION) == expected
    # at 400 TFLOP/s one prefill of a million tokens takes 763 s and 3,973 s
    device = Hardware(flops=400e12, utilisation=1.0)
    hours = [device.compute_hours(prefill_flops(shape, 0, MILLION)) for shape in (LLAMA_8B, LLAMA_70B)]
    assert [round(3600 * count) for count in hours] == [763, 3973]


def test_devices_for_a_million_tokens() -> None:
    held = [memory.held_bytes(shape, MILLION) for shape in (LLAMA_8B, LLAMA_70B)]
    assert [memory.fewest_devices(count, Hardware()) for count in held] == [3, 7]


def test_recomputing_adds_a_forward_pass_and_frozen_weights_have_no_gradient() -> None:
    length = 131_072
    forward = prefill_flops(LLAMA_8B, 0, length)
    assert training_flops(LLAMA_8B, length, frozen_weights=False, recompute=False) == 3 * forward
    assert training_flops(LLAMA_8B, length, frozen_weights=False, recompute=True) == 4 * forward
    attention = 2 * 32 * 4096 * length**2
    selective = training_flops(LLAMA_8B, length, frozen_weights=False, recompute="selective")
    assert selective == 4 * forward - attention
    saved = 2 * LLAMA_8B.parameters * length
    assert training_flops(LLAMA_8B, length, frozen_weights=True, recompute=False) == 3 * forward - saved


@pytest.mark.parametrize("shape", [TOY, WINDOWED], ids=lambda shape: shape.name)
def test_what_is_read_in_pieces_costs_what_the_whole_costs(shape: ModelShape) -> None:
    for cut in (0, 1, 15, 16, 17, 100):
        pieces = prefill_flops(shape, 0, cut) + prefill_flops(shape, cut, 100)
        assert pieces == prefill_flops(shape, 0, 100)


def test_pairs_are_counted_up_to_the_diagonal() -> None:
    """Brute force: position i of a layer with window w sees min(i + 1, w) positions, itself included."""
    length = 100
    for window in (None, 1, 16, 99, 100, 1000):
        shape = ModelShape(
            "one", hidden=1, intermediate=1, heads=1, kv_heads=1, head_dim=1, vocabulary=1,
            windows=(window,), tensors={},
        )  # fmt: skip
        pairs = sum(min(i + 1, window or length) for i in range(length))
        assert abs(prefill_flops(shape, 0, length) - 4 * pairs) <= 2 * length


def test_a_window_bounds_the_memory_and_ends_sharing() -> None:
    assert memory.kv_bytes(WINDOWED, 10) == memory.kv_bytes(TOY, 10) == 10 * memory.kv_bytes_per_token(TOY)
    assert memory.kv_bytes(WINDOWED, 100) == (100 + 16 + 16) * 2 * 2 * 4 * 2
    assert memory.kv_bytes_per_token(WINDOWED) == memory.kv_bytes_per_token(TOY)
    assert (TOY.shares_prefixes, WINDOWED.shares_prefixes) == (True, False)


def test_each_written_token_reads_weights_and_cache() -> None:
    assert memory.decode_bytes(TOY, 50, 3) == 3 * (2000 + memory.kv_bytes(TOY, 50))
    assert SLOW.read_hours(3.6e9) == 1.0


def test_devices_round_up() -> None:
    counts = [memory.fewest_devices(memory.held_bytes(TOY, length), SLOW) for length in (1, 100, 200)]
    assert counts == [math.ceil((2000 + cache) / 9000) for cache in (96, 9600, 19200)] == [1, 2, 3]
    assert memory.fewest_devices(0, SLOW) == 1
