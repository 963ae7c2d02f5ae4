"""RoPE parameters that transformers cannot compute with, or warns about: refused by file, key and values."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from contextgraft.errors import InputError
from contextgraft.rope.settings import read

ORIGINAL = {"original_max_position_embeddings": 64}
TYPES: dict[str, dict[str, Any]] = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4},
    "yarn": {"factor": 4.0, **ORIGINAL},
    "llama3": {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL},
    "longrope": {"factor": 4.0, "short_factor": [1.0] * 8, "long_factor": [1.5] * 8, **ORIGINAL},
}
# parameters without which a type can be computed, or that may be null
MORE: dict[str, list[dict[str, Any]]] = {
    "linear": [{"factor": 1}],
    "dynamic": [{"factor": 1.0}],
    "yarn": [
        {"factor": None}, {"attention_factor": None}, {"attention_factor": 0.8},
        {"beta_fast": 32, "beta_slow": 1},
        {"mscale": 1.0, "mscale_all_dim": 0}, {"beta_fast": None}, {"truncate": False},
    ],
    "llama3": [{"factor": 1.0}],
    "longrope": [{"factor": None}, {"attention_factor": 1.2}],
}  # fmt: skip
NUMBERS: tuple[Any, ...] = ("4.0", None, True, -2.0, 0, 0.5, [4.0], float("nan"), float("inf"))
LISTS: tuple[Any, ...] = (
    [1.0],
    [1.0] * 7,
    ["1"] * 8,
    [*[1.0] * 7, None],
    [0.0] * 8,
    [],
    "x",
    None,
    2.0,
    [True] * 8,
)


def section(kind: str, **changes: Any) -> dict[str, Any]:
    return {"rope_type": kind, **TYPES[kind], **changes}


def config(toy: SimpleNamespace, scaling: dict[str, Any], form: str = "rope_scaling") -> dict[str, Any]:
    values: dict[str, Any] = toy.config(max_position_embeddings=256)
    if form == "rope_parameters":
        del values["rope_theta"]
        scaling = {"rope_theta": 1e4, **scaling}
    return {**values, form: scaling}


def frequencies(values: dict[str, Any]) -> torch.Tensor:
    found: torch.Tensor = LlamaRotaryEmbedding(LlamaConfig.from_dict(values)).inv_freq
    return found


@pytest.mark.parametrize("form", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("kind", TYPES)
def test_what_transformers_computes_is_read(kind: str, form: str, toy: SimpleNamespace) -> None:
    for more in ({}, *MORE[kind]):
        values = config(toy, section(kind, **more), form)
        assert frequencies(values).isfinite().all()
        assert read(values).rope_type == kind


def wrong() -> list[tuple[str, str, Any]]:
    found: list[tuple[str, str, Any]] = []
    for kind, parameters in TYPES.items():
        for key, good in parameters.items():
            null = key == "factor" and kind in ("yarn", "longrope")
            small = key.endswith("_freq_factor")
            tried = LISTS if isinstance(good, list) else NUMBERS
            found += [
                (kind, key, bad) for bad in tried if not (null and bad is None) and not (small and bad == 0.5)
            ]
    found += [
        ("yarn", key, bad)
        for key in ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
        for bad in ("4.0", True, -2.0, [4.0])
    ]
    return found


@pytest.mark.parametrize("form", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(("kind", "key", "value"), wrong())
def test_what_cannot_be_computed_with_is_refused(
    kind: str, key: str, value: Any, form: str, toy: SimpleNamespace
) -> None:
    values = config(toy, section(kind, **{key: value}), form)
    with pytest.raises(InputError) as refusal:
        read(values, "folder")
    said = str(refusal.value)
    assert said.startswith(f"folder/config.json: {form}.{key} cannot be used; expected ")
    assert "received " in said
    assert "\n" not in said


@pytest.mark.parametrize("kind", ["linear", "dynamic", "llama3", "longrope"])
def test_a_missing_parameter_is_refused_as_by_transformers(kind: str, toy: SimpleNamespace) -> None:
    for key in set(TYPES[kind]) - set(ORIGINAL) - ({"factor"} if kind == "longrope" else set()):
        values = config(toy, {name: value for name, value in section(kind).items() if name != key})
        with pytest.raises(KeyError):
            LlamaConfig.from_dict(values)
        with pytest.raises(InputError, match=rf"rope_scaling\.{key} cannot be used.*received nothing"):
            read(values)


def test_parameters_of_one_layer_type_are_named(toy: SimpleNamespace) -> None:
    rope = {
        "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": "8.0"},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }
    nested = {
        "model_type": "gemma3",
        "text_config": toy.config(model_type="gemma3_text", rope_parameters=rope),
    }
    with pytest.raises(
        InputError, match=r"text_config\.rope_parameters\.full_attention\.factor cannot be used"
    ):
        read(nested)


@pytest.mark.parametrize(("length", "fits"), [(8, True), (7, False), (1, False)])
def test_lists_of_one_layer_type_have_a_number_for_each_frequency(
    length: int, fits: bool, toy: SimpleNamespace
) -> None:
    lists = {"short_factor": [1.0] * length, "long_factor": [2.0] * length}
    rope = {
        "full_attention": {**section("longrope", **lists), "rope_theta": 1e4},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }
    sizes = {"head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    values = toy.config(model_type="olmo3", rope_parameters=rope, **sizes, pad_token_id=0)
    if fits:
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
        assert read(values).by_layer_type["full_attention"]["long_factor"] == [2.0] * 8
        return
    match = (
        rf"rope_parameters\.full_attention\.short_factor cannot be used; expected 8 numbers.*list of {length}"
    )
    with pytest.raises(InputError, match=match):
        read(values)


def test_types_of_other_programs_are_not_checked(toy: SimpleNamespace) -> None:
    scaling = {"type": "ntk", "factor": "auto"}
    values = {**config(toy, scaling), "model_type": "of_a_repository"}
    assert read(values).extra == {"factor": "auto"}


@pytest.mark.parametrize("theta", [None, 2e4])
def test_layer_types_of_a_class_without_them_are_refused(
    theta: float | None, toy: SimpleNamespace, tmp_path: Path
) -> None:
    """Transformers ignores them: the graft rotated otherwise than the donor."""
    values = toy.config(rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 5e5}})
    del values["rope_theta"]
    values |= {} if theta is None else {"rope_theta": theta}
    folder = toy.write(tmp_path / "donor", toy.weights(values), values)
    model = AutoModelForCausalLM.from_pretrained(folder)
    plain = {key: value for key, value in values.items() if key != "rope_parameters"}
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, frequencies(plain))
    assert AutoConfig.from_pretrained(folder).rope_parameters["rope_theta"] == (theta or 1e4)
    with pytest.raises(
        InputError, match=r"rope_parameters cannot be used; expected one setting for all layers"
    ):
        read(json.loads((folder / "config.json").read_text()), folder)
