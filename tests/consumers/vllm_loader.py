"""What vLLM's own LoRA loader says of adapters, run from its Python files without its engine.

Usage: vllm_loader.py VLLM ADAPTER...; prints as JSON, for each adapter, its error, or rank and scaling of
every module. The loader's files are run as published; only what they import for GPUs, logging and types is
replaced, and of `utils.py`, which imports every layer, the functions that the loader calls are taken. Modules
are those of vLLM's Llama: its class `LlamaForCausalLM` is read for the names that it packs and embeds.
"""

import ast
import json
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

VLLM = Path(sys.argv[1]) / "vllm"
USED = ("parse_fine_tuned_lora_name", "is_base_embedding_weights", "get_lora_id")


class Logger(logging.Logger):
    def info_once(self, *words: object) -> None:
        pass


def module(name: str, **content: Any) -> ModuleType:
    result = ModuleType(name)
    result.__dict__.update(content)
    result.__path__ = []
    sys.modules[name] = result
    return result


def run(name: str, file: str) -> ModuleType:
    """Execute a file of vLLM as it is."""
    path = VLLM / file
    result = module(name, __file__=str(path))
    exec(compile(path.read_text(), str(path), "exec"), result.__dict__)
    return result


def parts(file: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Functions and assignments of a file, without its imports."""
    found: dict[str, Any] = {"_GLOBAL_LORA_ID": 0}
    for node in ast.parse((VLLM / file).read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name in names:
            exec(compile(ast.Module([node], []), file, "exec"), found)
    return found


def class_value(file: str, cls: str, name: str) -> Any:
    """A literal in the body of a class."""
    tree = ast.parse((VLLM / file).read_text())
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls)
    for node in body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            return ast.literal_eval(node.value)
    raise LookupError(name)


def max_lora_ranks() -> tuple[int, ...]:
    """The values that vLLM accepts for --max-lora-rank."""
    for node in ast.parse((VLLM / "config/lora.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "MaxLoRARanks":
            assert isinstance(node.value, ast.Subscript)
            ranks: tuple[int, ...] = ast.literal_eval(node.value.slice)
            return ranks
    raise LookupError("MaxLoRARanks")


for name in ("vllm", "vllm.config", "vllm.lora", "vllm.model_executor", "vllm.model_executor.models"):
    module(name)
module("vllm.logger", init_logger=Logger)
module("vllm.config.lora", LoRAConfig=object)
module("vllm.utils.torch_utils", PIN_MEMORY=False)
module("vllm.model_executor.models.utils", WeightsMapper=object)
helper = run("vllm.lora.peft_helper", "lora/peft_helper.py").PEFTHelper
run("vllm.lora.lora_weights", "lora/lora_weights.py")
module("vllm.lora.utils", **parts("lora/utils.py", USED))
model = run("vllm.lora.lora_model", "lora/lora_model.py").LoRAModel
LLAMA = ("model_executor/models/llama.py", "LlamaForCausalLM")
packed = class_value(*LLAMA, "packed_modules_mapping")
expected = {name for names in packed.values() for name in names} | {"o_proj", "down_proj"}
expected |= set(class_value(*LLAMA, "embedding_modules"))


def verdict(path: str) -> dict[str, Any]:
    """The steps of WorkerLoRAManager._load_adapter, with the largest --max-lora-rank."""
    try:
        peft = helper.from_local_dir(path, 128)
        peft.validate_legal(SimpleNamespace(max_lora_rank=max_lora_ranks()[-1]))
        loaded = model.from_local_checkpoint(path, expected, peft, lora_model_id=1, device="cpu")
    except Exception as error:  # whatever stops it is its answer
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    modules = {name: [weights.rank, float(weights.scaling)] for name, weights in loaded.loras.items()}
    return {"modules": modules, "required": max([peft.r, *peft.rank_pattern.values()])}


ranks = list(max_lora_ranks())
print(json.dumps({"ranks": ranks, "adapters": {path: verdict(path) for path in sys.argv[2:]}}))
