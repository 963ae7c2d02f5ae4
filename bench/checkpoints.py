"""Generated Llama checkpoints with a tokenizer: a base, and a donor whose delta is power-law plus noise."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as Decoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def config(layers: int, hidden: int, intermediate: int, vocabulary: int) -> LlamaConfig:
    """A Llama of true proportions, of as many layers as are wanted."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 256),
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=False,
    )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte."""
    tokenizer = Tokenizer(BPE({character: i for i, character in enumerate(sorted(ByteLevel.alphabet()))}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), Decoder()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def delta(weight: torch.Tensor, generator: torch.Generator, relative: float = 0.05) -> torch.Tensor:
    """A delta of `relative` Frobenius size: singular values k^-0.7 in 256 directions, and some noise."""
    rows, columns = weight.shape
    k = min(256, rows, columns)
    spectrum = torch.arange(1, k + 1, dtype=torch.float32) ** -0.7
    left = torch.randn(rows, k, generator=generator) / rows**0.5
    right = torch.randn(k, columns, generator=generator) / columns**0.5
    signal = (left * spectrum) @ right
    noise = torch.randn(rows, columns, generator=generator)
    signal = signal / signal.norm() + 0.1 * noise / noise.norm()
    return signal * (relative * weight.norm())


def generate(folder: Path, layers: int, hidden: int, intermediate: int, vocabulary: int) -> None:
    """Write `base` and `donor` below folder (bfloat16, one shard a layer, one for the rest)."""
    base, donor = folder / "base", folder / "donor"
    generator = torch.Generator().manual_seed(0)
    settings = config(layers, hidden, intermediate, vocabulary)
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in LlamaForCausalLM(settings).named_parameters()}
    weight_map: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    for name in shapes:
        part = int(name.split(".")[2]) + 1 if ".layers." in name else 0
        groups.setdefault(f"model-{part + 1:05d}-of-{layers + 1:05d}.safetensors", []).append(name)
    for path in (base, donor):
        path.mkdir(parents=True)
    for shard, names in groups.items():
        tensors = {n: torch.randn(shapes[n], generator=generator) * shapes[n][-1] ** -0.5 for n in names}
        moved = {
            n: t + delta(t, generator) if ".layers." in n and t.ndim == 2 else t for n, t in tensors.items()
        }
        weight_map |= dict.fromkeys(names, shard)
        save_file({n: t.bfloat16() for n, t in tensors.items()}, base / shard, metadata={"format": "pt"})
        save_file({n: t.bfloat16() for n, t in moved.items()}, donor / shard, metadata={"format": "pt"})
    for path, theta, positions in ((base, 500000.0, 8192), (donor, 15296098.0, 65536)):
        described = settings.to_diff_dict() | {  # as `save_pretrained` writes it
            "architectures": ["LlamaForCausalLM"],
            "dtype": "bfloat16",
            "rope_parameters": {"rope_type": "default", "rope_theta": theta},
            "max_position_embeddings": positions,
        }
        (path / "config.json").write_text(json.dumps(described, indent=2, sort_keys=True, default=str))
        index = {"metadata": {}, "weight_map": weight_map}
        (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))
        byte_tokenizer().save_pretrained(path)


if __name__ == "__main__":
    generate(Path(sys.argv[1]), *map(int, sys.argv[2:]))
