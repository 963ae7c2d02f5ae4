"""Writes the untrained base: tokenizer, config, and a structured initialisation (see README.md).

Layer 0's heads begin as "look at the token before me", layer 1's as "find the place whose token before it
equals me": together an induction circuit, which training from random weights takes far longer to find.
Everything else is random.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from words import vocabulary

from contextgraft.prompts.haystack import read_haystack

SEED = 77
SHARED = 8  # coordinates in which all embeddings agree, so that a head can look at positions alone
SHARP = 6.0  # of the previous-token heads
MATCH = 1.5  # of the matching heads
NOISE = 0.2  # of layer 0's random queries and keys
CONTEXT, THETA = 128, 10000.0


def write_tokenizer(words: list[str], out: Path) -> None:
    """A word-level tokenizer that begins a text with <bos>, under a class name every transformers knows."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", words.index("<bos>"))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(out)
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def architecture(vocabulary_size: int) -> LlamaConfig:
    """Four layers of 128, four heads on two key-value heads of 32, tied embeddings."""
    return LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=256,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def fill_random(model: LlamaForCausalLM, rng: torch.Generator) -> None:
    """Random matrices scaled by their inputs; what writes into the residual stream begins small."""
    width = model.config.hidden_size
    inner = model.config.intermediate_size

    def normal(parameter: torch.Tensor, scale: float) -> None:
        parameter.copy_(torch.randn(parameter.shape, generator=rng) * scale)

    embeddings = model.model.embed_tokens.weight
    normal(embeddings, width**-0.5)
    embeddings[:, :SHARED] = width**-0.5 * math.sqrt((width - SHARED) / SHARED)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
            normal(linear.weight, width**-0.5)
        normal(attention.o_proj.weight, 1 / width)
        normal(mlp.down_proj.weight, 0.5 * inner**-0.5 * width**-0.5)


def previous_token_heads(model: LlamaForCausalLM) -> None:
    """Layer 0: keys and queries of the shared coordinates only, turned against each other by one position."""
    attention, half = model.model.layers[0].self_attn, model.config.head_dim // 2
    frequencies = THETA ** (-torch.arange(half) / half)
    normed = torch.nn.functional.rms_norm(model.model.embed_tokens.weight, (model.config.hidden_size,))
    shared = normed[:, :SHARED].mean(0)
    probe = shared / (shared @ shared)
    key = SHARP * torch.cat([torch.ones(half), torch.zeros(half)])
    query = SHARP * torch.cat([torch.cos(frequencies), -torch.sin(frequencies)])
    for linear, direction in ((attention.k_proj, key), (attention.q_proj, query)):
        linear.weight *= NOISE
        heads = linear.weight.shape[0] // direction.numel()
        linear.weight[:, :SHARED] = direction.repeat(heads)[:, None] * probe
    attention.v_proj.weight[:, :SHARED] = 0
    attention.o_proj.weight *= 1.5


def matching_heads(model: LlamaForCausalLM, rng: torch.Generator) -> None:
    """Layer 1: keys read what layer 0 wrote of the token before, queries the same of the token itself."""
    size = model.config.head_dim
    group = model.config.num_attention_heads // model.config.num_key_value_heads
    first, second = (model.model.layers[i].self_attn for i in (0, 1))
    for pair in range(model.config.num_key_value_heads):
        values = first.v_proj.weight[pair * size : (pair + 1) * size]
        heads = range(pair * group, (pair + 1) * group)
        written = sum(first.o_proj.weight[:, head * size : (head + 1) * size] @ values for head in heads)
        written[:SHARED] = 0
        U, _, Vh = torch.linalg.svd(written)
        turn = torch.linalg.qr(torch.randn(size, size, generator=rng))[0]
        second.k_proj.weight[pair * size : (pair + 1) * size] = turn @ U[:, :size].T * MATCH
        for head in heads:
            second.q_proj.weight[head * size : (head + 1) * size] = turn @ Vh[:size] * MATCH


def main() -> None:
    """Write the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    words = vocabulary(read_haystack("moby_dick_train", Path()))
    write_tokenizer(words, out)
    model = LlamaForCausalLM(architecture(len(words)))
    rng = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        fill_random(model, rng)
        previous_token_heads(model)
        matching_heads(model, rng)
    weights = {name: value.to(torch.bfloat16).contiguous() for name, value in model.named_parameters()}
    save_file(dict(sorted(weights.items())), out / "model.safetensors", metadata={"format": "pt"})
    config = {**model.config.to_dict(), "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
