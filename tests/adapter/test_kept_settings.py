"""Position and attention settings that only the target changed: they stay, and `merge` says so."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import Qwen2Config

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.graft_config import context_of
from contextgraft.adapter.merge.plan import MergePlan, ScaledAdapter, plan_merge
from contextgraft.adapter.verify.adapter import verify_adapter
from contextgraft.errors import MismatchError

MISTRAL = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "head_dim": 16}


@pytest.fixture(scope="module")
def world(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mistral base without a window, as older files say it, and an adapter to another theta."""
    root: Path = tmp_path_factory.mktemp("kept")
    config = toy.config(**MISTRAL, sliding_window=None)
    weights = toy.weights(config)
    toy.write(root / "base", weights, config)
    toy.write(root / "donor", toy.moved(weights, 1), {**config, "rope_theta": 4e4})
    extract(open_pair(root / "base", root / "donor"), [RankSpec(4)], root)
    return root


def planned(
    world: Path, target: Path, toy: SimpleNamespace, adapter: str = "r4", **changes: Any
) -> MergePlan:
    config = toy.config(**{**MISTRAL, "sliding_window": None, **changes})
    config = {key: value for key, value in config.items() if value != "absent"}
    toy.write(target, toy.weights(config), config)
    return plan_merge([ScaledAdapter(open_adapter(world / adapter))], target)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sliding_window": 16}, "its own sliding_window (16; the base's: None) stays"),
        ({"sliding_window": "absent"}, "its own sliding_window (4096; the base's: None) stays"),
        (
            {"dual_chunk_attention_config": {"chunk_size": 8}},
            "its own dual_chunk_attention_config ({'chunk_size': 8}; the base's: None) stays",
        ),
    ],
)
def test_a_setting_that_only_the_target_changed(
    changes: dict[str, Any], words: str, world: Path, toy: SimpleNamespace, tmp_path: Path
) -> None:
    plan = planned(world, tmp_path / "target", toy, **changes)
    (said,) = plan.warnings
    assert said.startswith(f"{tmp_path}/target: {words}; the adapter was trained without it")
    assert plan.config.get("sliding_window") == plan.target.config.get("sliding_window")


def test_what_the_base_has_is_no_warning(world: Path, toy: SimpleNamespace, tmp_path: Path) -> None:
    assert planned(world, tmp_path / "same", toy).warnings == ()
    assert planned(world, tmp_path / "more", toy, rms_norm_eps=1e-6, use_cache=False).warnings == ()


def test_adapters_without_the_record_are_verified_and_merged(
    world: Path, toy: SimpleNamespace, tmp_path: Path
) -> None:
    old = Path(shutil.copytree(world / "r4", tmp_path / "old"))
    content = json.loads((old / "contextgraft.json").read_text())
    assert content["attention"].pop("base") == {"sliding_window": None}
    (old / "contextgraft.json").write_text(json.dumps(content))
    assert open_adapter(old).digest == open_adapter(world / "r4").digest
    assert planned(world, tmp_path / "target", toy, str(old), sliding_window=16).warnings == ()
    assert all(check.holds for check in verify_adapter(old, world / "base", world / "donor"))


def test_a_wider_window_for_a_target_without_windows_is_refused_with_a_remedy(
    toy: SimpleNamespace, tmp_path: Path
) -> None:
    """Qwen2's class reads no window where `use_sliding_window` is off, whatever the file says."""
    qwen2 = {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True,
        "max_window_layers": 0, "sliding_window": 16,
    }  # fmt: skip
    config = toy.config(**qwen2)
    weights = toy.weights(config)
    toy.write(tmp_path / "base", weights, config)
    toy.write(tmp_path / "donor", toy.moved(weights, 1), {**config, "rope_theta": 4e4, "sliding_window": 64})
    toy.write(tmp_path / "target", weights, {**config, "use_sliding_window": False, "sliding_window": None})
    extract(open_pair(tmp_path / "base", tmp_path / "donor"), [RankSpec(4)], tmp_path)
    scaled = [ScaledAdapter(open_adapter(tmp_path / "r4"))]
    with pytest.raises(MismatchError, match=r"sliding_window of the donor cannot .*--rope-from DONOR"):
        plan_merge(scaled, tmp_path / "target")
    plan = plan_merge(scaled, tmp_path / "target", **context_of(tmp_path / "donor", tmp_path / "target"))
    read = Qwen2Config.from_dict(plan.config)
    assert (read.use_sliding_window, read.sliding_window) == (True, 64)
    assert set(read.layer_types) == {"sliding_attention"}
    assert read.rope_parameters["rope_theta"] == 4e4
