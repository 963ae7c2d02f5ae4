"""A tokenizer that transformers loads, from the vocabulary of a GGUF file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from contextgraft.checkpoint.atomic import write_json
from contextgraft.checkpoint.model_folder import read_json
from contextgraft.errors import CheckpointError, file_system_error
from contextgraft.sources.gguf.config import Metadata, require

CONTROL, USER_DEFINED = 3, 4  # token types of llama.cpp that are never split
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def gpt2_words() -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer of GPT-2: words, numbers and punctuation in byte-level characters."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def smollm_words() -> pre_tokenizers.PreTokenizer:
    """Single digits, then the word split of GPT-2."""
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2_words()])


def llama3_words() -> pre_tokenizers.PreTokenizer:
    """The word split of Llama 3, with digits in groups of three."""
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


WORDS: Mapping[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": gpt2_words,
    "smollm": smollm_words,
    "llama-bpe": llama3_words,
}
WHOLE_WORDS_FIRST = frozenset({"llama-bpe"})  # a word that is in the vocabulary is not split into pieces


def choose_words(metadata: Metadata, path: Path) -> str:
    """Name of the word split, a key of WORDS; CheckpointError for an unsupported tokenizer."""
    model = require(metadata, "tokenizer.ggml.model", path)
    words = metadata.get("tokenizer.ggml.pre", "gpt-2")
    if model != "gpt2" or words not in WORDS:
        raise CheckpointError(
            "unsupported tokenizer in the GGUF file",
            path=path,
            expected=f"byte-level BPE (gpt2) with words split as {', '.join(sorted(WORDS))}",
            received=f"{model} with {words}",
            remedy="fetch the safetensors of this model instead",
        )
    return str(words)


def backend(metadata: Metadata, path: Path) -> Tokenizer:
    """Byte-level BPE with the tokens and merges of the file."""
    words = choose_words(metadata, path)
    tokens = require(metadata, "tokenizer.ggml.tokens", path)
    merges = [tuple(merge.split(" ", 1)) for merge in require(metadata, "tokenizer.ggml.merges", path)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, ignore_merges=words in WHOLE_WORDS_FIRST)
    )
    tokenizer.pre_tokenizer = WORDS[words]()
    tokenizer.decoder = decoders.ByteLevel()
    kinds = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    tokenizer.add_tokens(
        [
            AddedToken(token, special=kind == CONTROL, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in (CONTROL, USER_DEFINED)
        ]
    )
    if metadata.get("tokenizer.ggml.add_bos_token", False):
        bos = int(require(metadata, "tokenizer.ggml.bos_token_id", path))
        begin = tokens[bos]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, bos)]
        )
    return tokenizer


def build_tokenizer(metadata: Metadata, path: Path) -> Any:
    """The tokenizer of transformers that a GGUF file describes, with its chat template."""
    tokens = require(metadata, "tokenizer.ggml.tokens", path)
    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    keys = {role: f"tokenizer.ggml.{ggml}_token_id" for role, ggml in roles.items()}
    numbers = {role: metadata[key] for role, key in keys.items() if key in metadata}
    for role, number in numbers.items():
        if type(number) is not int or not 0 <= number < len(tokens):
            raise CheckpointError(
                f"{role} is not a token of the vocabulary", path=path,
                expected=f"0 to {len(tokens) - 1}", received=repr(number)[:80],
            )  # fmt: skip
    named: dict[str, Any] = {role: tokens[number] for role, number in numbers.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend(metadata, path),
        model_max_length=int(require(metadata, "llama.context_length", path)),
        clean_up_tokenization_spaces=False,
        chat_template=metadata.get("tokenizer.chat_template"),
        **named,
    )


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template; OSError if the disk refuses."""
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # tokenizers has bare exceptions, also for a full disk
        cause = file_system_error(error)
        if cause is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(folder)) from None
    path = folder / "tokenizer_config.json"
    config = {key: value for key, value in read_json(path).items() if key != "backend"}
    # a class that transformers 4 and 5 both know; 5 writes a name that only it knows
    write_json(path, {**config, "tokenizer_class": "PreTrainedTokenizerFast"})
