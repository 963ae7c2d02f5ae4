"""RoPE settings that a config leaves to its class are those that transformers fills in, read and written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from contextgraft.adapter.merge.graft_config import check_one_rope, rope_for
from contextgraft.errors import InputError, MismatchError
from contextgraft.rope.config_form import apply_rope
from contextgraft.rope.model_class import resolve
from contextgraft.rope.settings import (
    PLAIN_CLASSES,
    RopeSettings,
    from_json,
    read,
    read_stated,
    to_json,
    to_record,
)


def reads_theta_alone(name: str) -> bool:
    """Whether a config of no more than a theta is read as the class of transformers reads it."""
    config = {"model_type": name, "max_position_embeddings": 64}
    try:
        resolved = resolve({**config, "rope_theta": 123.0})
    except InputError:  # needs more keys
        return True
    parameters = resolved.values.get("rope_parameters") if resolved else None
    if not parameters:
        return True
    received, expected = (
        read({**config, "rope_theta": 123.0}),
        read({**config, "rope_parameters": parameters}),
    )
    return received == expected


@pytest.mark.parametrize("name", ["gpt_oss", "apertus", "glm4", "gpt_neox", "ministral3", "laguna", "llama"])
def test_a_theta_alone_is_read_as_the_class_reads_it(name: str) -> None:
    assert reads_theta_alone(name)


@pytest.mark.slow
def test_a_theta_alone_is_read_as_every_class_reads_it() -> None:
    flat = [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if not CONFIG_MAPPING[name].sub_configs]
    assert [name for name in flat if not reads_theta_alone(name)] == []


FORMS: list[dict[str, Any]] = [
    {},
    {"rope_theta": 5e5},
    {"rope_theta": 5e5, "partial_rotary_factor": 0.75},
    {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "partial_rotary_factor": 0.75},
    {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.75}},
]


@pytest.mark.parametrize("name", PLAIN_CLASSES)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_plain_class_adds_nothing_to_what_a_config_says(name: str, form: dict[str, Any]) -> None:
    config = {"model_type": name, "max_position_embeddings": 64, **form}
    resolved = resolve(config)
    assert resolved is not None
    assert read(config) == read(
        {"max_position_embeddings": 64, "rope_parameters": resolved.values["rope_parameters"]}
    )


# classes that rotate a part of each head where a config does not say how much
PART_BY_DEFAULT = {
    "glm": 0.5,
    "glm4": 0.5,
    "phi": 0.5,
    "stablelm": 0.25,
    "gpt_neox": 0.25,
    "qwen3_next": 0.25,
}


@pytest.mark.parametrize("name", PART_BY_DEFAULT)
@pytest.mark.parametrize("fraction", [1.0, 0.25, 0.75])
@pytest.mark.parametrize("rope_type", ["default", "linear"])
def test_a_fraction_is_written_as_the_class_reads_it(name: str, fraction: float, rope_type: str) -> None:
    config = {"model_type": name, "max_position_embeddings": 64}
    scaled = {"factor": 2.0} if rope_type == "linear" else {}
    new = RopeSettings(4e4, 1024, rope_type, {**scaled, "partial_rotary_factor": fraction})
    assert read(config).fraction == PART_BY_DEFAULT[name]
    resolved = resolve(apply_rope(config, new))
    assert resolved is not None
    received = resolved.values["rope_parameters"]
    assert (received["rope_theta"], received["partial_rotary_factor"]) == (4e4, fraction)
    assert read(apply_rope(config, new)) == new


def test_the_whole_head_is_not_named_where_it_is_the_default() -> None:
    assert RopeSettings(4e4, 1024, extra={"partial_rotary_factor": 1.0}) == RopeSettings(4e4, 1024)
    for name in ("llama", "phi3"):
        assert "partial_rotary_factor" not in str(apply_rope({"model_type": name}, RopeSettings(4e4, 1024)))


def test_a_record_names_the_fraction() -> None:
    whole = RopeSettings(4e4, 1024)
    assert to_record(whole) == {**to_json(whole), "fraction": 1.0}
    assert from_json(to_record(whole)) == whole
    assert from_json(to_record(whole)).fraction_known
    assert not from_json(to_json(whole)).fraction_known
    assert "partial_rotary_factor 0.5" in replace(whole, extra={"partial_rotary_factor": 0.5}).description


@pytest.mark.parametrize("fraction", [0, -0.5, "half", True])
def test_a_fraction_that_is_no_number_is_refused(fraction: Any) -> None:
    config = {"model_type": "llama", "max_position_embeddings": 64, "partial_rotary_factor": fraction}
    with pytest.raises(InputError, match="partial_rotary_factor"):
        read(config)


def test_a_record_without_the_fraction_leaves_the_target_its_own() -> None:
    config, whole = {"model_type": "glm4", "max_position_embeddings": 64}, RopeSettings(4e4, 1024)
    assert rope_for(config, from_json(to_json(whole)), Path("target")).fraction == 0.5
    assert rope_for(config, from_json(to_record(whole)), Path("target")).fraction == 1.0


def reads_back_or_is_refused(name: str) -> bool:
    try:
        config = CONFIG_MAPPING[name]().to_dict()
        own = read(config)
    except Exception:  # needs values, or has no length
        return True
    for new in (RopeSettings(4e5, 999424), own.extended(4e5, 999424)):
        placed = rope_for(config, new, Path(name))
        try:
            resolved = resolve(apply_rope(config, placed))
        except InputError:
            continue
        parameters = resolved.values.get("rope_parameters") if resolved else None
        flat = {"all": {"rope_theta": placed.theta, **placed.extra}}
        wanted, read_back = placed.by_layer_type or flat, parameters or {}
        if not placed.by_layer_type:
            several = any(isinstance(value, dict) for value in read_back.values())
            read_back = {"all": {} if several else read_back}
        if parameters and not all((wanted[k] or {}).items() <= (read_back[k] or {}).items() for k in wanted):
            return False
    return True


@pytest.mark.parametrize(
    "name", ["gemma3", "gemma3_text", "olmo3", "modernbert-decoder", "llama", "glm4", "mamba"]
)
def test_a_class_reads_back_what_is_written_or_it_is_refused(name: str) -> None:
    assert reads_back_or_is_refused(name)


@pytest.mark.slow
def test_every_class_reads_back_what_is_written_or_it_is_refused() -> None:
    names = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}
    assert [name for name in sorted(names) if not reads_back_or_is_refused(name)] == []


def test_one_rope_for_all_layers_is_refused_by_a_class_with_several() -> None:
    config = CONFIG_MAPPING["gemma3_text"]().to_dict()
    with pytest.raises(InputError, match="--keep-rope"):
        apply_rope(config, RopeSettings(4e5, 999424))


@pytest.mark.parametrize(
    "config",
    [
        {
            "model_type": "phi3",
            "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
        },
        {"model_type": "deepseek_v2", "rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"model_type": "glm4"},
        {"model_type": "gpt_neox", "rotary_pct": 1.0},
    ],
)
def test_the_identity_of_a_model_has_what_its_config_states(config: dict[str, Any]) -> None:
    """Digests of models, also in older records, do not depend on the class, nor on transformers."""
    sizes = {"hidden_size": 64, "num_attention_heads": 8, "max_position_embeddings": 64, "rope_theta": 5e5}
    whole = sizes | config
    stated = to_json(read_stated({key: value for key, value in whole.items() if key != "model_type"}))
    assert to_json(read_stated(whole)) == stated
    assert read(whole).type_key == stated.get("type_key", "rope_type")


def test_records_with_and_without_the_fraction_are_of_one_rope() -> None:
    known = RopeSettings(4e4, 1024, extra={"partial_rotary_factor": 0.5})
    older = from_json(to_json(RopeSettings(4e4, 1024)))
    check_one_rope([(Path("a"), known), (Path("b"), older)])
    check_one_rope([(Path("a"), older), (Path("b"), known)])
    with pytest.raises(MismatchError, match="different RoPE"):
        check_one_rope([(Path("a"), known), (Path("b"), RopeSettings(4e4, 1024))])
    with pytest.raises(InputError, match="malformed"):
        from_json({**to_record(known), "fraction": 1.0})


def test_what_a_config_states_wrongly_is_refused_with_its_file() -> None:
    scaling = {"rope_type": "linear", "factor": "4.0"}
    config = {
        "model_type": "llama",
        "max_position_embeddings": 64,
        "rope_theta": 5e5,
        "rope_scaling": scaling,
    }
    with pytest.raises(InputError, match=r"here/config\.json: .*factor"):
        read_stated(config, "here")
