"""The command that starts each server with an adapter, or with a graft, at the donor's context length.

vLLM and SGLang take RoPE settings as an override of config.json, llama.cpp as options of its own.
"""

import json
import math
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.base_model import base_model
from contextgraft.adapter.lora.llama_cpp import ARCHITECTURES, GGUF_FILE
from contextgraft.adapter.lora.vllm import audit_for_vllm
from contextgraft.rope import settings
from contextgraft.rope.settings import RopeSettings

MERGE = "merge it (contextgraft merge) and serve the graft"
NESTED = (
    "language_model."  # in tensor names of models whose config.json has the language model in text_config
)


@dataclass(frozen=True)
class ServerCommand:
    """A command quoted for a POSIX shell; None if the server cannot take the adapter: `note` says why."""

    server: str
    command: str | None
    note: str | None = None


def adapter_commands(adapter: Adapter) -> tuple[ServerCommand, ...]:
    """The commands that load an adapter on its base, with the donor's RoPE settings and context length."""
    return (_vllm(adapter), _llama_cpp(adapter), _sglang(adapter))


def graft_commands(path: Path, context: int) -> tuple[ServerCommand, ...]:
    """The commands for a graft, whose own config has the RoPE settings; `context` in tokens."""
    file = f"{path.resolve().name}.gguf"
    return (
        _command("vLLM", "vllm", "serve", path, "--max-model-len", context),
        _command(
            "llama.cpp", "llama-server", "--model", file, "--ctx-size", context, "--parallel", 1,
            note=f"{file} is this folder converted by llama.cpp's convert_hf_to_gguf.py",
        ),
        _command("SGLang", "sglang", "serve", "--model-path", path, "--context-length", context),
    )  # fmt: skip


def to_json(commands: tuple[ServerCommand, ...]) -> list[dict[str, Any]]:
    """The commands as plain JSON values."""
    return [asdict(command) for command in commands]


def command_lines(commands: list[dict[str, Any]]) -> list[str]:
    """The commands as lines of text, each complete on one line."""
    lines = []
    for command in commands:
        lines.append(f"{command['server']:<14}{command['command'] or 'no command'}")
        lines += [f"  note        {command['note']}"] if command["note"] else []
    return lines


def config_override(adapter: Adapter, rope: RopeSettings) -> str:
    """The keys of config.json that give the base the donor's RoPE and attention settings, as JSON.

    Both servers multiply `max_position_embeddings` by a linear or dynamic factor, and not by YaRN's.
    """
    flat = {"rope_type": rope.rope_type, "rope_theta": rope.theta, **rope.extra}
    yarn = rope.rope_type == "yarn" and not rope.by_layer_type
    if yarn:
        flat.setdefault("original_max_position_embeddings", rope.max_positions)
    override = {
        "rope_parameters": dict(rope.by_layer_type) or flat,
        "max_position_embeddings": rope.context if yarn else rope.max_positions,
        **{name: setting.donor for name, setting in (adapter.attention or {}).items()},
    }
    nested = any(NESTED in name for name in adapter.factors)
    return json.dumps({"text_config": override} if nested else override)


def vllm_options(adapter: Adapter, max_lora_rank: int | None) -> tuple[str, ...]:
    """The options of `vllm serve` for an adapter, its name and path aside, each quoted with its value."""
    options: list[tuple[object, ...]] = [("--enable-lora",)]
    if max_lora_rank is not None:
        options.append(("--max-lora-rank", max_lora_rank))
    if adapter.rope is not None:
        options.append(("--hf-overrides", config_override(adapter, adapter.rope)))
        options.append(("--max-model-len", adapter.rope.context))
    return tuple(_quoted(*option) for option in options)


def _vllm(adapter: Adapter) -> ServerCommand:
    audit = audit_for_vllm(adapter)
    if audit.problems:
        return ServerCommand("vLLM", None, f"vLLM cannot serve the adapter: {MERGE}")
    named = _quoted("vllm", "serve", *_base(adapter), "--lora-modules", _named(adapter, "name", "path"))
    return ServerCommand("vLLM", " ".join([named, *vllm_options(adapter, audit.max_lora_rank)]))


