"""What a tokenizer's chat template, a program that its author wrote, puts around messages."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from contextgraft.config.evaluation import Chat
from contextgraft.errors import CheckpointError, InputError
from contextgraft.formats.model.limited_process import LimitedProcess, ProcessBudget, run_limited
from contextgraft.formats.tokenizer.limited_tokenizer import LimitedTokenizer

MARK = "ContextgraftPrompt"  # takes the place of the prompt while a chat template is rendered
ANSWER, NEXT = "ContextgraftAnswer", "ContextgraftNext"  # of an answer, and of the message after it
# Messages that a template may treat in another way: long ones, lines, quotes, code, other scripts
LINES = (
    'The code of Anna\'s 2nd house is 41-06, and the key to it was 9873 5.  "Why?" <b>&amp;</b>\n\n'
    "\t- `x = {'a': [1]}` [link](http://x) $1 % \\n a + b = c, in that, for you, I or we\n"
    "das Haus \u00fc\u00df, \u4e2d\u6587\u3002 \U0001f600 #5 @me *a* _b_ | c ~ d; e: f! (g) END\n"
)
PROBES = (*(MARK,) * 5, LINES.strip(), (LINES * 300).strip())
TEMPLATE_BUDGET = ProcessBudget(cpu_seconds=5, memory=1 << 29)


def uses_template(tokenizer: LimitedTokenizer, chat: Chat) -> bool:
    """Whether a tokenizer's chat template is used: as requested; for "auto", if there is one."""
    return bool(tokenizer.hf.chat_template) if chat == "auto" else chat


def chat_frame(tokenizer: LimitedTokenizer) -> tuple[str, str]:
    """The text before a user's message, and that between it and the answer.

    InputError without a template, CheckpointError for one that does not show every message as it is.
    """
    rendered = _run(tokenizer, lambda: _one_message(tokenizer.hf))
    before, *rest = rendered.split(MARK)
    if len(rest) != 1:
        raise CheckpointError(
            "its chat template does not show the message as it is",
            path=tokenizer.path,
            expected="the user's message once",
            received=f"{len(rest)} times",
            remedy="set chat: false, or correct the template",
        )
    return before, rest[0]


def text_after_answer(tokenizer: LimitedTokenizer, frame: tuple[str, str]) -> str:
    """The text between an answer and the next message of the user; `frame` is that of `chat_frame`.

    CheckpointError for a template that writes a finished turn in another way than the one that is answered.
    """
    before, after = frame
    rendered = _run(tokenizer, lambda: _conversation(tokenizer.hf))
    begin, end = f"{before}{MARK}{after}{ANSWER}", f"{NEXT}{after}"
    if not rendered.startswith(begin) or not rendered.endswith(end) or len(rendered) <= len(begin + end):
        raise CheckpointError(
            "its chat template writes a finished turn in another way than the last one",
            path=tokenizer.path,
            remedy="set chat: false, or correct the template",
        )
    return rendered[len(begin) : -len(end)]


class ChatRenderer:
    """Renders conversations by a tokenizer's chat template, one after another, within limits.

    InputError without a template.
    """

    def __init__(self, tokenizer: LimitedTokenizer) -> None:
        _check_template(tokenizer, "use a base that has one, or data of kind pairs")
        self._hf = tokenizer.hf
        self._process = LimitedProcess(
            self._answer, "its chat template", tokenizer.path, TEMPLATE_BUDGET.memory
        )

    def parts(self, messages: Sequence[Mapping[str, str]]) -> list[str]:
        """The text of a conversation, divided where an answer of the assistant begins and behind its end.

        So every second part is an answer, with what ends it; what begins a conversation is none.
        CheckpointError for a template that writes an answer in another way when a message follows, or that
        fails on this conversation.
        """
        request = json.dumps(list(messages)).encode()
        parts: list[str] = json.loads(self._process.ask(request, TEMPLATE_BUDGET.cpu_seconds))
        return parts

    def _answer(self, request: bytes) -> bytes:
        """In the process: the parts of the conversation of a request."""
        messages = json.loads(request)
        parts, done = [], ""
        for number, message in enumerate(messages):
            if message["role"] != "assistant" or number == 0:  # transformers renders no empty conversation
                continue
            asked = _render_messages(self._hf, messages[:number], answer=True)
            answered = _render_messages(self._hf, messages[: number + 1])
            if not (asked.startswith(done) and answered.startswith(asked)):
                raise ValueError("it writes a finished turn in another way than the last one")
            parts += [asked[len(done) :], answered[len(asked) :]]
            done = answered
        return json.dumps(parts).encode()


def _check_template(tokenizer: LimitedTokenizer, remedy: str) -> None:
    if not tokenizer.hf.chat_template:
        raise InputError("the tokenizer has no chat template", path=tokenizer.path, remedy=remedy)


def _run(tokenizer: LimitedTokenizer, render: Callable[[], str]) -> str:
    _check_template(tokenizer, "set chat: false")
    return run_limited(render, "its chat template", tokenizer.path, TEMPLATE_BUDGET)


def _one_message(hf: Any) -> str:
    """The chat template around one message of the user, which is MARK.

    ValueError for a template that does not show every message as it shows MARK, such as one that cuts
    long messages, replaces words, or draws a random text.
    """
    rendered = _render(hf, MARK)
    for text in PROBES:
        if rendered.count(MARK) == 1 and _render(hf, text) != rendered.replace(MARK, text):
            raise ValueError(f"it changes a message of {len(text):,} characters, or the text around it")
    return rendered


def _conversation(hf: Any) -> str:
    return _render(hf, MARK, ANSWER, NEXT)


def _render(hf: Any, *contents: str) -> str:
    """Messages of the user and the assistant in turn, and the begin of an answer."""
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]
    return _render_messages(hf, messages, answer=True)


def _render_messages(hf: Any, messages: Sequence[Mapping[str, str]], *, answer: bool = False) -> str:
    """Messages, with the begin of an answer if one is asked for."""
    text: str = hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer)
    return text
