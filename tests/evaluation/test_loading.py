"""Loading: whole models only, in the requested precision."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from contextgraft.errors import CheckpointError, InputError
from contextgraft.evaluation.backends.loading import device_map, find_device, load_model
from contextgraft.evaluation.backends.tokenizer import load_tokenizer

CPU = find_device("cpu")
MakeModel = Callable[..., Path]


def test_stored_in_bfloat16_computed_in_float32(make_model: MakeModel) -> None:
    folder = make_model()
    stored = load_file(folder / "model.safetensors")
    loaded = load_model(folder, CPU, "float32").state_dict()
    for name, tensor in stored.items():
        assert tensor.dtype == torch.bfloat16
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], tensor.float())
    assert load_model(folder, CPU, "auto").dtype == torch.bfloat16


def test_python_warnings_reach_the_user(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    load = LlamaForCausalLM.from_pretrained

    def warn(*arguments: Any, **options: Any) -> Any:
        warnings.warn("slow kernels", UserWarning, stacklevel=1)
        return load(*arguments, **options)

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", warn)
    with pytest.warns(UserWarning, match="slow kernels"):
        load_model(make_model(), CPU, "float32")


def test_a_model_that_lacks_a_tensor_is_refused_not_made_up(make_model: MakeModel) -> None:
    folder = make_model()
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks tensors.*model\.norm\.weight"):
        load_model(folder, CPU, "float32")


def test_a_config_nobody_knows_is_refused(make_model: MakeModel) -> None:
    folder = make_model()
    (folder / "config.json").write_text('{"model_type": "nonesuch"}')
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(folder, CPU, "float32")


def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(InputError, match="no such device"):
        find_device("toaster")
    with pytest.raises(InputError, match="no such device"):
        find_device("cuda:77")


def test_a_folder_without_tokenizer_is_refused(make_model: MakeModel) -> None:
    folder = make_model()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("device", "count", "spread"),
    [("cpu", 8, False), ("cuda", 1, False), ("cuda", 8, True), ("cuda:1", 8, False)],
)
def test_a_model_is_spread_only_over_gpus_of_which_none_is_named(
    device: str, count: int, *, spread: bool
) -> None:
    assert (device_map(torch.device(device), count) == "auto") is spread
