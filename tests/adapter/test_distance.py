from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from contextgraft.adapter.analysis import distance as module
from contextgraft.adapter.analysis.distance import model_distance
from contextgraft.checkpoint.model_folder import ModelFolder, open_model
from contextgraft.formats.tensor_names import module_kind


def folder(path: Path, **tensors: torch.Tensor) -> ModelFolder:
    path.mkdir()
    (path / "config.json").write_text("{}")
    save_file(
        {name.replace("__", "."): tensor for name, tensor in tensors.items()}, path / "model.safetensors"
    )
    return open_model(path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.3.self_attn.q_proj.weight", "q_proj"),
        ("model.layers.3.self_attn.q_proj.bias", "q_proj bias"),
        ("model.layers.0.post_attention_layernorm.weight", "norms"),
        ("model.norm.weight", "norms"),
        ("lm_head.weight", "lm_head"),
        ("weight", ""),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert module_kind(name) == kind


def test_norms_are_frobenius_norms_over_the_kind(tmp_path: Path) -> None:
    torch.manual_seed(0)
    a, b, da = torch.randn(6, 4), torch.randn(6, 4), torch.randn(6, 4)
    base = folder(tmp_path / "base", l0__up__weight=a, l1__up__weight=b)
    model = folder(tmp_path / "model", l0__up__weight=a + da, l1__up__weight=b)
    (up,) = model_distance(base, model).kinds
    assert (up.kind, up.tensors, up.changed) == ("up", 2, 1)
    assert up.relative == pytest.approx(float((a + da - a).norm() / torch.cat([a, b]).norm()), rel=1e-5)


def test_only_shared_rows_and_fitting_shapes_are_compared(tmp_path: Path) -> None:
    base = folder(
        tmp_path / "base", e__weight=torch.ones(4, 2), x__weight=torch.ones(2, 3), old=torch.ones(1)
    )
    model = folder(
        tmp_path / "model", e__weight=torch.ones(6, 2), x__weight=torch.ones(2, 5), new=torch.ones(1)
    )
    found = model_distance(base, model)
    (shared,) = found.kinds
    assert (shared.kind, shared.delta_norm) == ("e", 0.0)
    assert shared.base_norm**2 == pytest.approx(8)
    assert (found.only_base, found.only_model) == (("old",), ("new",))
    assert found.shapes == {"e.weight": ((4, 2), (6, 2)), "x.weight": ((2, 3), (2, 5))}


def test_blocks_and_dtypes_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weight = torch.randn(50, 7).bfloat16()
    base = folder(tmp_path / "base", up__weight=weight)
    model = folder(tmp_path / "model", up__weight=weight.float() * 1.25)
    whole = model_distance(base, model).kinds[0].relative
    monkeypatch.setattr(module, "BLOCK", 4 * 7 * 3)
    assert model_distance(base, model).kinds[0].relative == pytest.approx(whole, rel=1e-9)
    assert whole == pytest.approx(0.25, rel=1e-6)


def test_a_base_of_zeros_has_no_relative_distance(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", up__weight=torch.zeros(2, 2), empty__weight=torch.zeros(0, 2))
    model = folder(tmp_path / "model", up__weight=torch.ones(2, 2), empty__weight=torch.zeros(0, 2))
    assert [kind.relative for kind in model_distance(base, model).kinds] == [None, None]
