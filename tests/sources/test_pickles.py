"""Weights that are pickles become safetensors with the same values; code in them does not run."""

import json
import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import CheckpointError, OutputError, PickleRefused
from contextgraft.sources.conversion import Conversion
from contextgraft.sources.fetch import fetch
from contextgraft.sources.pickles import child
from contextgraft.sources.pickles.convert import convert_weights
from contextgraft.sources.pickles.process import PickleFile, ProcessLimits, convert_files

from ..command_server import command_server

CONVERT = Conversion(convert_pickles=True)
IDS = torch.arange(3, 40)[None]


def llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    plain = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**(plain | changes))).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(IDS).logits
    return result


def pickled(model: LlamaForCausalLM, folder: Path, shards: int = 1, *, zipped: bool = True) -> Path:
    """The folder as transformers saved it before safetensors: tied weights share memory."""
    model.config.save_pretrained(folder)
    (folder / "LICENSE").write_text("ours")
    tensors = dict(model.state_dict())
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        return folder
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = names[number::shards]
        torch.save({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that reads pickles is forked from one that has imported torch."""
    python = SimpleNamespace(executable=str(command_server("contextgraft").python))
    monkeypatch.setattr("contextgraft.sources.pickles.process.sys", python)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("shards", "zipped"), [(1, True), (1, False), (3, True)], ids=["one", "legacy", "shards"]
)
def test_a_model_has_the_same_weights_as_safetensors(
    tmp_path: Path, shards: int, zipped: bool, tied: bool
) -> None:
    model = llama(tie_word_embeddings=tied)
    source = pickled(model, tmp_path / "source", shards, zipped=zipped)
    record = fetch(str(source), tmp_path / "out", conversion=CONVERT)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(loaded), logits(model))
    assert len(open_model(tmp_path / "out").shards) == shards
    assert ("lm_head.weight" in open_model(tmp_path / "out").tensors) == (not tied or shards > 1)
    assert [path.name for path in (tmp_path / "out").glob("*.bin*")] == []
    assert (tmp_path / "out/LICENSE").read_text() == "ours"
    assert len(record["converted_from"]) == (1 if shards == 1 else shards + 1)
    model.save_pretrained(tmp_path / "again")
    if shards == 1:
        assert record["digest"] == fetch(str(tmp_path / "again"), tmp_path / "safe")["digest"]


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    llama(0).save_pretrained(tmp_path / "source")
    torch.save({}, tmp_path / "source/pytorch_model.bin")
    record = fetch(str(tmp_path / "source"), tmp_path / "out", conversion=CONVERT)
    assert "converted_from" not in record


@pytest.fixture
def longlora(tmp_path: Path) -> SimpleNamespace:
    """A tune, and an adapter as LongLoRA saves it: factors, and embeddings and norms in their own file."""
    tune = llama(1)
    tune.save_pretrained(tmp_path / "tune")
    adapted = get_peft_model(
        llama(1), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    generator = torch.Generator().manual_seed(2)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "norm" in name or "embed" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path / "adapter"
    adapted.save_pretrained(folder)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    trained = {
        name.removeprefix("base_model.model."): value
        for name, value in adapted.state_dict().items()
        if "norm" in name or "embed" in name
    }
    torch.save(trained, folder / "trainable_params.bin")
    return SimpleNamespace(adapted=adapted, folder=folder, tune=tmp_path / "tune", trained=trained)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("form", ["bin", "safetensors"])
def test_longlora_is_merged_with_its_embeddings_and_norms(
    longlora: SimpleNamespace, tmp_path: Path, form: str
) -> None:
    if form == "safetensors":  # of somebody who converted the factors alone
        pickle = longlora.folder / "adapter_model.bin"
        save_file(torch.load(pickle), longlora.folder / "adapter_model.safetensors")
        pickle.unlink()
    with pytest.raises(PickleRefused, match=r"\.bin: .*--convert-pickles"):
        open_adapter(longlora.folder)
    record = fetch(str(longlora.folder), tmp_path / "out", conversion=CONVERT)
    assert record["converted_from"][-1] == "trainable_params.bin"
    adapter = open_adapter(tmp_path / "out")
    assert set(adapter.replaced) == set(longlora.trained)
    plan = plan_merge([ScaledAdapter(adapter)], longlora.tune, keep_rope=True, replace_modules=True)
    merge(plan, tmp_path / "graft")
    expected = logits(longlora.adapted)
    graft = AutoModelForCausalLM.from_pretrained(tmp_path / "graft")
    assert float((logits(graft) - expected).abs().max()) < 1e-4
    by_peft = PeftModel.from_pretrained(llama(1), tmp_path / "out")
    assert float((logits(by_peft) - expected).abs().max()) < 1e-4


def test_a_folder_that_was_not_converted_names_the_remedy(longlora: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(PickleRefused, match="--convert-pickles"):
        fetch(str(longlora.folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Code:
    """Pickled as a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def write_code(folder: Path) -> None:
    torch.save({"x": Code(f"touch {folder / 'ran'}")}, folder / "pytorch_model.bin")


def write_code_legacy(folder: Path) -> None:
    code = {"x": Code(f"touch {folder / 'ran'}")}
    torch.save(code, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def write_expanded(folder: Path) -> None:
    torch.save({"x": torch.zeros(1).expand(1 << 20, 1 << 20)}, folder / "pytorch_model.bin")


def write_compressed(folder: Path) -> None:
    """A zip file in which 4 GB of zeros are 4 MB."""
    file = folder / "pytorch_model.bin"
    torch.save({"x": torch.zeros(1 << 10)}, file)
    with zipfile.ZipFile(file) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data if not name.endswith("/data/0") else bytes(1 << 26))


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "code": (write_code, "code; posix.system"),
    "code, legacy": (write_code_legacy, "code; posix.system"),
    "expanded": (write_expanded, "is larger than its data"),
    "compressed": (write_compressed, "is compressed"),
    "a list": (lambda at: torch.save([1], at / "pytorch_model.bin"), "does not hold tensors by name"),
    "numbers": (lambda at: torch.save({"x": 1}, at / "pytorch_model.bin"), "else than tensors, at 'x'"),
    "complex": (
        lambda at: torch.save({"x": torch.zeros(2, dtype=torch.complex64)}, at / "pytorch_model.bin"),
        "has no form of safetensors",
    ),
    "sparse": (
        lambda at: torch.save({"x": torch.eye(3).to_sparse()}, at / "pytorch_model.bin"),
        "sparse",
    ),
    "cut": (lambda at: (at / "pytorch_model.bin").write_bytes(b"\x80\x04"), "cannot be read as tensors"),
    "no zip": (lambda at: (at / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + b"0" * 99), "be read"),
    "empty": (lambda at: (at / "pytorch_model.bin").touch(), "cannot be read as tensors"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_anything_but_tensors_is_a_reason(tmp_path: Path, name: str) -> None:
    write, message = HOSTILE[name]
    write(tmp_path)
    output = {"path": str(tmp_path / "pytorch_model.bin"), "out": str(tmp_path / "out"), "prefix": ""}
    answer = child.convert({"outputs": [output], "drop_tied_head": False})
    assert re.search(message, f"{answer['error']}; {answer['received']}")
    assert answer["path"] == output["path"]
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


WRAPPED: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, Any]]] = {
    "state_dict": lambda tensors: {"state_dict": tensors, "epoch": 3, "callbacks": {}},
    "model": lambda tensors: {
        "model": tensors,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
    },
    "module": lambda tensors: {"module": tensors, "global_steps": 7},
    "twice": lambda tensors: {"state_dict": {"module": tensors}, "args": None},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_trainers_wrapper_is_removed(name: str, tmp_path: Path) -> None:
    tensors = {"a.weight": torch.ones(2, 2), "b.weight": torch.zeros(3)}
    torch.save(WRAPPED[name](tensors), tmp_path / "pytorch_model.bin")
    out = tmp_path / "out.safetensors"
    output = {"path": str(tmp_path / "pytorch_model.bin"), "out": str(out), "prefix": ""}
    assert child.convert({"outputs": [output], "drop_tied_head": False}) == {}
    assert {key: value.tolist() for key, value in load_file(out).items()} == {
        key: value.tolist() for key, value in tensors.items()
    }


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("keys", [["weights"], ["model", "ema"], ["state_dict", "model"]])
def test_other_wrappers_are_refused_with_the_key_to_save(keys: list[str], tmp_path: Path) -> None:
    source = tmp_path / "source"
    llama().config.save_pretrained(source)
    content = {**{key: {"a.weight": torch.ones(2, 2)} for key in keys}, "epoch": 1}
    torch.save(content, source / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as error:
        fetch(str(source), tmp_path / "out", conversion=CONVERT)
    assert "does not hold tensors by name, nor under one key" in str(error.value)
    assert f"with tensors in {', '.join(keys)}; save the model's tensors alone" in str(error.value)
    assert f"torch.save(checkpoint['{keys[0]}'], FILE)" in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("forked")
def test_code_in_a_pickle_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    llama().config.save_pretrained(source)
    write_code(source)
    with pytest.raises(PickleRefused, match=r"source/pytorch_model\.bin: contains code, .*system") as error:
        fetch(str(source), tmp_path / "out", conversion=CONVERT)
    assert "\n" not in str(error.value)
    assert not (source / "ran").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shard", ["../x.bin", "/etc/passwd", "a.safetensors", ".x.bin", 7])
def test_an_index_is_not_trusted(tmp_path: Path, shard: Any) -> None:
    llama().config.save_pretrained(tmp_path / "source")
    index = tmp_path / "source/pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"x": shard}}))
    with pytest.raises(CheckpointError, match="names a file outside its folder or of another kind"):
        fetch(str(tmp_path / "source"), tmp_path / "out", conversion=CONVERT)


@pytest.mark.usefixtures("forked")
def test_a_shard_that_lacks_a_tensor_of_the_index_is_refused(tmp_path: Path) -> None:
    source = pickled(llama(), tmp_path / "source", 2)
    index = source / "pytorch_model.bin.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["more"] = next(iter(content["weight_map"].values()))
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"shards do not hold; received more"):
        fetch(str(source), tmp_path / "out", conversion=CONVERT)


def test_the_process_is_stopped_at_its_limits(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    torch.save({"x": torch.zeros(1 << 20)}, path, _use_new_zipfile_serialization=False)
    out = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match=r"x\.bin: .*was stopped; received more than 0 seconds"):
        convert_files([PickleFile(path, out)], limits=ProcessLimits(1 << 30, 0, 1 << 30))
    with pytest.raises(OutputError, match="File too large"):
        convert_files([PickleFile(path, out)], limits=ProcessLimits(1 << 30, 60, 1 << 10))
    assert not out.exists()


def test_nothing_is_imported_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pickled(llama(), tmp_path / "source")
    (source / "torch.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(source)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    fetch(".", tmp_path / "out", conversion=CONVERT)
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("text", ["version https://git-lfs.github.com/spec/", "<html>", ""])
def test_what_torch_did_not_write_is_shown(tmp_path: Path, text: str) -> None:
    """No advice of torch's to load it without its protection reaches the user."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "in/pytorch_model.bin").write_text(text)
    with pytest.raises(
        CheckpointError, match=f"cannot be read as tensors.*received {text or 'nothing'}"
    ) as error:
        fetch(str(tmp_path / "in"), tmp_path / "out", conversion=Conversion(convert_pickles=True))
    assert "weights_only" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("form", ["bin", "safetensors"])
def test_an_adapter_next_to_a_config_and_training_arguments_is_an_adapter(
    longlora: SimpleNamespace, tmp_path: Path, form: str
) -> None:
    """Trainers save config.json and training_args.bin in the folder of the adapter."""
    if form == "safetensors":
        pickles = [longlora.folder / name for name in ("adapter_model.bin", "trainable_params.bin")]
        save_file(torch.load(pickles[0]), longlora.folder / "adapter_model.safetensors")
        for pickle in pickles:
            pickle.unlink()
    (longlora.folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    torch.save({"learning_rate": 1}, longlora.folder / "training_args.bin")
    fetch(str(longlora.folder), tmp_path / "out", conversion=CONVERT)
    assert len(open_adapter(tmp_path / "out").entries) > 0
    assert not (tmp_path / "out" / "training_args.bin").exists()


def test_keys_that_peft_ignores_stay_and_are_a_warning(toy: SimpleNamespace, tmp_path: Path) -> None:
    """They got PEFT's prefix: what PEFT ignores in the pickle was merged without a word."""
    settings = toy.config()
    target = toy.write(tmp_path / "target", toy.weights(settings), settings)
    module = "model.layers.0.self_attn.q_proj"
    factors = {f"{module}.lora_A.weight": torch.ones(2, 64), f"{module}.lora_B.weight": torch.ones(64, 2)}
    folder, out = tmp_path / "adapter", tmp_path / "out"
    for made in (folder, out):
        made.mkdir()
    torch.save(factors, folder / "adapter_model.bin")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": [module]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_pretrained(target)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload().state_dict()
    assert all(torch.equal(merged[name], tensor) for name, tensor in before.items())
    convert_weights(folder, out)
    assert load_file(out / "adapter_model.safetensors").keys() == factors.keys()
    (said,) = plan_merge([ScaledAdapter(open_adapter(out))], target, keep_rope=True).warnings
    assert "2 of its 2 tensors" in said
    assert "PEFT ignores them" in said


@pytest.mark.parametrize("name", ["consolidated.00.pth", "pytorch_model-00001-of-00002.bin"])
def test_pickles_under_other_names_are_refused_by_name(tmp_path: Path, name: str) -> None:
    """The remedy is not the option that was given already."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/config.json").write_text(json.dumps({"model_type": "llama"}))
    torch.save({"w": torch.ones(1)}, tmp_path / "in" / name)
    with pytest.raises(CheckpointError, match=f"expected pytorch_model.bin or .*received {name}") as error:
        fetch(str(tmp_path / "in"), tmp_path / "out", conversion=Conversion(convert_pickles=True))
    assert "--convert-pickles" not in str(error.value)
