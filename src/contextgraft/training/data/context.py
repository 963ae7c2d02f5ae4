"""The tokenizer and the folders that training data is made from."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.config.evaluation import Chat
from contextgraft.errors import CheckpointError
from contextgraft.formats.tokenizer.chat_template import chat_frame, text_after_answer, uses_template
from contextgraft.formats.tokenizer.limited_tokenizer import LimitedTokenizer, load_limited_tokenizer
from contextgraft.prompts.tokens import Encode
from contextgraft.prompts.training_document import ChatTurns


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
    tokenizer: LimitedTokenizer | None = None

    def encoders(self, count: int) -> list[Encode]:
        """`encode`, and copies of it in processes of their own: so many in all, which can run at once."""
        if self.tokenizer is None:
            return [self.encode]
        copies = [self.tokenizer.in_another_process() for _ in range(count - 1)]
        return [self.encode, *(partial(copy.encode, add_special_tokens=False) for copy in copies)]

    def chat_turns(self, chat: Chat) -> ChatTurns | None:
        """Ids around the messages of a chat in the tokenizer's template; None where none is used.

        InputError if `chat` is true and there is no template.
        """
        tokenizer = self.tokenizer
        if tokenizer is None or not uses_template(tokenizer, chat):
            return None
        frame = chat_frame(tokenizer)
        turns = ChatTurns(*map(self.encode, (*frame, text_after_answer(tokenizer, frame))))
        if not turns.after:
            raise CheckpointError("its chat template ends answers with no token", path=tokenizer.path)
        return turns


def load_context(base: ModelFolder, folder: Path) -> DataContext:
    """The context of a model's tokenizer and a recipe's folder; no tokenizer raises InputError."""
    tokenizer = load_limited_tokenizer(base.path)
    bos = tokenizer.hf.bos_token_id
    adds_bos = bos is not None and tokenizer.encode("")[:1] == [bos]  # some define one and never add it
    encode = partial(tokenizer.encode, add_special_tokens=False)
    prefix_ids = (int(bos),) if adds_bos else ()
    return DataContext(encode, prefix_ids, len(tokenizer.hf), folder, tokenizer=tokenizer)


def memoised(encode: Encode) -> Encode:
    """An encoder with a cache: needles repeat, and tokenizers are slow on short texts."""
    cache: dict[str, list[int]] = {}

    def look_up(text: str) -> list[int]:
        if text not in cache:
            cache[text] = encode(text)
        return cache[text]

    return look_up