def _sglang(adapter: Adapter) -> ServerCommand:
    words: list[object] = ["--enable-lora", "--lora-paths", _named(adapter, "lora_name", "lora_path")]
    if adapter.rope is not None:
        words += ["--json-model-override-args", config_override(adapter, adapter.rope)]
        words += ["--context-length", adapter.rope.context]
    return _command("SGLang", "sglang", "serve", "--model-path", *_base(adapter), *words)


def _llama_cpp(adapter: Adapter) -> ServerCommand:
    sidecar = adapter.sidecar or {}
    architecture = ARCHITECTURES.get(str(sidecar.get("architecture", {}).get("model_type")))
    if sidecar and architecture is None:
        return ServerCommand("llama.cpp", None, f"its architecture cannot be written as GGUF: {MERGE}")
    if adapter.attention:
        changed = ", ".join(adapter.attention)
        return ServerCommand("llama.cpp", None, f"no option sets the donor's {changed}: {MERGE}")
    options: list[object] = []
    if adapter.rope is not None and architecture is not None:
        rope = _llama_cpp_rope(adapter.rope, settings.from_json(sidecar["rope"]["base"]))
        if rope is None:
            return ServerCommand("llama.cpp", None, f"no option sets this kind of RoPE: {MERGE}")
        length = adapter.rope.context
        options = [*rope, "--ctx-size", length, "--parallel", 1]
        options += ["--override-kv", f"{architecture.name}.context_length=int:{length}"]
    file = adapter.path / GGUF_FILE
    note = "base.gguf is the base converted by llama.cpp's convert_hf_to_gguf.py"
    note += "" if file.exists() else f"; {GGUF_FILE} is written by extract --gguf"
    return _command("llama.cpp", "llama-server", "--model", "base.gguf", "--lora", file, *options, note=note)


def _llama_cpp_rope(rope: RopeSettings, base: RopeSettings) -> list[object] | None:
    """llama-server's options for RoPE settings; None if it has none.

    The factors of Llama 3 and LongRoPE are tensors of the model's file, made for the base's own settings.
    """
    if rope.by_layer_type:
        return [] if rope.by_layer_type == base.by_layer_type else None
    theta: list[object] = ["--rope-freq-base", f"{rope.theta:.17g}"]
    if rope.rope_type == "default":
        return theta if base.rope_type == "default" else [*theta, "--rope-scaling", "none"]
    factor = rope.extra.get("factor")
    if rope.rope_type == "linear":
        return [*theta, "--rope-scaling", "linear", "--rope-scale", factor]
    if rope.rope_type == "yarn" and factor:
        return [*theta, "--rope-scaling", "yarn", "--rope-scale", factor, *_yarn(rope, float(factor))]
    unchanged = (rope.theta, rope.rope_type, rope.extra) == (base.theta, base.rope_type, base.extra)
    return [] if unchanged else None


def _yarn(rope: RopeSettings, factor: float) -> Iterator[object]:
    """The further options of YaRN, where they differ from what llama.cpp assumes."""
    extra = rope.extra
    yield from ("--yarn-orig-ctx", extra.get("original_max_position_embeddings", rope.max_positions))
    for key, option in (("beta_fast", "--yarn-beta-fast"), ("beta_slow", "--yarn-beta-slow")):
        if extra.get(key) is not None:
            yield from (option, extra[key])
    if extra.get("attention_factor") is not None:  # llama.cpp multiplies its own factor by this option
        yield from ("--yarn-attn-factor", extra["attention_factor"] / (0.1 * math.log(factor) + 1))


def _base(adapter: Adapter) -> list[object]:
    base = base_model(adapter)
    return [base.name, *(["--revision", base.revision] if base.revision else [])]


def _named(adapter: Adapter, name: str, path: str) -> str:
    """The adapter as NAME=PATH, or as JSON with these keys where NAME=PATH would be misread."""
    called, folder = adapter.path.resolve().name, str(adapter.path)
    if set("=,{} ").isdisjoint(called + folder):
        return f"{called}={folder}"
    return json.dumps({name: called, path: folder})


def _command(server: str, *words: object, note: str | None = None) -> ServerCommand:
    return ServerCommand(server, _quoted(*words), note)


def _quoted(*words: object) -> str:
    return shlex.join(str(word) for word in words)
