"""The backend that starts a server for one model, sends it the prompts, and stops it."""

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any, Self

from contextgraft.checkpoint.model_folder import MODEL_CONFIG, read_json
from contextgraft.config.server.backend import ServerBackend
from contextgraft.errors import ContextgraftError, InputError, ProcessEnded, SourceError
from contextgraft.evaluation.backends.base import GenerationRequest, Outcome, PrefillCount
from contextgraft.evaluation.backends.openai import CompletionsBackend
from contextgraft.evaluation.backends.server_process import HOST, ServerProcess, free_port, running_server
from contextgraft.evaluation.backends.written_model import write_model
from contextgraft.evaluation.models import EvalModel
from contextgraft.formats.model_card.server_words import llama_server_words, vllm_words

OUTTYPES = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "auto": "auto",
}  # of llama.cpp's converter
ARCHITECTURE = b"general.architecture"  # the first key of a GGUF file


@dataclass(frozen=True)
class ServedModel:
    """What a server is started with: `context` in tokens; `longer` if it exceeds the model's own.

    `temporary` is a folder for what is made from the model, None before there is one.
    """

    folder: Path
    context: int
    longer: bool
    dtype: str
    settings: ServerBackend
    temporary: Path | None = None


def vllm_command(served: ServedModel) -> list[object]:
    """The words that start vLLM.

    It refuses more tokens than the config's positions, although rotary positions do not end there. Sampling
    settings of the folder do not count: answers are greedy.
    """
    longer = {"max_position_embeddings": served.context}
    nested = "text_config" in read_json(served.folder / MODEL_CONFIG)
    override = json.dumps({"text_config": longer} if nested else longer)
    return [
        *vllm_words(served.folder, served.context),
        *("--dtype", served.dtype, "--tensor-parallel-size", served.settings.tensor_parallel),
        *(("--hf-overrides", override) if served.longer else ()),
        *("--generation-config", "vllm", "--enable-prefix-caching", "--served-model-name"),
    ]


def llama_server_command(served: ServedModel) -> list[object]:
    """The words that start llama.cpp's server, for which the folder is converted to GGUF first."""
    assert served.temporary is not None
    file = served.temporary / "model.gguf"
    options = (served.folder, "--outfile", file, "--outtype", OUTTYPES[served.dtype])
    words = [*served.settings.converter, *map(str, options)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        status, lines = f"exit status {done.returncode}", (done.stdout + done.stderr).splitlines()
    except OSError as error:
        status, lines = str(error), []
    if not file.exists() or status != "exit status 0":
        raise ProcessEnded(
            "the model was not converted to GGUF", path=served.folder, expected="exit status 0",
            received=f"{status} of {' '.join(served.settings.converter)}",
            remedy=f"its last lines: {' | '.join(filter(None, lines[-4:])) or 'none'}",
        )  # fmt: skip
    longer = f"{gguf_architecture(file)}.context_length=int:{served.context}"
    return [
        *llama_server_words(file, served.context),
        *(("--override-kv", longer) if served.longer else ()),
        "--alias",
    ]


# The words that start each server, up to the option whose value is the name of the model
SERVERS: dict[str, Callable[[ServedModel], list[object]]] = {
    "vllm": vllm_command,
    "llama-server": llama_server_command,
}


def gguf_architecture(file: Path) -> str:
    """The architecture that a GGUF file names, which is the prefix of its other keys."""
    with file.open("rb") as stream:
        head = stream.read(256)
    key = struct.pack("<Q", len(ARCHITECTURE)) + ARCHITECTURE + struct.pack("<I", 8)  # 8: a string
    begin = head.find(key)
    if begin < 0:
        raise ContextgraftError(
            "does not begin with its architecture", path=file, expected="GGUF of llama.cpp"
        )
    (size,) = struct.unpack_from("<Q", head, begin + len(key))
    return head[begin + len(key) + 8 :][:size].decode()


def check_server(settings: ServerBackend) -> None:
    """Raise InputError if the server, its converter or its temporary folder is not on this machine."""
    assert settings.serve is not None
    for program in (settings.serve, *settings.converter[:1]):
        if shutil.which(program) is None:
            raise InputError(
                f"evaluation.backend.serve is {settings.serve}, and a program of it is not installed",
                expected=f"{program} in PATH",
                received=os.environ.get("PATH", "no PATH"),
                remedy="install it, or put its folder into PATH",
            )
    if settings.temporary is not None and not Path(settings.temporary).is_dir():
        raise InputError("evaluation.backend.temporary is not a folder", path=settings.temporary)


def server_key(settings: ServerBackend) -> Mapping[str, Any]:
    """The settings that may change responses: which server, on how many GPUs, with which further words."""
    return {
        "backend": settings.serve,
        "tensor_parallel": settings.tensor_parallel,
        "args": settings.args,
        "converter": settings.converter,
    }


class ServedBackend:
    """A model whose server is started with the first request, and stopped at the end of a `with` block."""

    prefill: PrefillCount | None = None
    model = None

    def __init__(self, model: EvalModel, served: ServedModel, *, concurrent: int) -> None:
        self._model = model
        self._served = served
        self._concurrent = concurrent
        self._cleanup = ExitStack()
        self._running: tuple[ServerProcess, CompletionsBackend] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running = None
        self._cleanup.close()

    def responses(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Outcome]]:
        """The index of each request with its outcome; ProcessEnded if the server fails."""
        if self._running is None:
            self._running = self._start()
        server, backend = self._running
        try:
            yield from backend.responses(requests)
        except SourceError as error:
            received = server.ended() or str(error)
            raise server.failure("the server failed", "an answer to each prompt", received) from None

    def _start(self) -> tuple[ServerProcess, CompletionsBackend]:
        settings = self._served.settings
        assert settings.serve is not None
        made = TemporaryDirectory(prefix="contextgraft-", dir=settings.temporary)
        folder = Path(self._cleanup.enter_context(made))
        written = write_model(self._model, folder) if self._model.tensors else self._served.folder
        served = replace(self._served, folder=written, temporary=folder)
        port = free_port()
        name = f"contextgraft-{token_hex(8)}"  # no other server at the port has a model of this name
        words = [*SERVERS[settings.serve](served), name, "--host", HOST, "--port", port, *settings.args]
        seconds, command = settings.start_seconds, list(map(str, words))
        running = running_server(command, port, name, seconds=seconds, folder=folder)
        server = self._cleanup.enter_context(running)
        url = f"http://{HOST}:{port}/v1/completions"
        return server, CompletionsBackend(url, name, concurrent=self._concurrent)
