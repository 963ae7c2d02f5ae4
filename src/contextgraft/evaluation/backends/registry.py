"""How models are run: the backends of lm-eval by name, and what each of them needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from contextgraft.errors import InputError
from contextgraft.evaluation.backends.base import Backend, Portions
from contextgraft.evaluation.backends.loading import (
    check_vocabulary,
    find_device,
    load_config,
    load_model,
    positions,
)
from contextgraft.evaluation.harness import quiet
from contextgraft.evaluation.models import Candidate


@dataclass(frozen=True)
class Engine:
    """How models are run; none of it changes which questions are asked.

    `url` and `model_name` are those of an OpenAI-compatible server, whose name for the model may differ.
    """

    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 64
    prefill_chunk: int = 2048
    backend: str = "hf"
    url: str | None = None
    model_name: str | None = None


@dataclass(frozen=True)
class Needs:
    """Of all prompts together: the longest with its answer, in tokens, and the largest token id."""

    longest: int
    largest: int


def engine_key(engine: Engine) -> dict[str, Any]:
    """What of an engine belongs to a model's rows; batches and addresses do not change answers."""
    return {
        "device": engine.device,
        "dtype": engine.dtype,
        "backend": engine.backend,
        "model_name": engine.model_name,
    }


def check_engine(engine: Engine, models: int) -> None:
    """Raise InputError if the engine cannot ask that many models."""
    if engine.backend not in BACKENDS:
        raise InputError("no such backend", expected=", ".join(BACKENDS), received=engine.backend)
    if engine.backend == "hf":
        find_device(engine.device)
    if (engine.url is None) == (engine.backend == "openai"):
        raise InputError(
            f"--backend {engine.backend} and --url do not go together",
            remedy="pass --backend openai --url http://HOST:PORT/v1/completions",
        )
    if engine.backend == "openai" and models != 1:
        raise InputError(
            "a server holds one model",
            expected="one model",
            received=models,
            remedy="evaluate them one after the other, each with its own --out",
        )


def make_backend(each: Candidate, engine: Engine, needs: Needs) -> Backend:
    """The model as something that can be asked, loaded where it runs here."""
    with quiet():
        return BACKENDS[engine.backend](each, engine, needs)


def hugging_face(each: Candidate, engine: Engine, needs: Needs) -> Backend:
    """The model in this process, by transformers."""
    from contextgraft.evaluation.backends.transformers import TokenLM

    model = load_model(each.path, find_device(engine.device), engine.dtype)
    check_vocabulary(model, each.path, needs.largest)
    return TokenLM(
        model,
        each.tokens.tokenizer,
        batch_size=engine.batch_size,
        longest=needs.longest,
        prefill_chunk=engine.prefill_chunk,
    )


def open_ai(each: Candidate, engine: Engine, needs: Needs) -> Backend:
    """A server that speaks OpenAI's completions; it is given ids of the folder's own tokenizer."""
    from contextgraft.evaluation.backends.openai import ServerLM

    assert engine.url is not None, "checked before"
    name = engine.model_name or str(each.path)
    lm = ServerLM(engine.url, name, each.path, concurrent=engine.batch_size, longest=needs.longest)
    return Portions(lm, engine.batch_size)


def vllm(each: Candidate, engine: Engine, needs: Needs) -> Backend:
    """The model in this process, by vLLM."""
    try:
        from contextgraft.evaluation.backends.vllm import VllmTokenLM
    except ImportError as error:
        raise InputError(
            "--backend vllm needs vLLM", received=str(error), remedy="pip install vllm"
        ) from None
    # vLLM refuses more than the config's positions, which rotary angles do not need.
    config = load_config(each.path)
    beyond = {"max_position_embeddings": needs.longest} if positions(config) is None else {}
    lm = VllmTokenLM(
        pretrained=str(each.path),
        dtype=engine.dtype,
        max_model_len=needs.longest,
        hf_overrides=beyond,
        enable_prefix_caching=True,
        batch_size="auto",
    )
    return Portions(lm, engine.batch_size)


BACKENDS: dict[str, Callable[[Candidate, Engine, Needs], Backend]] = {
    "hf": hugging_face,
    "openai": open_ai,
    "vllm": vllm,
}
