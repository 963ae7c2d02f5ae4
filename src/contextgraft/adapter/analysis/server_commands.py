"""The command that starts each server with an adapter, or with a graft, at the donor's context length.

vLLM and SGLang take RoPE settings as an override of config.json, llama.cpp as options of its own.
"""

import json
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contextgraft.adapter.analysis.llama_cpp_options import attention_factor_ratio, llama_cpp_rope_options
from contextgraft.adapter.gguf.llama_cpp import GGUF_FILE, find_architecture
from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.base_model import base_model
from contextgraft.adapter.lora.sglang import sglang_problems
from contextgraft.adapter.lora.vllm import audit_for_vllm
from contextgraft.formats.model_card.server_words import llama_server_words, sglang_words, vllm_words
from contextgraft.formats.model_card.usage import ServerCommand
from contextgraft.rope import settings
from contextgraft.rope.config_form import class_fraction
from contextgraft.rope.settings import ORIGINAL, PARTIAL, RopeSettings

WITH_ORIGINAL = ("yarn", "llama3", "longrope")  # types whose parameters need the original length
MERGE = "merge it (contextgraft merge) and serve the graft"
BASE = "BASE"
OF_OUR_SOURCES = re.compile(r"\w+:")  # demo:base, package:NAME: only `contextgraft fetch` knows these
NESTED = (
    "language_model."  # in tensor names of models whose config.json has the language model in text_config
)


def adapter_commands(adapter: Adapter, shown: Path | None = None) -> tuple[ServerCommand, ...]:
    """The commands that load an adapter on its base, with the donor's RoPE settings and context length.

    `shown` is the folder that they name, by default the adapter's.
    """
    folder = shown or adapter.path
    return (_vllm(adapter, folder), _llama_cpp(adapter, folder), _sglang(adapter, folder))


