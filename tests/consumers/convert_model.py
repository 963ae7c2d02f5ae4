"""Convert model folders to GGUF in float32 with llama.cpp's converter and a vocabulary of numbers.

Usage: convert_model.py CONVERTER FOLDER...; each is written next to itself as FOLDER.gguf. The converter
recognises published tokenizers only; the tests give ids, so that any vocabulary of the right size does.
"""

import enum
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, sys.argv[1])  # before the gguf package of this environment

import gguf
import torch
from conversion import (  # type: ignore[import-not-found]
    ModelBase,
    ModelType,
    get_model_architecture,
    get_model_class,
)

HUB_NAMES = {
    "MptForCausalLM": "MPTForCausalLM",
    "PhimoeForCausalLM": "PhiMoEForCausalLM",
}  # of transformers' classes in files on the hub


def absent(members: enum.EnumType, name: str) -> None:
    """Let classes of newer models be imported, which name members that the converter's gguf does not have."""
    if name.startswith("_"):
        raise AttributeError(name)


enum.EnumType.__getattr__ = absent  # type: ignore[attr-defined]


def numbered_vocabulary(model: Any) -> None:
    writer, rows = model.gguf_writer, model.hparams["vocab_size"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"t{row}" for row in range(rows)])
    writer.add_token_types([gguf.TokenType.NORMAL] * rows)
    writer.add_token_merges(["t 1"])  # a list without entries is not written
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def convert(folder: Path) -> None:
    hparams = ModelBase.load_hparams(folder, False)
    rope = hparams.get("rope_parameters") or {}
    hparams["rotary_pct"] = rope.get(
        "partial_rotary_factor", 1.0
    )  # the older key, which GPT-NeoX's class reads
    if hparams["model_type"] == "granitemoehybrid":  # its name until transformers 5
        hparams["layer_types"] = [kind.removeprefix("full_") for kind in hparams["layer_types"]]
    name = get_model_architecture(hparams, ModelType.TEXT)
    kind = get_model_class(HUB_NAMES.get(name, name))
    for converter in (kind, getattr(kind, "Ministral3Model", kind)):  # Mistral 3's has one within
        converter.set_vocab = numbered_vocabulary
    tokens = {f"t{row}": row for row in range(hparams["vocab_size"])}
    tokenizer = folder / "tokenizer.json"  # Gemma 3's rows are counted in it
    tokenizer.write_text(json.dumps({"model": {"vocab": tokens}, "added_tokens": []}))
    with torch.inference_mode():
        out = folder.with_name(f"{folder.name}.gguf")
        kind(folder, gguf.LlamaFileType.ALL_F32, out, hparams=hparams).write()
    tokenizer.unlink()


if __name__ == "__main__":
    for name in sys.argv[2:]:
        convert(Path(name))
