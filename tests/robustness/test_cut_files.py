"""A file that is cut while it is read is one error: no file is mapped into memory, which would be SIGBUS."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers.modeling_utils
from safetensors.torch import load_file, save_file

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.checkpoint.reader import stored_tensors
from contextgraft.errors import CheckpointError, InputChanged, InputError
from contextgraft.evaluation.backends.loading import load_model
from contextgraft.evaluation.suites.reference_logprobs import (
    LogprobReader,
    LogprobSpec,
    LogprobWriter,
    reference_paths,
)
from contextgraft.rope import settings
from contextgraft.sources.fetch import fetch
from contextgraft.training.data.documents import read_documents
from contextgraft.training.model import build, load_weights
from contextgraft.training.state import SavedState, load_state, save_state

CPU = torch.device("cpu")


def cut(path: Path) -> None:
    """Remove the second half of a file, as a copy over it does first."""
    os.truncate(path, path.stat().st_size // 2)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose weights are larger than some pages of memory."""
    fetch("demo:base", tmp_path / "m")
    weights = tmp_path / "m/model.safetensors"
    assert weights.stat().st_size > 100_000
    return tmp_path / "m"


def test_a_model_that_transformers_loads(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = transformers.modeling_utils.convert_and_load_state_dict_in_model

    def cut_before(*arguments: Any, **options: Any) -> Any:
        cut(model / "model.safetensors")
        return load(*arguments, **options)

    monkeypatch.setattr("transformers.modeling_utils.convert_and_load_state_dict_in_model", cut_before)
    with pytest.raises(CheckpointError, match="ends inside tensor"):
        load_model(model, CPU, "float32")


def test_a_model_that_is_trained(model: Path) -> None:
    folder = open_model(model)
    trained = build(folder.config, settings.read(folder.config, folder.path), activation_checkpointing=False)

    def rows(_: torch.Tensor) -> slice:
        if (model / "model.safetensors").stat().st_size > 100_000:
            os.truncate(model / "model.safetensors", 10_000)
        return slice(0, None)

    with pytest.raises(CheckpointError, match="ends inside tensor"):
        load_weights(trained, folder, rows)


def test_a_state_begins_anew(tmp_path: Path) -> None:
    save_state(SavedState(1, {f"weight/{name}": torch.ones(100_000) for name in "ab"}), tmp_path)
    assert load_state(tmp_path).step == 1

    def convert(tensor: torch.Tensor) -> torch.Tensor:
        os.truncate(tmp_path / "state.safetensors", 10_000)
        return tensor

    assert load_state(tmp_path, convert).step == 0


def test_documents(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    texts = [os.urandom(5_000).hex() for _ in range(1_000)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=100, compression="none")
    documents = read_documents([path], "text")
    assert next(documents) == texts[0]
    cut(path)
    with pytest.raises(InputError, match=r"d\.parquet: cannot be read as documents"):
        list(documents)


def test_predictions_of_a_reference(tmp_path: Path) -> None:
    paths = reference_paths(tmp_path, "d")
    logs = torch.rand(1_000, 100)
    with LogprobWriter(paths, LogprobSpec("i", *logs.shape)) as writer:
        writer.put(0, logs)
        writer.finish()
    reader = LogprobReader(paths)
    assert torch.equal(reader.get(900, 100), logs[900:])
    cut(paths.array)
    assert torch.equal(reader.get(10, 5), logs[10:15])
    with pytest.raises(InputChanged):
        reader.get(900, 100)


def test_a_gguf_header(tmp_path: Path) -> None:
    """In a process of its own, which a mapping would end by SIGBUS."""
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list([f"token {number}" for number in range(200_000)])
    writer.add_tensor("token_embd.weight", np.ones((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    code = (
        "import os, sys\nfrom pathlib import Path\nimport gguf\n"
        "from contextgraft.sources.gguf.model import open_gguf\n"
        "build = gguf.GGUFReader._build_fields\n"
        "def cut_before(*arguments):\n    os.truncate(sys.argv[1], 10_000)\n    return build(*arguments)\n"
        "gguf.GGUFReader._build_fields = cut_before\nopen_gguf(Path(sys.argv[1]))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "InputChanged" in ended.stderr.splitlines()[-1]


def test_weights_of_another_precision_than_can_be_computed_with(model: Path) -> None:
    """Every tensor comes as it is stored, in dtypes that no merge can compute with, too."""
    made = {
        "a": torch.rand(3, 5).to(torch.float8_e4m3fn), "b": torch.rand(2, 2).to(torch.float8_e5m2),
        "c": torch.arange(6).to(torch.uint16), "d": torch.tensor(2.5, dtype=torch.bfloat16),
        "e": torch.tensor([True, False]), "f": torch.zeros(0, 4, dtype=torch.float16),
    }  # fmt: skip
    save_file(made, model / "model.safetensors", metadata={"format": "pt"})
    theirs, ours = load_file(model / "model.safetensors"), stored_tensors(open_model(model))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        read = ours[name][...]
        assert (read.dtype, read.shape, ours[name].dtype) == (tensor.dtype, tensor.shape, tensor.dtype)
        assert torch.equal(read.float(), tensor.float())
        assert ours[name].is_floating_point() is tensor.is_floating_point()
