"""Four real models against numbers computed by hand, the derivation of each next to it."""

from typing import Any, NamedTuple

import pytest

from contextgraft.planning.flops import prefill_flops
from contextgraft.planning.hardware import Hardware
from contextgraft.planning.memory import (
    fewest_devices,
    held_bytes,
    kv_bytes,
    kv_bytes_per_token,
    weight_bytes,
)
from contextgraft.planning.shapes.model_shape import ModelShape

from .shapes import shape_of

LENGTHS = (131_072, 1_048_576)
LLAMA: dict[str, Any] = {"model_type": "llama", "torch_dtype": "bfloat16", "num_key_value_heads": 8}


class Expected(NamedTuple):
    """Numbers of one model; pairs are those of 131,072 and 1,048,576 tokens."""

    config: dict[str, Any]
    parameters: int
    kv_token: int
    kv: tuple[int, int]
    prefill: tuple[int, int]
    gpus: tuple[int, int]


MODELS = {
    # A layer: q and o 2 x 4096 x 4096, k and v 2 x 1024 x 4096, MLP 3 x 4096 x 14336, norms 2 x 4096
    # = 33,554,432 + 8,388,608 + 176,160,768 + 8,192 = 218,112,000; 32 of them; embeddings and output
    # 2 x 128256 x 4096 = 1,050,673,152; last norm 4,096.
    # Keys and values: 2 x 32 layers x 8 heads x 128 x 2 bytes = 131,072 a token.
    # Prefill: 2 x 8,030,261,248 x T + 2 x 32 x 4096 x T^2
    # = 2,105,084,804,595,712 + 4,503,599,627,370,496 at 131,072.
    # GPUs: 16.06 GB of weights + 17.18 GB = 33.2 GB; + 137.44 GB = 153.5 GB, in 72 GB of each.
    "Llama-3-8B": Expected(
        LLAMA | {
            "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
            "intermediate_size": 14336, "vocab_size": 128256,
        },
        parameters=8_030_261_248,
        kv_token=131_072,
        kv=(17_179_869_184, 137_438_953_472),
        prefill=(6_608_684_431_966_208, 305_071_054_588_477_440),
        gpus=(1, 3),
    ),
    # A layer: 2 x 8192 x 8192 + 2 x 1024 x 8192 + 3 x 8192 x 28672 + 2 x 8192
    # = 134,217,728 + 16,777,216 + 704,643,072 + 16,384 = 855,654,400; 80 of them; embeddings and output
    # 2 x 128256 x 8192 = 2,101,346,304; last norm 8,192.
    # Keys and values: 2 x 80 x 8 x 128 x 2 = 327,680 a token.
    # Prefill: 2 x 70,553,706,496 x T + 2 x 80 x 8192 x T^2
    # = 18,495,230,835,687,424 + 22,517,998,136,852,480 at 131,072.
    # GPUs: 141.1 + 42.9 = 184.1 GB; 141.1 + 343.6 = 484.7 GB, in 72 GB of each.
    "Llama-3-70B": Expected(
        LLAMA | {
            "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
            "intermediate_size": 28672, "vocab_size": 128256,
        },
        parameters=70_553_706_496,
        kv_token=327_680,
        kv=(42_949_672_960, 343_597_383_680),
        prefill=(41_013_228_972_539_904, 1_589_113_727_444_058_112),
        gpus=(3, 7),
    ),
    # Heads are wider than the hidden size: 16 x 128 = 2048. A layer: q and o 2 x 2048 x 1024, k and v
    # 2 x 1024 x 1024, MLP 3 x 1024 x 3072, norms 2 x 1024, norms of queries and keys 2 x 128
    # = 4,194,304 + 2,097,152 + 9,437,184 + 2,048 + 256 = 15,730,944; 28 of them; embeddings, tied,
    # 151936 x 1024 = 155,582,464; last norm 1,024.
    # Keys and values: 2 x 28 x 8 x 128 x 2 = 114,688 a token.
    # Prefill: 2 x 596,049,920 x T + 2 x 28 x 2048 x T^2
    # = 156,250,910,228,480 + 1,970,324,836,974,592 at 131,072. With the hidden size instead of
    # heads x head size attention would be half of that.
    # GPUs: 1.19 + 15.03 = 16.2 GB; 1.19 + 120.26 = 121.5 GB, in 72 GB of each.
    "Qwen3-0.6B": Expected(
        {
            "model_type": "qwen3", "torch_dtype": "bfloat16", "hidden_size": 1024, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072,
            "vocab_size": 151936, "tie_word_embeddings": True, "use_sliding_window": False,
            "sliding_window": None, "max_window_layers": 28,
        },
        parameters=596_049_920,
        kv_token=114_688,
        kv=(15_032_385_536, 120_259_084_288),
        prefill=(2_126_575_747_203_072, 127_350_796_848_201_728),
        gpus=(1, 2),
    ),
    # As Llama-3-8B with a vocabulary of 32000: 32 x 218,112,000 + 2 x 32000 x 4096 + 4,096.
    # Every layer keeps and sees 4,096 tokens: 4096 x 131,072 bytes whatever the length, and
    # w^2 + 2 w (T - w) = 4096^2 + 8192 x 126,976 = 1,056,964,608 instead of T^2 at 131,072.
    # Prefill: 2 x 7,241,732,096 x T + 2 x 32 x 4096 x 1,056,964,608
    # = 1,898,376,618,573,824 + 277,076,930,199,552 at 131,072.
    # GPUs: 14.48 + 0.54 = 15.0 GB at both lengths.
    "Mistral-7B-v0.1": Expected(
        LLAMA | {
            "model_type": "mistral", "sliding_window": 4096, "hidden_size": 4096, "num_hidden_layers": 32,
            "num_attention_heads": 32, "intermediate_size": 14336, "vocab_size": 32000,
        },
        parameters=7_241_732_096,
        kv_token=131_072,
        kv=(536_870_912, 536_870_912),
        prefill=(2_175_453_548_773_376, 17_434_414_715_764_736),
        gpus=(1, 1),
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[ModelShape, Expected]:
    expected = MODELS[request.param]
    return shape_of(expected.config), expected


def test_parameters(case: tuple[ModelShape, Expected]) -> None:
    shape, expected = case
    assert (shape.parameters, shape.active) == (expected.parameters, expected.parameters)
    assert weight_bytes(shape) == 2 * expected.parameters


def test_keys_and_values(case: tuple[ModelShape, Expected]) -> None:
    shape, expected = case
    assert kv_bytes_per_token(shape) == expected.kv_token
    assert tuple(kv_bytes(shape, length) for length in LENGTHS) == expected.kv


def test_prefill_operations(case: tuple[ModelShape, Expected]) -> None:
    shape, expected = case
    assert tuple(prefill_flops(shape, 0, length) for length in LENGTHS) == expected.prefill


def test_devices_of_80_gb(case: tuple[ModelShape, Expected]) -> None:
    shape, expected = case
    counts = tuple(fewest_devices(held_bytes(shape, length), Hardware(memory=80e9)) for length in LENGTHS)
    assert counts == expected.gpus
