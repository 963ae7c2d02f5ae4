"""Of several weight files in a folder, a merge takes the one that transformers takes."""

from pathlib import Path
from types import SimpleNamespace

import torch
from peft import PeftModel
from safetensors.torch import save_file
from tests.adapter.test_heads_and_tokens import loaded, logits, trained

from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.checkpoint.model_folder import open_model


def test_the_single_file_counts(toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config()
    old, new = (toy.weights(config, seed=seed, dtype=torch.float32) for seed in (0, 1))
    folder = toy.write(tmp_path / "tune", old, config, 3)
    save_file(new, folder / "model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text("{}")
    (folder / "checkpoint-5").mkdir()
    for name in ("optimizer.pt", "config.json"):
        (folder / "checkpoint-5" / name).write_text("{}")
    model = open_model(folder)
    assert model.shards == ("model.safetensors",)
    plain = toy.write(tmp_path / "plain", new, config)
    trained(plain, tmp_path / "adapter")
    plan = plan_merge([ScaledAdapter(open_adapter(tmp_path / "adapter"))], folder, keep_rope=True)
    assert {"adapter_config.json", "model.safetensors.index.json", "checkpoint-5/config.json"} <= set(
        plan.left_out
    )
    assert any("adapter_config.json" in line for line in plan.warnings)
    assert any("model.safetensors.index.json" in line for line in plan.warnings)
    merge(plan, tmp_path / "graft")
    expected = logits(PeftModel.from_pretrained(loaded(plain), str(tmp_path / "adapter")))
    torch.testing.assert_close(logits(loaded(tmp_path / "graft")), expected, rtol=1e-5, atol=1e-4)
