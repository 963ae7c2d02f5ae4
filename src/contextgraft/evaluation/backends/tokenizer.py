"""A model's tokenizer, as far as prompts need it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from contextgraft.config.evaluation import Chat
from contextgraft.errors import library_errors
from contextgraft.formats.tokenizer.chat_template import chat_frame, uses_template
from contextgraft.formats.tokenizer.limited_tokenizer import LimitedTokenizer, load_limited_tokenizer


@dataclass(frozen=True)
class PromptTokenizer:
    """Encoding without special tokens, decoding without them, and what surrounds a prompt.

    `path` is the model folder that the tokenizer was loaded from.
    """

    path: Path
    limited: LimitedTokenizer

    @property
    def hf(self) -> Any:
        """The tokenizer of transformers, whose own methods have no limits."""
        return self.limited.hf

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self.limited.encode(text, add_special_tokens=False)

    def token_ends(self, text: str) -> list[int] | None:
        """The index behind each token in a text; None where the tokenizer does not know."""
        return self.limited.token_ends(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        return self.limited.decode(ids, skip_special_tokens=True)

    def decode_all(self, ids: Sequence[int]) -> str:
        """Text of token ids, with special tokens."""
        return self.limited.decode(ids)

    def uses_chat(self, chat: Chat) -> bool:
        """Whether prompts are in the chat template: as requested; for "auto", if there is one."""
        return uses_template(self.limited, chat)

    def prefix_suffix(self, *, chat: bool) -> tuple[list[int], list[int]]:
        """Ids around a prompt: the chat template's, or the begin token if the tokenizer adds one."""
        if not chat:
            begin = self.hf.bos_token_id
            adds = begin is not None and self.limited.encode("")[:1] == [begin]
            return ([begin] if adds else []), []
        before, after = chat_frame(self.limited)
        return self.encode(before), self.encode(after)

    def digest(self) -> str:
        """sha256 of all that decides token ids: tokenizers of equal digest give the same prompts."""
        with library_errors("its tokenizer cannot be described", self.path):
            has_text = hasattr(self.hf.backend_tokenizer, "to_str")
            content = [
                self.limited.description() if has_text else sorted(self.hf.get_vocab().items()),
                self.hf.special_tokens_map,
                self.hf.chat_template,
            ]
        return sha256(json.dumps(content, sort_keys=True, default=str).encode(errors="replace")).hexdigest()


def load_tokenizer(path: Path) -> PromptTokenizer:
    """The tokenizer of a model folder, from its own files only; InputError if it cannot be loaded."""
    return PromptTokenizer(path, load_limited_tokenizer(path))
