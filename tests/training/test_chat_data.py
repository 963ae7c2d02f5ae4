"""Training data as chats in a tokenizer's template, compared with what transformers renders."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training.data import AnySource
from contextgraft.errors import CheckpointError, InputError
from contextgraft.training.data.context import DataContext, load_context
from contextgraft.training.data.sources import KINDS, DocumentSampler

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LAST_ONLY = CHATML.replace("<|im_end|>{% endgen", "{% if loop.last %}<|im_end|>{% endif %}{% endgen").replace(
    "{{ m.content }}{% if", "{{ m.content if loop.last else '' }}{% if"
)
FORMAT = {
    "name": "x", "needle": " The code of {key} is {value}.", "question": "\n\nWhat is the code of {key}?",
    "lead": "The code of {key} is", "answer": " {value}", "ending": ".",
    "keys": ["Rome", "Oslo", "Lima", "Cairo", "Paris"], "values": "number", "haystack": "text.txt",
}  # fmt: skip
TURN = re.compile(r"<\|im_start\|>(user|assistant)\n(.*?)<\|im_end\|>", re.DOTALL)


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """The tiny base with a tokenizer of bytes, which has ChatML as its template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    model = tmp_path / "model"
    model.mkdir()
    for file in base.glob("*"):
        if "token" not in file.name:
            (model / file.name).write_bytes(file.read_bytes())
    tokenizer.save_pretrained(model)
    (tmp_path / "format.yaml").write_text(json.dumps(FORMAT), encoding="utf-8")
    (tmp_path / "text.txt").write_text("The sea was old. It lay still. " * 40, encoding="utf-8")
    rows = [{"prompt": f"Is {n} odd?", "answer": f" {bool(n % 2)}"} for n in range(9)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return model


def with_template(model: Path, template: str | None) -> DataContext:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = template
    for file in model.glob("chat_template*"):
        file.unlink()
    tokenizer.save_pretrained(model)
    return load_context(open_model(model), model.parent)


def sampler(context: DataContext, **source: Any) -> DocumentSampler:
    parsed: Any = TypeAdapter(AnySource).validate_python(source)
    return KINDS[parsed.kind](parsed, context)


def needle_source(**changes: Any) -> dict[str, Any]:
    return {"kind": "needle", "format": "format.yaml", "chat": True, "spacing": 60, "most": 4} | changes


def test_needles_are_asked_in_the_template_as_transformers_renders_it(folder: Path) -> None:
    context = load_context(open_model(folder), folder.parent)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sample = sampler(context, **needle_source())
    counts = set()
    for seed in range(20):
        ids, weights, starts = sample(np.random.default_rng(seed), 700)
        assert (len(ids), len(weights), starts) == (700, 700, None)
        text = tokenizer.decode(ids)
        messages = [{"role": role, "content": content} for role, content in TURN.findall(text)]
        whole = tokenizer.apply_chat_template(messages, return_dict=False)
        assert whole == [*ids, *tokenizer.encode("\n")]
        known = dict(re.findall(r" The code of (\w+) is (\d{7})\.", messages[0]["content"]))
        counts.add(len(messages) // 2)
        for question, answer in zip(messages[::2], messages[1::2], strict=True):
            key = re.search(r"What is the code of (\w+)\?$", question["content"])
            assert key
            assert answer["content"] == f"The code of {key[1]} is {known[key[1]]}."
        trained = "".join(
            tokenizer.decode(token) for token, weight in zip(ids, weights, strict=True) if weight == 1
        )
        asked = [re.findall(r"\d{7}", answer["content"])[0] for answer in messages[1::2]]
        assert trained == "".join(f" {value}<|im_end|>" for value in asked)
    assert counts == {3, 4, 6}
    assert sample(np.random.default_rng(3), 700) == sample(np.random.default_rng(3), 700)


def test_pairs_are_chats_whose_loss_is_on_what_transformers_calls_the_assistants(folder: Path) -> None:
    context = load_context(open_model(folder), folder.parent)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sample = sampler(context, kind="pairs", file="pairs.jsonl", chat="auto")
    ids, weights, _ = sample(np.random.default_rng(0), 400)
    turns = TURN.findall(tokenizer.decode(ids))
    chats = [[*turns[at : at + 2]] for at in range(0, len(turns) - 1, 2)]
    expected_ids, expected = [], []
    for chat in chats:
        messages = [{"role": role, "content": content} for role, content in chat]
        rendered = tokenizer.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True
        )
        expected_ids += rendered["input_ids"][:-1]  # the line break after the last end token is left out
        expected += [float(mask) for mask in rendered["assistant_masks"][:-1]]
    assert len(chats) > 3
    assert (ids[: len(expected)], weights[: len(expected)]) == (expected_ids, expected)


def test_auto_follows_the_tokenizer_and_true_needs_a_template(folder: Path) -> None:
    context = with_template(folder, None)
    plain = sampler(context, **needle_source(chat=False))(np.random.default_rng(0), 700)
    assert sampler(context, **needle_source(chat="auto"))(np.random.default_rng(0), 700) == plain
    with pytest.raises(InputError, match="no chat template"):
        sampler(context, **needle_source())


def test_a_template_that_drops_finished_answers_is_refused(folder: Path) -> None:
    context = with_template(folder, LAST_ONLY)
    with pytest.raises(CheckpointError, match="writes a finished turn in another way"):
        sampler(context, **needle_source())


def test_a_chat_that_cannot_fit_is_refused(folder: Path) -> None:
    context = load_context(open_model(folder), folder.parent)
    with pytest.raises(InputError, match="does not fit"):
        sampler(context, **needle_source())(np.random.default_rng(0), 100)


CONVERSATIONS = [
    [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi."), ("user", "Go"), ("assistant", "Bye.")],
    [("user", "2 + 2?"), ("assistant", "4"), ("user", "left without an answer")],
    [("user", "Do."), ("assistant", "Done.")],
]  # fmt: skip
WITH_BREAK = CHATML.replace(
    "<|im_end|>{% endgeneration %}", "<|im_end|>{{ '\n' }}{% endgeneration %}"
).replace("<|im_end|>{% endif %}{{ '\n' }}", "<|im_end|>{{ '\n' }}{% endif %}")


def write_conversations(folder: Path, conversations: list[list[tuple[str, str]]]) -> Path:
    lines = [
        json.dumps({"messages": [{"role": role, "content": text} for role, text in turns], "id": 1})
        for turns in conversations
    ]
    path = folder / "chat.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_conversations_are_trained_where_transformers_masks_the_assistant(folder: Path) -> None:
    context = with_template(folder, WITH_BREAK)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    write_conversations(folder.parent, CONVERSATIONS)
    known = {}
    for turns in CONVERSATIONS:
        messages = [{"role": role, "content": text} for role, text in turns]
        while messages[-1]["role"] != "assistant":
            messages.pop()
        rendered = tokenizer.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True
        )
        known[tuple(rendered["input_ids"])] = [float(mask) for mask in rendered["assistant_masks"]]
    ids, weights, starts = sampler(context, kind="chat", file="chat.jsonl")(np.random.default_rng(0), 1000)
    assert (len(ids), len(weights), starts) == (1000, 1000, None)
    place = 0
    seen: set[tuple[int, ...]] = set()
    while place + max(map(len, known)) <= 1000:
        (found,) = [tokens for tokens in known if tuple(ids[place : place + len(tokens)]) == tokens]
        assert weights[place : place + len(found)] == known[found]
        place, seen = place + len(found), seen | {found}
    assert seen == set(known)


@pytest.mark.parametrize(
    "line",
    [
        "{", "[]", '{"messages": []}', '{"messages": [{"role": "user", "content": "x"}]}',
        '{"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]}',
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": 1}]}',
        '{"messages": ' + "[" * 3000,
    ],
)  # fmt: skip
def test_a_line_that_is_no_conversation_is_named(folder: Path, line: str) -> None:
    path = write_conversations(folder.parent, CONVERSATIONS)
    path.write_text(path.read_text() + "\n" + line, encoding="utf-8")
    with pytest.raises(InputError, match="line 4 is not a conversation"):
        sampler(load_context(open_model(folder), folder.parent), kind="chat", file="chat.jsonl")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (LAST_ONLY, "conversation 1 cannot be written .* writes a finished turn in another way"),
        ("{% if true %}{% endif %}", "conversation 1 is empty"),
        ("{{ raise_exception('no system') }}", "conversation 1 cannot be written .* no system"),
        (None, "no chat template"),
    ],
    ids=["history", "empty", "raises", "none"],
)
def test_conversations_that_a_template_cannot_write(folder: Path, template: str | None, reason: str) -> None:
    context = with_template(folder, template)
    write_conversations(folder.parent, CONVERSATIONS)
    with pytest.raises(InputError, match=reason):
        sampler(context, kind="chat", file="chat.jsonl")


def test_what_begins_a_conversation_is_not_trained(folder: Path) -> None:
    context = load_context(open_model(folder), folder.parent)
    write_conversations(folder.parent, [[("assistant", "I begin."), *CONVERSATIONS[2]]])
    ids, weights, _ = sampler(context, kind="chat", file="chat.jsonl")(np.random.default_rng(0), 150)
    trained = [token for token, weight in zip(ids, weights, strict=True) if weight]
    text = AutoTokenizer.from_pretrained(folder).decode(trained)
    assert text.startswith("Done.<|im_end|>\n")
    assert "I begin." not in text


def test_chats_have_no_haystack() -> None:
    source = {"kind": "pairs", "file": "pairs.jsonl", "chat": True, "haystack": "text.txt"}
    with pytest.raises(ValidationError, match="chat and haystack cannot be combined"):
        TypeAdapter(AnySource).validate_python(source)
