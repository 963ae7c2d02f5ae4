"""What llama.cpp calls the architectures of transformers; the package gguf is not imported."""

from collections.abc import Collection, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

GGUF_FILE = "adapter.gguf"


class RowOrder(StrEnum):
    """How llama.cpp orders or scales the rows of weights whose shape it keeps."""

    AS_STORED = "as stored"
    INTERLEAVED = "interleaved"  # rows of q and k: halves of a head become pairs
    SEPARATED = "separated"  # query_key_value: groups of heads become all q, all k, all v
    MULTIPLIED = "multiplied"  # by the multipliers of Falcon-H1's config, which its converter applies


class RowSelection(StrEnum):
    """Which rows of a weight are one of llama.cpp's weights."""

    ALL = "all"
    FIRST_HALF = "first half"
    SECOND_HALF = "second half"
    EVEN = "even"
    ODD = "odd"


Split = Mapping[str, Mapping[str, RowSelection]]  # by the end of a module's name, then by llama.cpp's weight


class LlamaCppArchitecture(NamedTuple):
    """An architecture in GGUF, and what llama.cpp stores in another way than transformers.

    `split` are modules that it stores as several weights, or under a name that the gguf package does not map;
    `inputs_first` the ends of names of stacked experts that are stored as [experts, inputs, outputs].
    """

    name: str
    rows: RowOrder = RowOrder.AS_STORED
    split: Split = MappingProxyType({})
    inputs_first: tuple[str, ...] = ()


def _gate_and_up(gate: str, up: str) -> Mapping[str, RowSelection]:
    return {gate: RowSelection.FIRST_HALF, up: RowSelection.SECOND_HALF}