def graft_commands(path: Path, context: int) -> tuple[ServerCommand, ...]:
    """The commands for a graft, whose own config has the RoPE settings; `context` in tokens."""
    file = f"{path.resolve().name}.gguf"
    return (
        _command("vLLM", *vllm_words(path, context)),
        _command(
            "llama.cpp", *llama_server_words(file, context),
            note=f"{file} is this folder converted by llama.cpp's convert_hf_to_gguf.py",
        ),
        _command("SGLang", *sglang_words(path, context)),
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


def config_override(adapter: Adapter, rope: RopeSettings) -> dict[str, Any]:
    """The keys of config.json that give the base the donor's RoPE and attention settings.

    Both servers multiply `max_position_embeddings` by a linear or dynamic factor, and not by YaRN's.
    """
    attention = {name: setting.donor for name, setting in (adapter.attention or {}).items()}
    if not rope.max_positions and rope == settings.from_json((adapter.sidecar or {})["rope"]["base"]):
        return attention  # of a class without positions
    flat = {"rope_type": rope.rope_type, "rope_theta": rope.theta, **rope.extra, **_whole_head(adapter, rope)}
    if rope.rope_type in WITH_ORIGINAL:
        flat.setdefault(ORIGINAL, rope.max_positions)
    if rope.rope_type == "longrope" and rope.extra.get("attention_factor") is not None:
        flat |= dict.fromkeys(("short_mscale", "long_mscale"), rope.extra["attention_factor"])
    yarn = rope.rope_type == "yarn" and not rope.by_layer_type
    return {
        "rope_parameters": dict(rope.by_layer_type) or flat,
        **({"max_position_embeddings": rope.context if yarn else rope.max_positions} if rope.context else {}),
        **attention,
    }


def _whole_head(adapter: Adapter, rope: RopeSettings) -> dict[str, float]:
    """The rotated fraction of a donor whose whole heads rotate, where base or class may have another."""
    if PARTIAL[0] in rope.extra or not rope.fraction_known:
        return {}
    sidecar = adapter.sidecar or {}
    base = settings.from_json(sidecar["rope"]["base"])
    architecture = {"model_type": sidecar["architecture"].get("model_type")}
    return {PARTIAL[0]: 1.0} if PARTIAL[0] in base.extra or class_fraction(architecture) != 1 else {}


def _as_option(adapter: Adapter, override: dict[str, Any]) -> str:
    """The keys as JSON, where the base's config.json has them."""
    nested = any(NESTED in name for name in adapter.factors)
    return json.dumps({"text_config": override} if nested else override)


def vllm_options(adapter: Adapter, max_lora_rank: int | None) -> tuple[str, ...]:
    """The options of `vllm serve` for an adapter, its name and path aside, each quoted with its value."""
    options: list[tuple[object, ...]] = [("--enable-lora",)]
    if max_lora_rank is not None:
        options.append(("--max-lora-rank", max_lora_rank))
    if adapter.rope is not None:
        if override := config_override(adapter, adapter.rope):
            options.append(("--hf-overrides", _as_option(adapter, override)))
        if adapter.rope.context:
            options.append(("--max-model-len", adapter.rope.context))
    return tuple(_quoted(*option) for option in options)


def _vllm(adapter: Adapter, folder: Path) -> ServerCommand:
    audit = audit_for_vllm(adapter)
    if audit.problems:
        return ServerCommand("vLLM", None, f"vLLM cannot serve the adapter: {MERGE}")
    base, note = _base(adapter)
    named = _quoted("vllm", "serve", *base, "--lora-modules", _named(folder, "name", "path"))
    return ServerCommand("vLLM", " ".join([named, *vllm_options(adapter, audit.max_lora_rank)]), note)


def _sglang(adapter: Adapter, folder: Path) -> ServerCommand:
    problems = sglang_problems(adapter)
    if problems:
        return ServerCommand("SGLang", None, f"SGLang cannot serve the adapter, {problems[0]}: {MERGE}")
    words: list[object] = ["--enable-lora", "--lora-paths", _named(folder, "lora_name", "lora_path")]
    if adapter.rope is not None:
        override = _sglang_override(adapter, adapter.rope)
        if override is None:
            reason = f"SGLang would keep keys of the base's RoPE settings that the donor lacks: {MERGE}"
            return ServerCommand("SGLang", None, reason)
        words += ["--json-model-override-args", _as_option(adapter, override)] if override else []
        words += ["--context-length", adapter.rope.context] if adapter.rope.context else []
    base, note = _base(adapter)
    return _command("SGLang", "sglang", "serve", "--model-path", *base, *words, note=note)


def _sglang_override(adapter: Adapter, rope: RopeSettings) -> dict[str, Any] | None:
    """The keys for SGLang, which adds the donor's RoPE parameters to the base's; None if that is wrong.

    It multiplies `max_position_embeddings` by a factor only if there is no original length.
    """
    override = config_override(adapter, rope)
    base = settings.from_json((adapter.sidecar or {})["rope"]["base"])
    named = rope.extra.keys() | override.get("rope_parameters", {}).keys()
    kept = {key for key, value in base.extra.items() if value is not None} - named
    if bool(base.by_layer_type) != bool(rope.by_layer_type) or (base.rope_type == rope.rope_type and kept):
        return None
    if ORIGINAL in kept or ORIGINAL in rope.extra:
        override["max_position_embeddings"] = rope.context
    ratio = attention_factor_ratio(rope) if rope.rope_type == "yarn" else None
    if ratio is not None:
        override["rope_parameters"] |= {"attn_factor": ratio}
    return override


def _llama_cpp(adapter: Adapter, folder: Path) -> ServerCommand:
    sidecar = adapter.sidecar or {}
    model_type = str(sidecar.get("architecture", {}).get("model_type"))
    architecture = find_architecture(model_type, adapter.factors)
    reason = None
    if sidecar and architecture is None:
        reason = "its architecture cannot be written as GGUF"
    elif adapter.config.use_dora or adapter.replaced:
        reason = "an adapter in GGUF has neither DoRA nor trained modules"
    elif adapter.attention:
        reason = f"no option sets the donor's {', '.join(adapter.attention)}"
    if reason is not None:
        return ServerCommand("llama.cpp", None, f"{reason}: {MERGE}")
    options: list[object] = []
    if adapter.rope is not None and architecture is not None:
        rope = llama_cpp_rope_options(adapter.rope, settings.from_json(sidecar["rope"]["base"]))
        if rope is None:
            return ServerCommand("llama.cpp", None, f"no option sets this kind of RoPE: {MERGE}")
        length = adapter.rope.context
        override = ["--override-kv", f"{architecture.name}.context_length=int:{length}"]
        options = [*rope, *(["--ctx-size", length, "--parallel", 1, *override] if length else [])]
    file = folder / GGUF_FILE
    note = "base.gguf is the base converted by llama.cpp's convert_hf_to_gguf.py"
    if not (adapter.path / GGUF_FILE).exists():
        writer = "extract --gguf" if sidecar else "llama.cpp's convert_lora_to_gguf.py"
        note += f"; {GGUF_FILE} is written by {writer}"
    return _command("llama.cpp", "llama-server", "--model", "base.gguf", "--lora", file, *options, note=note)


def _base(adapter: Adapter) -> tuple[list[object], str | None]:
    """The words that name the base; and a note where servers do not find it by its name."""
    base = base_model(adapter)
    if OF_OUR_SOURCES.match(base.name):
        return [BASE], f"{BASE} is the folder of the base ({base.name})"
    return [base.name, *(["--revision", base.revision] if base.revision else [])], None


def _named(folder: Path, name: str, path: str) -> str:
    """The adapter as NAME=PATH, or as JSON with these keys where NAME=PATH would be misread."""
    called, shown = folder.resolve().name, str(folder)
    if set("=,{} ").isdisjoint(called + shown):
        return f"{called}={shown}"
    return json.dumps({name: called, path: shown})


def _command(server: str, *words: object, note: str | None = None) -> ServerCommand:
    return ServerCommand(server, _quoted(*words), note)


def _quoted(*words: object) -> str:
    return shlex.join(str(word) for word in words)
