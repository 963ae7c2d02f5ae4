"""Requests against published sizes, and their behaviour at the limits."""

import json
from pathlib import Path
from typing import Any

import pytest

from contextgraft.config.cluster import Cluster
from contextgraft.config.training import Stage
from contextgraft.errors import ConfigError, InputError
from contextgraft.planning import inference, slurm
from contextgraft.planning import shape as plan_shape
from contextgraft.planning.model_shape import Shape, read_shape
from contextgraft.planning.slurm import Questions, Request

LLAMA_8B = Shape(32, 4096, 14336, 32, 8, 128, 128256, tied=False)
LLAMA_70B = Shape(80, 8192, 28672, 64, 8, 128, 128256, tied=False)
TINY = Shape(2, 16, 24, 2, 1, 8, 18, tied=True)
GPUS = Cluster(gpus_per_node=8)
CONFIG = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def test_published_numbers_of_parameters_and_of_cache() -> None:
    assert (LLAMA_8B.parameters, LLAMA_70B.parameters) == (8030261248, 70553706496)
    assert (LLAMA_8B.kv_token, LLAMA_70B.kv_token) == (131072, 327680)


@pytest.mark.parametrize(("name", "shape"), [("llama3-8b", LLAMA_8B), ("llama3-70b", LLAMA_70B)])
def test_the_arithmetic_is_that_of_plan(name: str, shape: Shape) -> None:
    planned = plan_shape.read_shape(name, "auto")
    assert read_shape(plan_shape.shipped()[name]) == shape
    assert shape.parameters == planned.parameters
    assert shape.size == inference.weight_bytes(planned)
    assert shape.kv_token == inference.kv_bytes_per_token(planned)
    assert slurm.prefill(shape, 2**20) == inference.prefill_flops(planned, 0, 2**20)


def test_a_shape_is_read_from_a_folder_and_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert read_shape(tmp_path) == read_shape(tmp_path / "config.json") == LLAMA_8B


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not a model's config.json"),
        (json.dumps(CONFIG | {"vocab_size": 0}), "vocab_size: 0"),
        (json.dumps(CONFIG | {"hidden_size": "4096"}), "hidden_size: '4096'"),
    ],
)
def test_a_config_without_a_shape_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json") as caught:
        read_shape(tmp_path)
    assert words in str(caught.value)


def test_a_config_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the shape"):
        read_shape(tmp_path)


def test_streaming_steps_take_the_same_memory_whatever_the_model() -> None:
    for shape in (TINY, LLAMA_8B, LLAMA_70B):
        asked = [
            slurm.fetch(shape, GPUS),
            slurm.extract(shape, GPUS, [32], threads=4),
            slurm.merge(shape, GPUS, threads=4),
        ]
        assert {(one.mem_mb, one.gpus, one.nodes) for one in asked} == {(4000, 0, 1)}


def test_time_grows_with_the_model_and_with_the_rank() -> None:
    small = slurm.extract(LLAMA_8B, GPUS, [32], threads=4)
    large = slurm.extract(LLAMA_70B, GPUS, [32], threads=4)
    assert small.minutes < large.minutes
    assert large.minutes < slurm.extract(LLAMA_70B, GPUS, [1024], threads=4).minutes


@pytest.mark.parametrize(
    ("shape", "length", "gpus"),
    [(LLAMA_8B, 8192, 1), (LLAMA_8B, 2**20, 4), (LLAMA_70B, 8192, 4), (LLAMA_70B, 2**20, 8)],
)
def test_evaluation_takes_the_gpus_that_hold_weights_and_cache(shape: Shape, length: int, gpus: int) -> None:
    asked = slurm.evaluate(shape, GPUS, Questions({length: 1}, models=1), threads=1)
    assert (asked.gpus, asked.nodes) == (gpus, 1)
    assert asked.gpus * GPUS.gpu_memory * 1e9 > shape.size + shape.kv_token * length


def test_evaluation_that_no_node_can_hold_is_refused() -> None:
    asked = Questions({2**22: 1}, models=1)
    with pytest.raises(ConfigError, match="need the memory of 32 GPUs"):
        slurm.evaluate(LLAMA_70B, GPUS, asked, threads=1)


@pytest.mark.parametrize(("shape", "nodes"), [(TINY, 1), (LLAMA_8B, 1), (LLAMA_70B, 4)])
def test_training_takes_whole_nodes_beyond_one(shape: Shape, nodes: int) -> None:
    asked = slurm.train(shape, GPUS, [Stage(length=2**19, steps=1, tokens=2**19)], threads=1)
    assert asked.nodes == nodes
    assert nodes == 1 or asked.gpus == nodes * GPUS.gpus_per_node


def test_without_gpus_nothing_asks_for_one() -> None:
    plain = Cluster()
    stages = [Stage(length=64, steps=2, tokens=64)]
    asked = Questions({64: 1}, models=3)
    for one in (
        slurm.train(TINY, plain, stages, threads=1),
        slurm.evaluate(TINY, plain, asked, threads=1),
    ):
        assert one.gpus == 0
        assert slurm.slurm(one)["gpu"] is None


def test_a_later_attempt_asks_for_more_up_to_the_limits() -> None:
    asked = Request(mem_mb=4000, minutes=30)
    assert asked.again(1, GPUS) == asked
    assert asked.again(2, GPUS) == Request(mem_mb=8000, minutes=60)
    assert asked.again(10**6, GPUS) == Request(mem_mb=500_000, minutes=GPUS.longest)


def test_no_request_is_larger_than_a_node_or_longer_than_the_partition_allows() -> None:
    small = Cluster(gpus_per_node=8, node_memory=64, longest=60)
    asked = slurm.train(LLAMA_70B, small, [Stage(length=2**19, steps=9, tokens=2**19)], threads=1)
    assert (asked.mem_mb, asked.minutes) == (64_000, 60)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Request(4000, 10), {"mem_mb": 4000, "runtime": 10}),
        (Request(4000, 10, gpus=2), {"mem_mb": 4000, "runtime": 10, "gpu": 2}),
        (
            Request(9000, 10, gpus=16, nodes=2),
            {
                "mem_mb": 9000,
                "runtime": 10,
                "nodes": 2,
                "tasks": 2,
                "tasks_per_gpu": 0,
                "gres": "gpu:8",
                "mpi": "srun",
            },
        ),
    ],
)
def test_words_of_the_slurm_plugin(asked: Request, words: dict[str, Any]) -> None:
    assert {name: value for name, value in slurm.slurm(asked).items() if value is not None} == words
