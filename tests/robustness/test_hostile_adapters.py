"""Adapters that lie: config, sidecar, factors, what stands in a file's place; `merge` says so in one line."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
DENSE = "contextgraft.safetensors"
SIDECAR = "contextgraft.json"
MODULE = "model.layers.0.self_attn.q_proj"
KEY = f"base_model.model.{MODULE}.lora_"
Damage = Callable[[Path], object]


def edit(name: str, **changes: Any) -> Damage:
    """Other values in a JSON file; what JSON has no word for is written as Python would."""

    def damage(adapter: Path) -> None:
        data = json.loads((adapter / name).read_text())
        (adapter / name).write_text(json.dumps({**data, **changes}))

    return damage


def raw(name: str, text: str) -> Damage:
    return lambda adapter: (adapter / name).write_text(text)


def alpha(word: str) -> Damage:
    """lora_alpha as it is written."""
    text = f'{{"peft_type":"LORA","r":4,"target_modules":["q_proj"],"lora_alpha":{word}}}'
    return raw(CONFIG, text)


def factors(**changes: torch.Tensor | None) -> Damage:
    """Other factors of one module; None takes one away."""

    def damage(adapter: Path) -> None:
        tensors: dict[str, torch.Tensor | None] = dict(load_file(adapter / WEIGHTS))
        tensors |= {f"{KEY}{factor}.weight": tensor for factor, tensor in changes.items()}
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, adapter / WEIGHTS)

    return damage


def more(name: str, tensor: torch.Tensor, file: str = WEIGHTS) -> Damage:
    """One tensor more, or another in its place."""
    return lambda adapter: save_file({**load_file(adapter / file), name: tensor}, adapter / file)


def value(file: str, number: float) -> Damage:
    """One element of the first tensor of a file."""

    def damage(adapter: Path) -> None:
        tensors = load_file(adapter / file)
        next(iter(tensors.values())).view(-1)[3:4].fill_(number)
        save_file(tensors, adapter / file)

    return damage


def instead(name: str, make: Callable[[Path], object]) -> Damage:
    """Something else in a file's place."""

    def damage(adapter: Path) -> None:
        (adapter / name).unlink()
        make(adapter / name)

    return damage


def rope(side: str, **changes: Any) -> Damage:
    """Other rotary settings in the sidecar."""

    def damage(adapter: Path) -> None:
        data = json.loads((adapter / SIDECAR).read_text())
        data["rope"][side].update(changes)
        (adapter / SIDECAR).write_text(json.dumps(data))

    return damage


