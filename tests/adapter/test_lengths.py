"""The length of a graft's context where older files have it: as transformers reads the graft."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import GenerationConfig, LlamaConfig

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.adapter.verify.graft import verify


def copy_of(model: Path, toy: SimpleNamespace, folder: Path) -> Path:
    target = folder / "target"
    target.mkdir()
    for name, data in toy.contents(model).items():
        (target / name).write_bytes(data)
    return target


@pytest.mark.parametrize(("before", "after"), [(64, 1024), (4096, 4096), (None, None)])
def test_a_generation_config_lets_prompts_be_as_long_as_the_context(
    before: int | None, after: int | None, world: Any, toy: SimpleNamespace, tmp_path: Path
) -> None:
    target = copy_of(world.target, toy, tmp_path)
    length = {} if before is None else {"max_length": before}
    (target / "generation_config.json").write_text(json.dumps({"eos_token_id": 5, **length}))
    merge(plan_merge([ScaledAdapter(open_adapter(world.adapters / "r4"))], target), tmp_path / "graft")
    read = GenerationConfig.from_pretrained(tmp_path / "graft")
    assert (read.max_length, read.eos_token_id) == (after, 5)


@pytest.mark.parametrize(("before", "after"), [(64, 1024), (4096, 4096), (None, None)])
def test_texts_to_embed_are_not_cut_before_the_end_of_the_context(
    before: int | None, after: int | None, world: Any, toy: SimpleNamespace, tmp_path: Path
) -> None:
    """By sentence-transformers, which reads `max_seq_length`, and takes the tokenizer's length for null."""
    target = copy_of(world.target, toy, tmp_path)
    name, adapter = "sentence_bert_config.json", world.adapters / "r4"
    (target / name).write_text(json.dumps({"max_seq_length": before, "do_lower_case": False}))
    merge(plan_merge([ScaledAdapter(open_adapter(adapter))], target), tmp_path / "graft")
    read = json.loads((tmp_path / "graft" / name).read_text())
    assert read == {"max_seq_length": after, "do_lower_case": False}
    assert all(check.holds for check in verify(tmp_path / "graft", target=target, adapters=[adapter]))


def test_a_config_of_llama_1_has_the_length_of_its_class(toy: SimpleNamespace, tmp_path: Path) -> None:
    """It has `max_sequence_length` only, which transformers does not read: its class takes 2048."""
    config = {key: value for key, value in toy.config().items() if key != "max_position_embeddings"}
    old = {**config, "max_sequence_length": 2048}
    weights = toy.weights(old)
    toy.write(tmp_path / "base", weights, old)
    toy.write(
        tmp_path / "donor", toy.moved(weights, 1),
        {**config, "rope_theta": 4e4, "max_position_embeddings": 8192},
    )  # fmt: skip
    assert LlamaConfig.from_pretrained(tmp_path / "base").max_position_embeddings == 2048
    extract(open_pair(tmp_path / "base", tmp_path / "donor"), [RankSpec(4)], tmp_path)
    adapter = open_adapter(tmp_path / "r4")
    assert adapter.sidecar is not None
    assert [adapter.sidecar["rope"][side]["max_positions"] for side in ("base", "donor")] == [2048, 8192]
    merge(plan_merge([ScaledAdapter(adapter)], tmp_path / "base"), tmp_path / "graft")
    graft = LlamaConfig.from_pretrained(tmp_path / "graft")
    assert (graft.max_position_embeddings, graft.max_sequence_length) == (8192, 8192)
    assert graft.rope_parameters["rope_theta"] == 4e4