EXPERTS = _gate_and_up("ffn_gate_exps", "ffn_up_exps")
STACKED_EXPERTS: Split = {  # of every architecture, by the names that transformers 5 has in memory
    "experts.gate_up_proj": EXPERTS, "experts.down_proj": {"ffn_down_exps": RowSelection.ALL}
}  # fmt: skip
SHARED_EXPERT = {"shared_mlp.input_linear": _gate_and_up("ffn_gate_shexp", "ffn_up_shexp")}
DENSE_LAYER = {
    "shared_mlp.input_linear": _gate_and_up("ffn_gate", "ffn_up"),
    "shared_mlp.output_linear": {"ffn_down": RowSelection.ALL},
}
GPT_OSS_EXPERTS = {
    "experts.gate_up_proj": {"ffn_gate_exps": RowSelection.EVEN, "ffn_up_exps": RowSelection.ODD}
}
BOTH_EXPERT_WEIGHTS = ("experts.gate_up_proj", "experts.down_proj")
# by transformers' model_type; tests/consumers compares each with the donor in llama.cpp itself
ARCHITECTURES = {
    "apertus": LlamaCppArchitecture("apertus"),
    "arcee": LlamaCppArchitecture("arcee", RowOrder.INTERLEAVED),
    "bloom": LlamaCppArchitecture("bloom", RowOrder.SEPARATED),
    "cohere": LlamaCppArchitecture("command-r"),
    "cohere2": LlamaCppArchitecture("cohere2"),
    "dots1": LlamaCppArchitecture("dots1"),
    "ernie4_5": LlamaCppArchitecture("ernie4_5"),
    "ernie4_5_moe": LlamaCppArchitecture("ernie4_5-moe"),
    "exaone4": LlamaCppArchitecture("exaone4"),
    "falcon": LlamaCppArchitecture("falcon", RowOrder.SEPARATED),
    "falcon_h1": LlamaCppArchitecture("falcon-h1", RowOrder.MULTIPLIED),
    "gemma": LlamaCppArchitecture("gemma"),
    "gemma2": LlamaCppArchitecture("gemma2"),
    "gemma3_text": LlamaCppArchitecture("gemma3"),
    "glm": LlamaCppArchitecture("chatglm"),
    "glm4": LlamaCppArchitecture("glm4"),
    "glm4_moe": LlamaCppArchitecture("glm4moe"),
    "gpt2": LlamaCppArchitecture("gpt2"),
    "gpt_bigcode": LlamaCppArchitecture("starcoder"),
    "gpt_neox": LlamaCppArchitecture("gptneox", RowOrder.SEPARATED),
    "gpt_oss": LlamaCppArchitecture("gpt-oss", split=GPT_OSS_EXPERTS, inputs_first=BOTH_EXPERT_WEIGHTS),
    "granite": LlamaCppArchitecture("granite", RowOrder.INTERLEAVED),
    "granitemoe": LlamaCppArchitecture("granitemoe", RowOrder.INTERLEAVED, SHARED_EXPERT),
    "granitemoeshared": LlamaCppArchitecture("granitemoe", RowOrder.INTERLEAVED, SHARED_EXPERT),
    "hunyuan_v1_dense": LlamaCppArchitecture("hunyuan-dense"),
    "hunyuan_v1_moe": LlamaCppArchitecture("hunyuan-moe"),
    "jamba": LlamaCppArchitecture("jamba"),
    "lfm2": LlamaCppArchitecture("lfm2"),
    "lfm2_moe": LlamaCppArchitecture("lfm2moe"),
    "llama": LlamaCppArchitecture("llama", RowOrder.INTERLEAVED),
    "llama4_text": LlamaCppArchitecture("llama4", inputs_first=BOTH_EXPERT_WEIGHTS),
    "minimax_m2": LlamaCppArchitecture("minimax-m2"),
    "ministral3": LlamaCppArchitecture("mistral3", RowOrder.INTERLEAVED),
    "mistral": LlamaCppArchitecture("llama", RowOrder.INTERLEAVED),
    "mixtral": LlamaCppArchitecture("llama", RowOrder.INTERLEAVED),
    "mpt": LlamaCppArchitecture("mpt"),
    "nemotron": LlamaCppArchitecture("nemotron"),
    "olmo": LlamaCppArchitecture("olmo", RowOrder.INTERLEAVED),
    "olmo2": LlamaCppArchitecture("olmo2"),
    "olmo3": LlamaCppArchitecture("olmo2"),
    "olmoe": LlamaCppArchitecture("olmoe"),
    "phi": LlamaCppArchitecture("phi2"),
    "phi3": LlamaCppArchitecture("phi3"),
    "qwen2": LlamaCppArchitecture("qwen2"),
    "qwen2_moe": LlamaCppArchitecture("qwen2moe"),
    "qwen3": LlamaCppArchitecture("qwen3"),
    "qwen3_moe": LlamaCppArchitecture("qwen3moe"),
    "seed_oss": LlamaCppArchitecture("seed_oss"),
    "smollm3": LlamaCppArchitecture("smollm3", RowOrder.INTERLEAVED),
    "stablelm": LlamaCppArchitecture("stablelm"),
    "starcoder2": LlamaCppArchitecture("starcoder2"),
}
# of one model_type, by what is in the names of tensors: the first that fits counts
VARIANTS = {
    "granitemoehybrid": {
        (".mamba.", ".block_sparse_moe."): LlamaCppArchitecture(
            "granitehybrid", RowOrder.INTERLEAVED, SHARED_EXPERT
        ),
        (".mamba.",): LlamaCppArchitecture("granitehybrid", RowOrder.INTERLEAVED, DENSE_LAYER),
        (".block_sparse_moe.",): LlamaCppArchitecture("granitemoe", RowOrder.INTERLEAVED, SHARED_EXPERT),
        (): LlamaCppArchitecture("granite", RowOrder.INTERLEAVED, DENSE_LAYER),
    },
}
# why others get no adapter
ABSENT = "llama.cpp has no such architecture"
LATENT = "llama.cpp stores kv_b_proj as two weights by head, which it multiplies without adapters"
NO_ADAPTER = {
    **dict.fromkeys(
        (
            "biogpt", "codegen", "cwm", "doge", "flex_olmo", "gpt_neo", "gptj", "helium", "longcat_flash",
            "minimax", "ministral", "modernbert-decoder", "nanochat", "opt", "persimmon", "vaultgemma",
            "zamba2",
        ),
        ABSENT,
    ),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), LATENT),
    "phimoe": "llama.cpp computes another model than PhiMoE, with RMS norms for its layer norms and one "
    "softmax for the weights of both experts",
    "dbrx": "an adapter has factors of all its experts in one matrix, llama.cpp those of single experts",
}  # fmt: skip


def find_architecture(model_type: str, tensors: Collection[str]) -> LlamaCppArchitecture | None:
    """The architecture of a model with these tensors; None if no adapter in GGUF is written for it."""
    for fragments, architecture in VARIANTS.get(model_type, {}).items():
        if all(any(fragment in name for name in tensors) for fragment in fragments):
            return architecture
    return ARCHITECTURES.get(model_type)
