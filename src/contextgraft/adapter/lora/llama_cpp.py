"""What llama.cpp calls the architectures of transformers; the package gguf is not imported."""

from typing import NamedTuple


class LlamaCppArchitecture(NamedTuple):
    """Name of an architecture in GGUF; whether its rows of q and k are stored as interleaved pairs."""

    name: str
    interleaved: bool


GGUF_FILE = "adapter.gguf"
# by transformers' model_type; tests/consumers compares each with PEFT in llama.cpp itself
ARCHITECTURES = {
    "cohere": LlamaCppArchitecture("command-r", False),
    "cohere2": LlamaCppArchitecture("cohere2", False),
    "ernie4_5": LlamaCppArchitecture("ernie4_5", False),
    "exaone4": LlamaCppArchitecture("exaone4", False),
    "gemma": LlamaCppArchitecture("gemma", False),
    "gemma2": LlamaCppArchitecture("gemma2", False),
    "gemma3_text": LlamaCppArchitecture("gemma3", False),
    "glm": LlamaCppArchitecture("chatglm", False),
    "granite": LlamaCppArchitecture("granite", True),
    "llama": LlamaCppArchitecture("llama", True),
    "mistral": LlamaCppArchitecture("llama", True),
    "nemotron": LlamaCppArchitecture("nemotron", False),
    "olmo": LlamaCppArchitecture("olmo", True),
    "olmo2": LlamaCppArchitecture("olmo2", False),
    "olmo3": LlamaCppArchitecture("olmo2", False),
    "phi3": LlamaCppArchitecture("phi3", False),
    "qwen2": LlamaCppArchitecture("qwen2", False),
    "qwen3": LlamaCppArchitecture("qwen3", False),
    "seed_oss": LlamaCppArchitecture("seed_oss", False),
    "smollm3": LlamaCppArchitecture("smollm3", True),
    "stablelm": LlamaCppArchitecture("stablelm", False),
    "starcoder2": LlamaCppArchitecture("starcoder2", False),
}
