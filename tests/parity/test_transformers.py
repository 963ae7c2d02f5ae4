"""Grafts as transformers opens them: whole, with finite logits, with the rotary embedding of the donor."""

import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

OLD_FORMS: dict[str, dict[str, Any]] = {
    "llama": {"rope_theta": "theta"},
    "stablelm": {"rope_theta": "theta", "partial_rotary_factor": 0.5},
    "glm4": {"rope_theta": "theta", "partial_rotary_factor": 0.25},
    "gpt_neox": {"rotary_emb_base": "theta", "rotary_pct": 0.5},
}


def rotary(model: Any) -> dict[str, torch.Tensor]:
    return {name: buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")}


def same_rotary(graft: Any, donor: Any) -> bool:
    ours, theirs = rotary(graft), rotary(donor)
    return (
        bool(theirs)
        and ours.keys() == theirs.keys()
        and all(map(torch.equal, ours.values(), theirs.values()))
    )


def test_a_graft_opens_whole_with_the_donors_rope(trio: Any) -> None:
    model, report = AutoModelForCausalLM.from_pretrained(trio.path("graft"), output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model(torch.arange(12)[None]).logits.isfinite().all()
    base, donor = (AutoModelForCausalLM.from_pretrained(trio.path(name)) for name in ("base", "donor"))
    assert model.config.rope_parameters == donor.config.rope_parameters != base.config.rope_parameters
    assert model.config.max_position_embeddings == donor.config.max_position_embeddings == 1024
    assert same_rotary(model, donor)
    assert not same_rotary(model, base)


def rewrite(folder: Path, form: str, old: dict[str, Any], theta: float) -> None:
    """Put a config's RoPE in the old form or the new."""
    config = json.loads((folder / "config.json").read_text())
    values = {key: theta if value == "theta" else value for key, value in old.items()}
    if form == "new":
        part = [value for value in old.values() if value != "theta"]
        rope = {"rope_theta": theta, "rope_type": "default"}
        values = {"rope_parameters": rope | ({"partial_rotary_factor": part[0]} if part else {})}
    config.pop("rope_parameters")
    (folder / "config.json").write_text(json.dumps(config | values))


# the same form on both sides: quick for one model
FORMS = [
    pytest.param(*case, marks=[] if case[0] == "llama" or case[1] != case[2] else pytest.mark.slow)
    for case in product(OLD_FORMS, ("old", "new"), ("old", "new"))
]


@pytest.mark.parametrize(("name", "donor_form", "form"), FORMS)
def test_rope_travels_between_the_forms_of_config(
    name: str, donor_form: str, form: str, kit: SimpleNamespace, tmp_path: Path
) -> None:
    kit.build(name, tmp_path)
    trio = kit.Trio(name, tmp_path)
    for folder, how, theta in (("base", form, 1e4), ("donor", donor_form, 4e4), ("target", form, 1e4)):
        rewrite(trio.path(folder), how, OLD_FORMS[name], theta)
    trio.merge(trio.extract(4, tmp_path / "adapters"), trio.path("graft"))
    graft, donor = (AutoModelForCausalLM.from_pretrained(trio.path(which)) for which in ("graft", "donor"))
    assert same_rotary(graft, donor)
