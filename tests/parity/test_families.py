"""A graft of the donor onto its base at full rank is the donor, for every family in the table.

Else extract or merge refuse with the reason that docs/models.md gives.
"""

from itertools import product
from pathlib import Path

import pytest
from tests.parity.families.matrix import PAGE, RIGHT, outcome, page, read_rows
from tests.parity.families.proof import prove
from tests.parity.families.readers import VERSIONS, read_readers
from tests.parity.families.refused import REFUSALS
from tests.parity.families.table import FAMILIES

from contextgraft.rope.config_form import STRICT_KEYS
from contextgraft.rope.older_readers import ONE_ROPE, older_reader_warnings

ROWS = read_rows()
MINIMUM = 35
# By form, what is proved in every run; the rest is slow. Of theta: each kind of layout, rotation and tower.
# Of the others: names of output layers by class, and of their sections.
FAST = {
    "theta": (
        "llama", "mistral", "mixtral", "qwen3_next", "gemma3_text", "phi3", "phimoe", "falcon", "gptj",
        "gpt2", "bloom", "cohere2", "deepseek_v3", "glm4", "gpt_oss", "llama4_text with experts", "bamba",
        "falcon_h1", "modernbert-decoder", "dbrx", "mamba", "qwen2_5_vl", "mllama",
        "paligemma",
    ),
    "tied, stored": ("gpt_neox",),
    "donor unties": ("llama",),
    "donor ties": ("gemma3",),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "form"),
    [
        pytest.param(name, form, marks=() if name in FAST.get(form, ()) else pytest.mark.slow)
        for name, forms in ROWS.items()
        for form in forms
    ],
)
def test_the_graft_is_the_donor_or_is_refused(name: str, form: str, tmp_path: Path) -> None:
    proof = prove(name, FAMILIES[name], form, tmp_path)
    assert proof is not None
    assert outcome(proof) == ROWS[name][form]


def test_the_page_has_the_rows_that_are_proved() -> None:
    assert PAGE.read_text() == page(ROWS)
    assert list(ROWS) == list(FAMILIES)
    assert all(ROWS.values())
    assert all(form in ROWS[name] for form, names in FAST.items() for name in names)
    assert all(
        text == RIGHT or text.startswith("refused: ") for forms in ROWS.values() for text in forms.values()
    )
    assert sum("right" in forms.values() for forms in ROWS.values()) >= MINIMUM


def test_where_an_older_reader_does_not_scale_a_merge_warns() -> None:
    """Other logits from the first tokens on; the slow test of the old readers has all forms."""
    silent = []
    for version, form in product(VERSIONS, ("linear", "llama3")):
        for name, read in read_readers()[version].items():
            config: dict[str, object] = {"model_type": name, "rope_parameters": {"rope_type": form}}
            if name in ONE_ROPE:
                config["rope_parameters"] = {"full_attention": {"rope_type": form}, "sliding_attention": {}}
            elif name not in STRICT_KEYS:  # else merge leaves rope_scaling out
                config["rope_scaling"] = config["rope_parameters"]
            if "other logits at 12" in read.get(form, "") and not list(older_reader_warnings(config)):
                silent.append((version, name, form))
    assert not silent


def test_every_refusal_on_the_page_names_its_test() -> None:
    assert not [refusal.test for refusal in REFUSALS if not refusal.exists]
