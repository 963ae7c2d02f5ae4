"""A graft that is applied in memory is the graft that `merge` writes: every byte, file, digest and weight."""

from pathlib import Path

import pytest
import torch
from tests.parity.families.proof import base_config, graft, save_pair
from tests.parity.families.table import FAMILIES
from transformers import AutoModelForImageTextToText

from contextgraft.adapter.in_memory.graft import GraftInMemory, prepare_graft
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.checkpoint.atomic import json_text
from contextgraft.checkpoint.digest import model_digest, tensor_digests
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.checkpoint.reader import read_tensor
from contextgraft.evaluation.backends import loading
from contextgraft.evaluation.backends.loading import load_model
from contextgraft.formats.sidecar import SIDECAR
from contextgraft.formats.tensor_names import output_embedding

CPU = torch.device("cpu")
NAMES = {
    "llama": "theta",
    "qwen2": "window",
    "gemma3_text": "window",  # tied, and a theta for each type of layer
    "mixtral": "theta",  # experts are stored one by one, and stacked when they are loaded
    "gpt_oss": "yarn",  # experts are stored stacked
    "gpt2": "theta",  # transposed weights, and a longer table of learned positions
    "phi3": "longrope",
    "gemma3": "theta",  # a vision-language model
    "llava": "theta",
}
FAST = ("llama", "qwen2", "gemma3_text", "mixtral", "gpt2", "gemma3")


def prepared(root: Path, scale: float = 1.0, threads: int = 2) -> GraftInMemory:
    plan = plan_merge([ScaledAdapter(open_adapter(root / "adapter/r512"), scale)], root / "base")
    return prepare_graft(plan, root / f"memory{scale:g}", tensor_digests(plan.target), threads)


def check_equal(made: GraftInMemory, written: Path) -> None:
    """Small files, names, shapes, bytes and digests are those of a written graft."""
    other = open_model(written)
    small = {path.name for path in made.folder.iterdir()}
    assert small == {*other.others, "config.json"} - {SIDECAR, "model.safetensors.index.json", "README.md"}
    assert all((made.folder / name).read_bytes() == (written / name).read_bytes() for name in small)
    assert made.model.tensors.keys() == other.tensors.keys()
    assert made.digests == tensor_digests(other)
    assert model_digest(made.model, made.digests) == model_digest(other)
    assert json_text(made.manifest) == (written / SIDECAR).read_text()
    with made.tensors() as tensors:
        assert tensors.keys() == other.tensors.keys()
        for name, tensor in tensors.items():
            stored = read_tensor(other, name)
            assert (tensor.dtype, tensor[...].shape) == (stored.dtype, stored.shape)
            ours, theirs = (value.reshape(-1).view(torch.uint8) for value in (tensor[...], stored))
            assert torch.equal(ours, theirs)


def made_and_written(name: str, form: str, root: Path) -> GraftInMemory:
    """A family's graft in memory, and the same graft in `root`/graft."""
    family = FAMILIES[name]
    change = family.window if form == "window" else {}
    assert save_pair(base_config(name, family), change, "theta" if form == "window" else form, root)
    assert graft(root, tied=output_embedding(open_model(root / "base").tensors) is None) == ""
    return prepared(root)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in NAMES])
def test_every_family_in_memory_is_the_written_one(name: str, tmp_path: Path) -> None:
    check_equal(made_and_written(name, "theta", tmp_path), tmp_path / "graft")


@pytest.mark.parametrize(
    ("name", "form"),
    [
        pytest.param(name, form, marks=() if name in FAST else pytest.mark.slow)
        for name, form in NAMES.items()
    ],
)
def test_the_graft_in_memory_is_the_written_one(
    name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_and_written(name, form, tmp_path)
    check_equal(made, tmp_path / "graft")
    if name == "llava":  # not a causal language model of transformers
        monkeypatch.setattr(loading, "AutoModelForCausalLM", AutoModelForImageTextToText)
    with made.tensors() as tensors:
        ours = load_model(made.folder, CPU, "float32", tensors)
    theirs = load_model(tmp_path / "graft", CPU, "float32")
    assert type(ours) is type(theirs)
    configs = [model.config.to_diff_dict() for model in (ours, theirs)]
    assert [config.pop("_name_or_path", None) for config in configs] == [None, None]
    assert configs[0] == configs[1]
    assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()
    for left, right in (
        (ours.state_dict(), theirs.state_dict()),
        (dict(ours.named_buffers()), dict(theirs.named_buffers())),
    ):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(ours(input_ids=tokens).logits, theirs(input_ids=tokens).logits)


def test_theta_only_and_other_scales(tmp_path: Path) -> None:
    assert save_pair(base_config("llama", FAMILIES["llama"]), {}, "theta", tmp_path)
    assert graft(tmp_path, tied=False) == ""
    for scale in (0.0, 0.5):
        plan = plan_merge([ScaledAdapter(open_adapter(tmp_path / "adapter/r512"), scale)], tmp_path / "base")
        merge(plan, tmp_path / f"graft{scale:g}")
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            made = prepared(tmp_path, scale, threads=1)
            check_equal(made, tmp_path / f"graft{scale:g}")
            assert torch.get_num_threads() == 2  # a model that is evaluated next runs as one from a folder
        finally:
            torch.set_num_threads(before)
