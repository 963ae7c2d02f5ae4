"""A model's tokenizer, as far as questions need it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from contextgraft.errors import InputError

MARK = "CONTEXTGRAFT"  # stands for the prompt while a chat template is rendered


@dataclass(frozen=True)
class Tokens:
    """Encoding without special tokens, decoding with none left, and what belongs around a prompt."""

    path: Path
    tokenizer: Any

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def unknown(self, text: str) -> bool:
        """Whether the text holds words the tokenizer has no ids for."""
        unknown = self.tokenizer.unk_token_id
        return unknown is not None and unknown in self.encode(text)

    def around(self, *, chat: bool) -> tuple[list[int], list[int]]:
        """Ids before and after a prompt: the chat template's, or a begin token that the tokenizer adds."""
        if not chat:
            begin = self.tokenizer.bos_token_id
            adds = begin is not None and self.tokenizer.encode("")[:1] == [begin]
            return ([begin] if adds else []), []
        if not self.tokenizer.chat_template:
            raise InputError("the tokenizer has no chat template", path=self.path, remedy="set chat: false")
        message = [{"role": "user", "content": MARK}]
        text = self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        before, _, after = text.partition(MARK)
        return self.encode(before), self.encode(after)

    def digest(self) -> str:
        """sha256 of what decides token ids: two tokenizers of one digest give the same prompts."""
        fast: Callable[[], str] | None = getattr(self.tokenizer.backend_tokenizer, "to_str", None)
        content = [
            fast() if fast else sorted(self.tokenizer.get_vocab().items()),
            self.tokenizer.special_tokens_map,
            self.tokenizer.chat_template,
        ]
        return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def load_tokens(path: Path) -> Tokens:
    """The tokenizer of a model folder, from its own files only; InputError if it has none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(
            "has no tokenizer that can be loaded", path=path, received=str(error)[:100]
        ) from None
    return Tokens(path, tokenizer)
