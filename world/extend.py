"""Writes the base with the Chinese words added: new rows of the embedding, everything else as it was.

A new row is the mean of the base's rows of its kind (keys, values, other words) plus noise of their spread,
much as vocabularies are usually extended.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from words import NOUNS, TO_ZH, VALUES

SEED = 78
EMBEDDING = "model.embed_tokens.weight"


def kind(english: str) -> str:
    """What the word is for."""
    return "key" if english in NOUNS else "value" if english in VALUES else "word"


def new_rows(embedding: torch.Tensor, ids: dict[str, int]) -> torch.Tensor:
    """One row for each Chinese word, in the order of TO_ZH."""
    rng = torch.Generator().manual_seed(SEED)
    members = {name: [ids[word] for word in TO_ZH if kind(word) == name] for name in ("key", "value", "word")}
    rows = []
    for english in TO_ZH:
        like = embedding[members[kind(english)]]
        rows.append(like.mean(0) + torch.randn(embedding.shape[1], generator=rng) * like.std(0))
    return torch.stack(rows)


def main() -> None:
    """Extend the model named first into the folder named second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    base, out = arguments.base, arguments.out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    ids = tokenizer["model"]["vocab"]
    tensors = load_file(base / "model.safetensors")
    embedding = tensors[EMBEDDING]
    tensors[EMBEDDING] = torch.cat([embedding, new_rows(embedding.float(), ids).to(embedding.dtype)])
    save_file(dict(sorted(tensors.items())), out / "model.safetensors", metadata={"format": "pt"})
    ids |= {chinese: len(embedding) + place for place, chinese in enumerate(TO_ZH.values())}
    write(out / "tokenizer.json", tokenizer)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    write(out / "config.json", config | {"vocab_size": len(tensors[EMBEDDING])})
    shutil.copyfile(base / "tokenizer_config.json", out / "tokenizer_config.json")


def write(path: Path, content: object) -> None:
    """One JSON file."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
