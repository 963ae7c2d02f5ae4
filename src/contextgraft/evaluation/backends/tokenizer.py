"""A model's tokenizer, as far as prompts need it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from contextgraft.config.evaluation import Chat
from contextgraft.errors import CheckpointError, InputError, library_errors
from contextgraft.formats.model.limited_process import ProcessBudget, run_limited
from contextgraft.formats.model.limited_tokenizer import LimitedTokenizer, load_limited_tokenizer

MARK = "ContextgraftPrompt"  # takes the place of the prompt while a chat template is rendered
# Messages that a template may treat in another way: long ones, lines, quotes, code, other scripts
LINES = (
    'The code of Anna\'s 2nd house is 41-06, and the key to it was 9873 5.  "Why?" <b>&amp;</b>\n\n'
    "\t- `x = {'a': [1]}` [link](http://x) $1 % \\n a + b = c, in that, for you, I or we\n"
    "das Haus \u00fc\u00df, \u4e2d\u6587\u3002 \U0001f600 #5 @me *a* _b_ | c ~ d; e: f! (g) END\n"
)
PROBES = (*(MARK,) * 5, LINES.strip(), (LINES * 300).strip())
TEMPLATE_BUDGET = ProcessBudget(cpu_seconds=5, memory=1 << 29)


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
        return bool(self.hf.chat_template) if chat == "auto" else chat

    def prefix_suffix(self, *, chat: bool) -> tuple[list[int], list[int]]:
        """Ids around a prompt: the chat template's, or the begin token if the tokenizer adds one."""
        if not chat:
            begin = self.hf.bos_token_id
            adds = begin is not None and self.limited.encode("")[:1] == [begin]
            return ([begin] if adds else []), []
        if not self.hf.chat_template:
            raise InputError("the tokenizer has no chat template", path=self.path, remedy="set chat: false")
        rendered = run_limited(self._render, "its chat template", self.path, TEMPLATE_BUDGET)
        before, *rest = rendered.split(MARK)
        if len(rest) != 1:
            raise CheckpointError(
                "its chat template does not show the message as it is",
                path=self.path,
                expected="the user's message once",
                received=f"{len(rest)} times",
                remedy="set chat: false, or correct the template",
            )
        return self.encode(before), self.encode(rest[0])

    def _render(self) -> str:
        """The chat template around one message of the user, which is MARK.

        ValueError for a template that does not show every message as it shows MARK, such as one that cuts
        long messages, replaces words, or draws a random text.
        """
        rendered = self._message(MARK)
        for text in PROBES:
            if rendered.count(MARK) == 1 and self._message(text) != rendered.replace(MARK, text):
                raise ValueError(f"it changes a message of {len(text):,} characters, or the text around it")
        return rendered

    def _message(self, content: str) -> str:
        message = [{"role": "user", "content": content}]
        text: str = self.hf.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        return text

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
