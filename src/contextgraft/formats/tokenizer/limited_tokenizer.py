"""A model's tokenizer whose components, which its author wrote, cannot run or grow without end.

A tokenizer.json may have regular expressions that backtrack for hours, replacements that double a text forty
times, and a model that takes time in the square of a word's length. So the tokenizer is first loaded in a
process with limits, and it encodes and decodes in one.
"""

import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

from contextgraft.errors import CheckpointError, InputError, library_errors
from contextgraft.extras import missing_package
from contextgraft.formats.model.limited_process import LimitedProcess, ProcessBudget, run_limited
from contextgraft.formats.model.own_files import check_plain_files
from contextgraft.formats.model.pretrained import OWN_FILES
from contextgraft.rope.model_class import quiet_transformers

LARGEST_FILE = 100_000_000  # bytes of a tokenizer's file; the largest of known models has 35 million
LOADING = ProcessBudget(cpu_seconds=60, memory=4 << 30)
USE = ProcessBudget(cpu_seconds=10, memory=4 << 30)  # for all texts, and a second more for so many
PER_SECOND = 20_000  # characters or tokens, of which tokenizers encode a million
LONGEST_TOKEN = 1000  # characters; texts of longer ones are limited
LONGEST_TEXT = 100_000_000  # characters that are decoded at once
# decoders whose time and memory are in proportion to the tokens, whatever their settings
LINEAR_DECODERS = frozenset({"ByteLevel", "Metaspace", "WordPiece", "ByteFallback", "Fuse", "BPEDecoder"})
FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip


class LimitedTokenizer:
    """The tokenizer of transformers, `hf`, with encoding and decoding within limits.

    CheckpointError for texts on which it fails, or takes more than its time or memory.
    """

    def __init__(self, hf: Any, path: Path) -> None:
        self.hf, self.path = hf, path
        self._process: LimitedProcess | None = None
        linear = set(_kinds_of_decoder(hf)) <= LINEAR_DECODERS
        self._decodes_here = linear and max(map(len, hf.get_vocab()), default=0) <= LONGEST_TOKEN

    def in_another_process(self) -> "LimitedTokenizer":
        """The same tokenizer, which encodes in a process of its own."""
        other = copy(self)
        other._process = None
        return other

    @property
    def eos_token_id(self) -> int | None:
        """The id of the token that ends a response."""
        end: int | None = self.hf.eos_token_id
        return end

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        ids = array("q")
        ids.frombytes(self._ask(["encode", text, add_special_tokens], len(text)))
        return ids.tolist()

    def token_ends(self, text: str) -> list[int] | None:
        """The index behind each token in a text, without special tokens; None where it is not known."""
        if not getattr(self.hf, "is_fast", False):
            return None
        ends = array("q")
        ends.frombytes(self._ask(["ends", text, False], len(text)))
        return ends.tolist()

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of token ids."""
        if self._decodes_here:
            with library_errors("its tokenizer cannot decode token ids", self.path):
                text: str = self.hf.decode(ids, skip_special_tokens=skip_special_tokens)
            return text
        return self._ask(["decode", list(ids), skip_special_tokens], len(ids)).decode()

    def description(self) -> str:
        """The tokenizer as the text of its file; to write it may take memory without end, too."""
        return self._ask(["describe", None, None], len(self.hf)).decode()

    def _ask(self, request: list[Any], length: int) -> bytes:
        seconds = length / PER_SECOND
        if self._process is None:
            self._process = LimitedProcess(self._answer, "its tokenizer", self.path, USE.memory)
            seconds += USE.cpu_seconds
        return self._process.ask(json.dumps(request).encode(), seconds)

    def _answer(self, request: bytes) -> bytes:
        """In the process: ids as 64-bit integers, or text."""
        kind, value, special = json.loads(request)
        if kind == "describe":
            described: str = self.hf.backend_tokenizer.to_str()
            return described.encode()
        if kind == "decode":
            text: str = self.hf.decode(value, skip_special_tokens=special)
            if len(text) > LONGEST_TEXT:
                raise ValueError(f"a text of {len(text):,} characters, more than {LONGEST_TEXT:,}")
            return text.encode(errors="replace")
        if kind == "ends":
            encoded = self.hf(value, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            return array("q", [end for _, end in encoded["offset_mapping"]]).tobytes()
        return array("q", self.hf.encode(value, add_special_tokens=special, verbose=False)).tobytes()


@quiet_transformers()
def load_limited_tokenizer(path: Path) -> LimitedTokenizer:
    """The tokenizer of a model folder, from its own files only; InputError if it cannot be loaded.

    A tokenizer that takes too much time or memory to load raises CheckpointError.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - an extra

    check_plain_files(path)
    for name in FILES:
        _check_size(path / name)
    load = partial(AutoTokenizer.from_pretrained, str(path), **OWN_FILES)
    problem = run_limited(lambda: _problem(load), "its tokenizer", path, LOADING)
    if problem:
        raise InputError("has no tokenizer that can be loaded", path=path, received=problem)
    with library_errors("has no tokenizer that can be loaded", path, InputError):
        return LimitedTokenizer(load(), path)


def _problem(load: Callable[[], Any]) -> str:
    """Why a tokenizer cannot be loaded; an empty text if it can."""
    try:
        load()
    except BaseException as error:  # a panic of Rust is no Exception
        if isinstance(error, MemoryError) or missing_package(error):
            raise
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def _check_size(path: Path) -> None:
    size = path.stat().st_size if path.exists() else 0
    if size > LARGEST_FILE:
        raise CheckpointError(
            "is too large for a file of a tokenizer", path=path, expected=f"at most {LARGEST_FILE:,} bytes",
            received=f"{size:,}",
        )  # fmt: skip


def _kinds_of_decoder(hf: Any) -> Iterator[str]:
    """The kinds of the decoders of a tokenizer; those of transformers' own Python code have none."""
    decoder = getattr(getattr(hf, "backend_tokenizer", None), "decoder", None)
    return _kinds(json.loads(decoder.__getstate__()) if decoder is not None else None)


def _kinds(value: Any) -> Iterator[str]:
    """`type` of each decoder; a sequence has only those inside it."""
    if isinstance(value, dict) and value.get("type") == "Sequence":
        for inner in value.get("decoders", ()):
            yield from _kinds(inner)
    elif isinstance(value, dict):
        yield str(value.get("type"))
