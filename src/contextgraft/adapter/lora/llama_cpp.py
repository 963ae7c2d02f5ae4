"""What llama.cpp calls the architectures of transformers; the package gguf is not imported."""

from enum import StrEnum
from typing import NamedTuple


class RowOrder(StrEnum):
    """How llama.cpp orders the rows of projections that RoPE rotates, or that hold q, k and v."""

    AS_STORED = "as stored"
    INTERLEAVED = "interleaved"  # rows of q and k: halves of a head become pairs
    SEPARATED = "separated"  # query_key_value: groups of heads become all q, all k, all v


class LlamaCppArchitecture(NamedTuple):
    """Name of an architecture in GGUF, and the order of the rows that differs from transformers'."""

    name: str
    rows: RowOrder = RowOrder.AS_STORED


GGUF_FILE = "adapter.gguf"
# by transformers' model_type; tests/consumers compares each with PEFT in llama.cpp itself
ARCHITECTURES = {
    "apertus": LlamaCppArchitecture("apertus"),
    "arcee": LlamaCppArchitecture("arcee", RowOrder.INTERLEAVED),
    "bloom": LlamaCppArchitecture("bloom", RowOrder.SEPARATED),
    "cohere": LlamaCppArchitecture("command-r"),
    "cohere2": LlamaCppArchitecture("cohere2"),
    "ernie4_5": LlamaCppArchitecture("ernie4_5"),
    "exaone4": LlamaCppArchitecture("exaone4"),
    "falcon": LlamaCppArchitecture("falcon", RowOrder.SEPARATED),
    "gemma": LlamaCppArchitecture("gemma"),
    "gemma2": LlamaCppArchitecture("gemma2"),
    "gemma3_text": LlamaCppArchitecture("gemma3"),
    "glm": LlamaCppArchitecture("chatglm"),
    "glm4": LlamaCppArchitecture("glm4"),
    "gpt2": LlamaCppArchitecture("gpt2"),
    "gpt_bigcode": LlamaCppArchitecture("starcoder"),
    "gpt_neox": LlamaCppArchitecture("gptneox", RowOrder.SEPARATED),
    "granite": LlamaCppArchitecture("granite", RowOrder.INTERLEAVED),
    "hunyuan_v1_dense": LlamaCppArchitecture("hunyuan-dense"),
    "llama": LlamaCppArchitecture("llama", RowOrder.INTERLEAVED),
    "mistral": LlamaCppArchitecture("llama", RowOrder.INTERLEAVED),
    "mpt": LlamaCppArchitecture("mpt"),
    "nemotron": LlamaCppArchitecture("nemotron"),
    "olmo": LlamaCppArchitecture("olmo", RowOrder.INTERLEAVED),
    "olmo2": LlamaCppArchitecture("olmo2"),
    "olmo3": LlamaCppArchitecture("olmo2"),
    "phi": LlamaCppArchitecture("phi2"),
    "phi3": LlamaCppArchitecture("phi3"),
    "qwen2": LlamaCppArchitecture("qwen2"),
    "qwen3": LlamaCppArchitecture("qwen3"),
    "seed_oss": LlamaCppArchitecture("seed_oss"),
    "smollm3": LlamaCppArchitecture("smollm3", RowOrder.INTERLEAVED),
    "stablelm": LlamaCppArchitecture("stablelm"),
    "starcoder2": LlamaCppArchitecture("starcoder2"),
}