DEEP = '{"x":' * 400 + "1" + "}" * 400
SLOW = "(.*.*.*.*.*.*.*.*.*.*)*x"  # a regular expression that takes for ever to match nothing
LIES: dict[str, tuple[Damage, str]] = {
    "rank zero": (factors(A=torch.ones(0, 64), B=torch.ones(64, 0)), "ZeRO-3"),
    "ranks differ": (factors(B=torch.ones(64, 3)), "do not fit each other"),
    "no B": (factors(B=None), "do not fit each other"),
    "no A": (factors(A=None), "do not fit each other"),
    "three dimensions": (factors(A=torch.ones(4, 8, 8)), "do not fit each other"),
    "one dimension": (factors(A=torch.ones(64), B=torch.ones(64)), "empty or flat"),
    "another rank than said": (factors(A=torch.ones(3, 64), B=torch.ones(64, 3)), "rank|do not fit"),
    "too wide for the target": (factors(A=torch.ones(4, 65)), r"expected shape \[64, 65\]"),
    "too high for the target": (factors(B=torch.ones(63, 4)), r"expected shape \[63, 64\]"),
    "whole numbers": (factors(A=torch.ones(4, 64, dtype=torch.int8)), "cannot be computed with|I8"),
    "eighths of a byte": (factors(A=torch.ones(4, 64).to(torch.float8_e4m3fn)), "F8_E4M3"),
    "complex": (factors(A=torch.ones(4, 64, dtype=torch.complex64)), "C64"),
    "NaN in A": (factors(A=torch.full((4, 64), float("nan"))), "NaN or infinite|is not finite"),
    "infinite B": (factors(B=torch.full((64, 4), float("inf"))), "NaN or infinite|is not finite"),
    "B too large to add": (factors(B=torch.full((64, 4), 3e38)), "is not finite"),
    "NaN in a norm's delta": (value(DENSE, float("nan")), "NaN or infinite|is not finite"),
    "a factor NaN in one place": (value(WEIGHTS, float("nan")), "NaN or infinite|is not finite"),
    "a tensor of its own": (more("lm_head.weight", torch.ones(2)), "would overwrite|something else|lm_head"),
    "a module that is nowhere": (
        lambda a: [
            *(more(f"{KEY}{f}.weight".replace("q_proj", "z"), torch.ones(4, 4))(a) for f in "AB"),
            edit(CONFIG, target_modules=["q_proj", "z"])(a),
        ],
        "no such tensor",
    ),
    "a path as name": (more("../../etc/passwd", torch.ones(2)), "passwd"),
    "a norm's delta too long": (more("model.norm.weight", torch.ones(65), DENSE), r"expected shape \[65\]"),
    "a norm's delta of another": (more("model.other.weight", torch.ones(65), DENSE), "other tensors than"),
    "alpha NaN": (alpha("NaN"), "not finite: NaN"),
    "alpha infinite": (alpha("1e400"), "not finite: 1e400"),
    "alpha enormous": (alpha("1e300"), "not finite"),
    "alpha of 200 digits": (alpha("9" * 200), "lora_alpha|not finite"),
    "alpha a string": (alpha('"16"'), "lora_alpha"),
    "alpha a list": (alpha("[16]"), "lora_alpha"),
    "alpha true": (alpha("true"), "lora_alpha"),
    "alpha by module a string": (edit(CONFIG, alpha_pattern={"q_proj": "8"}), "alpha_pattern"),
    "alphas a list": (edit(CONFIG, alpha_pattern=[1]), "alpha_pattern"),
    "ranks of zero": (edit(CONFIG, rank_pattern={"q_proj": 0}), "rank"),
    "ranks without end to match": (edit(CONFIG, rank_pattern={SLOW: 4}), "rank_pattern"),
    "alphas without end to match": (edit(CONFIG, alpha_pattern={SLOW: 4}), "alpha_pattern"),
    "r zero": (edit(CONFIG, r=0), "unusable r"),
    "r negative": (edit(CONFIG, r=-4), "unusable r"),
    "r a string": (edit(CONFIG, r="4"), "unusable r"),
    "r enormous": (edit(CONFIG, r=10**200), "rank"),
    "another kind": (edit(CONFIG, peft_type="LOHA"), "LOHA"),
    "kind a list": (edit(CONFIG, peft_type=["LORA"]), "peft_type"),
    "config a list": (raw(CONFIG, "[]"), "is not a JSON object"),
    "config nested deep": (raw(CONFIG, DEEP), "too deep nesting"),
    "config empty": (raw(CONFIG, ""), "cannot be read as JSON"),
    "config missing": (lambda a: (a / CONFIG).unlink(), "is not a PEFT adapter"),
    "config a pipe": (instead(CONFIG, os.mkfifo), "is not a PEFT adapter"),
    "config a loop": (instead(CONFIG, lambda path: path.symlink_to(CONFIG)), "is not a PEFT adapter"),
    "weights missing": (lambda a: (a / WEIGHTS).unlink(), f"{WEIGHTS}: cannot be read"),
    "weights a pipe": (instead(WEIGHTS, os.mkfifo), "not a regular file"),
    "weights a folder": (instead(WEIGHTS, os.mkdir), "not a regular file"),
    "weights without end": (instead(WEIGHTS, lambda path: path.symlink_to("/dev/zero")), "not a regular"),
    "norms missing": (lambda a: (a / DENSE).unlink(), f"{DENSE}: cannot be read"),
    "norms a pipe": (instead(DENSE, os.mkfifo), "not a regular file"),
    "sidecar a list": (raw(SIDECAR, "[1]"), "is not a JSON object"),
    "sidecar nested deep": (raw(SIDECAR, DEEP), "too deep nesting"),
    "sidecar of another kind": (edit(SIDECAR, kind="graft"), "another kind"),
    "sidecar of another time": (edit(SIDECAR, format=99), "format this version does not know"),
    "sidecar without rope": (edit(SIDECAR, rope=None), "lacks rope"),
    "sidecar of half a rope": (edit(SIDECAR, rope={"donor": {}}), f"{SIDECAR}: .* base: malformed RoPE"),
    "sidecar rope a string": (edit(SIDECAR, rope="x"), "lacks rope"),
    "sidecar base a string": (edit(SIDECAR, base="x"), "lacks base"),
    "sidecar rank a string": (edit(SIDECAR, rank="4"), "lacks rank"),
    "architecture of lists": (edit(SIDECAR, architecture={"hidden_size": [1]}), "another architecture"),
    "theta NaN": (rope("donor", theta=float("nan")), "not finite: NaN"),
    "theta negative": (rope("donor", theta=-1.0), f"{SIDECAR}: .* donor: rope_theta cannot be used"),
    "theta a string": (rope("base", theta="1"), "rope_theta cannot be used"),
    "positions zero": (rope("donor", max_positions=0), "max_position_embeddings cannot be used"),
    "positions a float": (rope("donor", max_positions=1.5), "max_position_embeddings cannot be used"),
    "type no string": (rope("donor", rope_type=[1]), "rope_type cannot be used"),
    "factor no number": (
        rope("donor", rope_type="yarn", extra={"factor": "x"}),
        f"{SIDECAR}: rope.donor.factor cannot be used",
    ),
    "attention a number": (
        edit(SIDECAR, attention={"changed": {"sliding_window": 3}}), f"{SIDECAR}: .* attention settings",
    ),
    "extra no object": (rope("donor", extra=[1]), "RoPE|extra"),
    "rope of more keys": (rope("donor", more=1), "malformed RoPE"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_an_adapter_with_false_statements(sandbox: Any, name: str) -> None:
    damage, words = LIES[name]
    damage(sandbox["adapter"])
    sandbox.refuses("merge", words)
