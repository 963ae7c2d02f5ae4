"""Conversations as training data: messages of a JSONL file in the tokenizer's chat template."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contextgraft.errors import CheckpointError, InputError
from contextgraft.formats.tokenizer.chat_template import ChatRenderer
from contextgraft.training.data.json_lines import read_json_lines

CONVERSATION = '{"messages": [{"role": role, "content": text}, ...]}, at least one of the role assistant'


class Message(BaseModel):
    """Who says what; other keys, such as a name, are passed on to the template."""

    model_config = ConfigDict(extra="allow", strict=True)
    role: str
    content: str


class Conversation(BaseModel):
    """A line of the file; its other keys are not read."""

    model_config = ConfigDict(strict=True)
    messages: Annotated[list[Message], Field(min_length=2)]


def read_conversations(path: Path) -> list[list[dict[str, Any]]]:
    """The messages of each line; InputError names a line that is no conversation with an answer."""
    return read_json_lines(path, "conversation", CONVERSATION, _messages)


def _messages(value: Any) -> list[dict[str, Any]] | None:
    try:
        messages = Conversation.model_validate(value).messages
    except ValidationError:
        return None
    answered = any(message.role == "assistant" for message in messages[1:])
    return [message.model_dump() for message in messages] if answered else None


def render_conversations(path: Path, renderer: ChatRenderer) -> list[list[str]]:
    """The parts of every conversation of a file, as ChatRenderer.parts divides them."""
    rendered = []
    for number, messages in enumerate(read_conversations(path), 1):
        try:
            parts = renderer.parts(messages)
        except CheckpointError as error:
            raise InputError(
                f"conversation {number} cannot be written in the chat template", path=path, received=error
            ) from None
        if not any(part.strip() for part in parts):
            raise InputError(f"conversation {number} is empty in the chat template", path=path)
        rendered.append(parts)
    return rendered
