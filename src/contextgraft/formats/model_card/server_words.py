"""The words that start each server with a whole model, whose own config has the RoPE settings.

`inspect` prints them and `evaluate` starts servers with them. `context` is in tokens; without any, the server
decides.
"""

from pathlib import Path


def vllm_words(folder: Path | str, context: int) -> list[object]:
    """A model folder, for vLLM."""
    return ["vllm", "serve", folder, *_option("--max-model-len", context)]


def llama_server_words(file: Path | str, context: int) -> list[object]:
    """A model in GGUF, for llama.cpp's server; one slot, because the slots share the context."""
    return ["llama-server", "--model", file, *_option("--ctx-size", context), "--parallel", 1]


def sglang_words(folder: Path | str, context: int) -> list[object]:
    """A model folder, for SGLang."""
    return ["sglang", "serve", "--model-path", folder, *_option("--context-length", context)]


def _option(name: str, context: int) -> list[object]:
    return [name, context] if context else []
