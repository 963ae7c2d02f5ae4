"""A model's tokenizer, as far as prompts need it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from contextgraft.errors import InputError

MARK = "CONTEXTGRAFT"  # takes the place of the prompt while a chat template is rendered


@dataclass(frozen=True)
class PromptTokenizer:
    """Encoding without special tokens, decoding without them, and what surrounds a prompt.

    `hf` is the tokenizer of transformers, `path` the model folder that it was loaded from.
    """

    path: Path
    hf: Any

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        ids: list[int] = self.hf.encode(text, add_special_tokens=False, verbose=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        text: str = self.hf.decode(ids, skip_special_tokens=True)
        return text

    def decode_all(self, ids: Sequence[int]) -> str:
        """Text of token ids, with special tokens."""
        text: str = self.hf.decode(ids, skip_special_tokens=False)
        return text

    def prefix_suffix(self, *, chat: bool) -> tuple[list[int], list[int]]:
        """Ids around a prompt: the chat template's, or the begin token if the tokenizer adds one."""
        if not chat:
            begin = self.hf.bos_token_id
            adds = begin is not None and self.hf.encode("")[:1] == [begin]
            return ([begin] if adds else []), []
        if not self.hf.chat_template:
            raise InputError("the tokenizer has no chat template", path=self.path, remedy="set chat: false")
        message = [{"role": "user", "content": MARK}]
        text = self.hf.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        before, _, after = text.partition(MARK)
        return self.encode(before), self.encode(after)

    def digest(self) -> str:
        """sha256 of all that decides token ids: tokenizers of equal digest give the same prompts."""
        to_str: Callable[[], str] | None = getattr(self.hf.backend_tokenizer, "to_str", None)
        content = [
            to_str() if to_str else sorted(self.hf.get_vocab().items()),
            self.hf.special_tokens_map,
            self.hf.chat_template,
        ]
        return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def load_tokenizer(path: Path) -> PromptTokenizer:
    """The tokenizer of a model folder, from its own files only; InputError if it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(
            "has no tokenizer that can be loaded", path=path, received=str(error)[:100]
        ) from None
    return PromptTokenizer(path, tokenizer)
