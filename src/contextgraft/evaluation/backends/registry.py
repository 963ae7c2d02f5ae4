"""The backends by name, and what each of them needs."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from contextgraft.checkpoint.model_folder import MODEL_CONFIG, read_json
from contextgraft.config.server.backend import ServerBackend
from contextgraft.errors import InputError, MissingExtra, SourceError, did_you_mean
from contextgraft.evaluation.backends.base import Backend, ChunkedBackend
from contextgraft.evaluation.backends.loading import (
    check_vocabulary,
    find_device,
    load_config,
    load_model,
    max_positions,
)
from contextgraft.evaluation.models import EvalModel
from contextgraft.rope import settings as rope_settings

IN_MEMORY = ("hf", "serve")  # backends of grafts that are not written


READ_BY = {"url": "openai", "model_name": "openai", "prefill_chunk": "hf"}  # values of one backend alone


@dataclass(frozen=True)
class BackendConfig:
    """How models are run; nothing here changes the questions.

    `url` and `model_name` are those of an OpenAI-compatible server, whose name for the model may differ;
    `server` is one that is started for each model.
    """

    backend: str = "hf"
    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 64
    prefill_chunk: int = 2048
    url: str | None = None
    model_name: str | None = None
    server: ServerBackend | None = None

    @property
    def in_process(self) -> bool:
        """Whether measurements can be made: the weights are in this process, as a module of torch."""
        return self.backend == "hf"


@dataclass(frozen=True)
class PromptLimits:
    """Over all prompts: tokens of the longest with its response, and the largest token id."""

    longest: int
    largest_id: int


def backend_key(config: BackendConfig) -> dict[str, Any]:
    """The settings that may change a model's responses; batch sizes and addresses do not."""
    key = {
        "device": config.device,
        "dtype": config.dtype,
        "backend": config.backend,
        "model_name": config.model_name,
    }
    if config.server is None:
        return key
    from contextgraft.evaluation.backends.served import server_key

    return key | {"server": server_key(config.server)}


def check_backend(config: BackendConfig, models: int, variants: int = 0) -> None:
    """Raise an error if the backend does not exist here or cannot run this many models and variants.

    SourceError for an address that is none: nothing is wrong with the models.
    """
    if config.backend not in BACKENDS:
        raise InputError(
            "no such backend", expected=", ".join(BACKENDS), received=config.backend,
            remedy=did_you_mean(config.backend, BACKENDS),
        )  # fmt: skip
    if variants and config.backend not in IN_MEMORY:
        raise InputError(
            f"--backend {config.backend} loads models from their files: no adapter is applied in memory",
            expected="--backend hf with --adapter and --control",
            remedy="write the grafts with `contextgraft merge`, and pass their folders",
        )
    if config.backend == "hf":
        find_device(config.device)
    if config.url is None and config.backend == "openai":
        raise InputError(
            "--backend openai needs the address of a server",
            remedy="pass --url http://HOST:PORT/v1/completions",
        )
    for name, backend in READ_BY.items():
        if getattr(config, name) != getattr(BackendConfig, name) and config.backend != backend:
            raise InputError(
                f"--{name.replace('_', '-')} would have no effect", expected=f"--backend {backend}",
                received=f"--backend {config.backend}", remedy="correct --backend, or leave the option out",
            )  # fmt: skip
    if config.url is not None and not config.url.startswith(("http://", "https://")):
        raise SourceError(
            "the server cannot be used", path=config.url, expected="http://HOST:PORT/v1/completions"
        )
    if config.backend == "vllm" and "vllm" not in sys.modules and find_spec("vllm") is None:
        raise MissingExtra("--backend vllm needs vLLM, which is not installed", remedy="pip install vllm")
    if config.backend == "openai" and models != 1:
        raise InputError(
            "a server holds one model",
            expected="one model",
            received=models,
            remedy="evaluate the models one after another, each with its own --out",
        )
    if config.server is not None:
        from contextgraft.evaluation.backends.served import check_server

        check_server(config.server)


def make_backend(model: EvalModel, config: BackendConfig, limits: PromptLimits) -> Backend:
    """The backend of one model, which is loaded if it runs in this process."""
    return BACKENDS[config.backend](model, config, limits)


def transformers_backend(model: EvalModel, config: BackendConfig, limits: PromptLimits) -> Backend:
    """The model in this process, by transformers."""
    from contextgraft.evaluation.backends.transformers import TransformersBackend

    with (model.tensors or nullcontext)() as tensors:
        module = load_model(model.path, find_device(config.device), config.dtype, tensors)
    check_vocabulary(module, model.path, limits.largest_id)
    return TransformersBackend(
        module,
        model.tokenizer.limited,
        batch_size=config.batch_size,
        longest=limits.longest,
        prefill_chunk=config.prefill_chunk,
    )


def openai_backend(model: EvalModel, config: BackendConfig, _: PromptLimits) -> Backend:
    """A server with OpenAI's completions API; it receives ids of the folder's own tokenizer."""
    from contextgraft.evaluation.backends.openai import CompletionsBackend

    assert config.url is not None, "checked by check_backend"
    name = config.model_name or str(model.path)
    return CompletionsBackend(config.url, name, concurrent=config.batch_size)


def vllm_backend(model: EvalModel, config: BackendConfig, limits: PromptLimits) -> Backend:
    """The model in this process, by vLLM."""
    try:
        from contextgraft.evaluation.backends.vllm import VllmGenerator
    except ImportError as error:
        raise MissingExtra(
            "--backend vllm needs vLLM", received=str(error), remedy="pip install vllm"
        ) from None
    # vLLM rejects more tokens than the config's positions, although rotary positions do not end there.
    rotary = max_positions(load_config(model.path)) is None
    overrides = {"max_position_embeddings": limits.longest} if rotary else {}
    generator = VllmGenerator(
        str(model.path), dtype=config.dtype, longest=limits.longest, overrides=overrides
    )
    return ChunkedBackend(generator, config.batch_size)


def served_backend(model: EvalModel, config: BackendConfig, limits: PromptLimits) -> Backend:
    """A server that is started for the model, with a context for its longest prompt."""
    from contextgraft.evaluation.backends.served import ServedBackend, ServedModel

    assert config.server is not None, "checked by check_backend"
    own = max_positions(load_config(model.path))
    context = limits.longest if own is None else min(own, limits.longest)
    if own is None:
        own = rope_settings.read(read_json(model.path / MODEL_CONFIG), model.path).context
    served = ServedModel(model.path, context, context > own, config.dtype, config.server)
    return ServedBackend(model, served, concurrent=config.batch_size)


BACKENDS: dict[str, Callable[[EvalModel, BackendConfig, PromptLimits], Backend]] = {
    "hf": transformers_backend,
    "openai": openai_backend,
    "vllm": vllm_backend,
    "serve": served_backend,
}
