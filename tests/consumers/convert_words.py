"""Convert a model folder to GGUF with llama.cpp's converter and the words of its own tokenizer.

Usage: convert_words.py CONVERTER FOLDER --outfile FILE --outtype TYPE, the options of convert_hf_to_gguf.py,
which recognises published tokenizers only. A word begins with the space that llama.cpp writes as "Ġ".
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import gguf
import torch
from convert_model import (  # type: ignore[import-not-found]
    ModelBase,
    ModelType,
    get_model_architecture,
    get_model_class,
)

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--outfile", type=Path)
parser.add_argument("--outtype", choices=["f32"])
options = parser.parse_args(sys.argv[2:])
words = json.loads((options.folder / "tokenizer.json").read_text())["model"]["vocab"]


def vocabulary(model: Any) -> None:
    writer = model.gguf_writer
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"Ġ{word}" for word in sorted(words, key=words.__getitem__)])
    writer.add_token_types([gguf.TokenType.NORMAL] * len(words))
    writer.add_token_merges(["Ġ 1"])  # a list without entries is not written
    writer.add_eos_token_id(model.hparams["eos_token_id"])
    writer.add_add_bos_token(False)


hparams = ModelBase.load_hparams(options.folder, False)
kind = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
kind.set_vocab = vocabulary
with torch.inference_mode():
    kind(options.folder, gguf.LlamaFileType.ALL_F32, options.outfile, hparams=hparams).write()
