"""Another kind of adapter, LoHa (Hyeon-Woo et al. 2022), added from outside: merged as PEFT merges it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from typing_extensions import override

from contextgraft.adapter.analysis.compare import compare
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.lora.config import LoraConfig
from contextgraft.adapter.lora.deltas import FullDelta, Read, TensorDelta
from contextgraft.adapter.lora.entries import AdapterEntry
from contextgraft.adapter.lora.kinds import KINDS, AdapterKind
from contextgraft.adapter.lora.vllm import audit_for_vllm
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.checkpoint.reader import read_tensor
from contextgraft.checkpoint.safetensors_header import TensorFile
from contextgraft.errors import CheckpointError
from contextgraft.formats.peft import PREFIX

FACTORS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


class HadamardConfig(LoraConfig):
    alpha: float = 8

    @override
    def scaling(self, module: str) -> float:
        return self.alpha / self.rank(module)


@dataclass(frozen=True)
class HadamardEntry(AdapterEntry):
    module: str

    @override
    def load(self, read: Read, scale: float, rows: Sequence[int] | None) -> TensorDelta:
        first_a, first_b, second_a, second_b = (read(f"{self.module}.{name}") for name in FACTORS)
        return FullDelta((first_a @ first_b) * (second_a @ second_b) * (self.scaling * scale))


def hadamard_entries(file: TensorFile, path: Path, config: HadamardConfig) -> dict[str, AdapterEntry]:
    modules = sorted({key.rpartition(".")[0] for key in file.tensors})
    entries: dict[str, AdapterEntry] = {}
    for module in modules:
        shape = file[f"{module}.hada_w1_a"].shape[0], file[f"{module}.hada_w1_b"].shape[1]
        name = module.removeprefix(PREFIX)
        entries[f"{name}.weight"] = HadamardEntry(shape, config.scaling(name), module)
    return entries


@pytest.fixture
def adapter(world: Any, tmp_path: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(world.target, dtype=torch.float32)
    config = LoHaConfig(r=4, alpha=6, target_modules=["q_proj", "down_proj"], init_weights=False)
    get_peft_model(model, config).save_pretrained(str(tmp_path / "loha"))
    return tmp_path / "loha"


def test_a_kind_without_a_row_is_refused(adapter: Path) -> None:
    with pytest.raises(CheckpointError, match="expected peft_type LORA; received LOHA"):
        open_adapter(adapter)


def test_a_kind_with_a_row_is_merged_as_peft_merges_it(
    world: Any, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "LOHA", AdapterKind(HadamardConfig, hadamard_entries))
    opened = open_adapter(adapter)
    merge(plan_merge([ScaledAdapter(opened)], world.target, keep_rope=True), tmp_path / "graft")
    model = AutoModelForCausalLM.from_pretrained(world.target, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict()
    graft = open_model(tmp_path / "graft")
    assert set(opened.entries) <= set(graft.tensors)
    assert opened.entries
    for name in opened.entries:
        ours = read_tensor(graft, name)
        torch.testing.assert_close(ours, theirs[name].to(ours.dtype))
    assert all((distance.relative or 0) < 1e-6 for distance in compare(opened, opened))
    assert "adapters of type LOHA are not supported" in audit_for_vllm(opened).problems
