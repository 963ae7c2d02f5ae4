"""The tokenizer and the folders that training data is made from."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.formats.model.limited_tokenizer import load_limited_tokenizer
from contextgraft.prompts.tokens import Encode


@dataclass(frozen=True)
class DataContext:
    """Inputs of document samplers: the model's tokenizer, the recipe's folder, the work folder and the seed.

    `prefix_ids` are the tokens that the tokenizer puts in front of a text; `vocabulary` is its number of
    tokens.
    """

    encode: Encode
    prefix_ids: tuple[int, ...]
    vocabulary: int
    folder: Path
    work: Path = Path()
    seed: int = 0


def load_context(base: ModelFolder, folder: Path) -> DataContext:
    """The context of a model's tokenizer and a recipe's folder; no tokenizer raises InputError."""
    tokenizer = load_limited_tokenizer(base.path)
    bos = tokenizer.hf.bos_token_id
    adds_bos = bos is not None and tokenizer.encode("")[:1] == [bos]  # some define one and never add it
    encode = partial(tokenizer.encode, add_special_tokens=False)
    return DataContext(encode, (int(bos),) if adds_bos else (), len(tokenizer.hf), folder)


def memoised(encode: Encode) -> Encode:
    """An encoder with a cache: needles repeat, and tokenizers are slow on short texts."""
    cache: dict[str, list[int]] = {}

    def look_up(text: str) -> list[int]:
        if text not in cache:
            cache[text] = encode(text)
        return cache[text]

    return look_up
