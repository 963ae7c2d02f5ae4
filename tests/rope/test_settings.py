"""Rotary settings: read from old and new configs, written so that both kinds of reader agree."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextgraft.errors import InputError
from contextgraft.rope.config_form import apply_rope
from contextgraft.rope.settings import RopeSettings, from_json, read, to_json

SCALED = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

LLAMA3 = RopeSettings(5e5, 128, "llama3", SCALED)
FORMS: list[tuple[dict[str, Any], RopeSettings]] = [
    ({"rope_theta": 5e5}, RopeSettings(5e5, 128)),
    ({"rope_theta": 5e5, "rope_scaling": None}, RopeSettings(5e5, 128)),
    ({}, RopeSettings(1e4, 128)),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, RopeSettings(1e4, 128, "linear", {"factor": 2.0})),
    ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **SCALED}}, LLAMA3),
    ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, RopeSettings(5e5, 128)),
    ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **SCALED}}, LLAMA3),
]

factors = st.floats(1, 64)
more = st.dictionaries(st.just("partial_rotary_factor"), st.floats(0.1, 1))


def of_type(rope_type: str, **parameters: Any) -> Any:
    extra = st.fixed_dictionaries(parameters)
    both = st.tuples(extra, more).map(lambda pair: {**pair[0], **pair[1]})
    return st.builds(RopeSettings, st.floats(1, 1e12), st.integers(1, 2**24), st.just(rope_type), both)


settings = st.one_of(
    of_type("default"),
    of_type("linear", factor=factors),
    of_type("llama3", factor=factors, low_freq_factor=factors, high_freq_factor=factors),
    of_type("yarn", factor=factors, beta_fast=factors),
)


@pytest.mark.parametrize(("config", "expected"), FORMS)
def test_every_form_is_read(config: dict[str, Any], expected: RopeSettings) -> None:
    assert read({"max_position_embeddings": 128, **config}) == expected


@given(settings, st.sampled_from([config for config, _ in FORMS]))
def test_what_is_applied_is_read_back_whatever_stood_there(new: RopeSettings, config: dict[str, Any]) -> None:
    before = {"max_position_embeddings": 64, "hidden_size": 8, **config}
    kept = copy.deepcopy(before)
    after = apply_rope(before, new)
    assert read(after) == new
    assert before == kept
    assert after["hidden_size"] == 8


@given(settings)
def test_readers_of_the_old_form_see_the_same(new: RopeSettings) -> None:
    old = {key: value for key, value in apply_rope({}, new).items() if key != "rope_parameters"}
    assert (read(old).theta, read(old).rope_type) == (new.theta, new.rope_type)
    if new.rope_type != "default":
        assert read(old) == new


@given(settings)
def test_json_round_trip(new: RopeSettings) -> None:
    assert from_json(to_json(new)) == new


@pytest.mark.parametrize("new", [RopeSettings(4e4, 1024), RopeSettings(4e4, 1024, "llama3", SCALED)])
@pytest.mark.parametrize("config", [config for config, _ in FORMS])
def test_transformers_sees_the_same(new: RopeSettings, config: dict[str, Any]) -> None:
    from transformers import LlamaConfig

    loaded = LlamaConfig(**apply_rope({"max_position_embeddings": 64, **config}, new))
    assert loaded.max_position_embeddings == 1024
    assert loaded.rope_parameters == {"rope_theta": 4e4, "rope_type": new.rope_type, **new.extra}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"max_position_embeddings": 0},
        {"max_position_embeddings": True},
        {"max_position_embeddings": 8, "rope_theta": -1.0},
        {"max_position_embeddings": 8, "rope_theta": "big"},
        {"max_position_embeddings": 8, "rope_scaling": [1]},
        {"max_position_embeddings": 8, "rope_parameters": {"full_attention": {"rope_theta": "big"}}},
        {"max_position_embeddings": 8, "rope_scaling": {"full_attention": {"factor": 2.0}}},
    ],
)
def test_what_cannot_be_used_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"config.json"):
        read(config)


def test_a_factor_beyond_numbers_gives_no_length() -> None:
    scaling = {"rope_type": "linear", "factor": 1e308}
    with pytest.raises(InputError, match=r"config.json: factor cannot be used"):
        _ = read({"max_position_embeddings": 4096, "rope_scaling": scaling}).context


@pytest.mark.parametrize("data", [{}, {"theta": 1.0}, {**to_json(RopeSettings(1.0, 1)), "more": 1}, [], None])
def test_malformed_json_is_refused(data: Any) -> None:
    with pytest.raises(InputError, match="malformed"):
        from_json(data)


@pytest.mark.parametrize("model_type", ["gpt_oss", "apertus"])
def test_classes_that_scale_where_nothing_is_said_get_null(model_type: str) -> None:
    """Transformers 4.57 scales RoPE of these classes where the config has no rope_scaling."""
    written = apply_rope({"model_type": model_type, "max_position_embeddings": 128}, RopeSettings(1e4, 512))
    assert written["rope_scaling"] is None
    assert "rope_scaling" not in apply_rope({"model_type": "llama"}, RopeSettings(1e4, 512))


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_code_of_a_repository_reads_the_key_of_the_type_that_its_donor_has(key: str) -> None:
    """InternLM 2's code takes exactly `type` and `factor`."""
    donor = {"model_type": "internlm2", "max_position_embeddings": 128, "rope_theta": 1e6}
    scaling = {key: "dynamic", "factor": 2.0}
    recorded = from_json(to_json(read(donor | {"rope_scaling": scaling})))
    assert apply_rope(donor, recorded)["rope_scaling"] == scaling
    assert read(apply_rope(donor, recorded)) == recorded
