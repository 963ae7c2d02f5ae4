"""docs/models.md: which donors of which families were grafted rightly, from the rows that the tests prove.

`python -m tests.parity.families.matrix` writes the page from rows.json; with names of
families it proves their rows again first.
"""

import json
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from tests.parity.families.proof import HEADS, ROPE, Proof, base_config, has_rope, prove
from tests.parity.families.readers import read_readers, table
from tests.parity.families.refused import lines as refused_lines
from tests.parity.families.table import FAMILIES
from tests.parity.families.vision_families import VISION_LANGUAGE

Rows = dict[str, dict[str, str]]
RIGHT = "right"
TOLERANCE = 1e-4
ROWS = Path(__file__).with_name("rows.json")
PAGE = Path(__file__).parents[3] / "docs/models.md"
FORMS = (*ROPE, "window")
HEAD = """# Models

For each model class, a donor is grafted onto the base itself, at full rank and with the embeddings selected.
The table says whether the graft computes the donor's logits, at 12 tokens and at 300; the base's context has
128. All weights of the language model differ between base and donor. The reader is transformers 5.

- *right*: the graft computes the donor's logits.
- A dash: transformers has no such form for the class.
- Column *theta*: the donor has another theta and `max_position_embeddings`; of classes without a rotary
  theta, another length only, where they have one. Column *window*: the donor also removes or widens the
  base's sliding window or attention chunk.

`tests/parity/test_families.py` proves every row with tiny random models, and
`python -m tests.parity.families.matrix` generates this page from the rows.

`tests/consumers/test_transformers_4.py` compares grafts in transformers 4.46 and 4.57, one class for each
type of RoPE. One difference remains: for YaRN, transformers 4.46 ignores
`original_max_position_embeddings` and uses `max_position_embeddings` as the original length. Where the two
differ, 4.46 computes other frequencies than 4.57 and 5, for the donor as for the graft, and `merge` warns.
"""
OUTPUT_LAYERS = """## Output layers

The same donors with another theta, where base and donor tie the output layer to the input embeddings or not;
embeddings and output layer are selected.

- *untied*, *tied*: both alike. *tied, stored*: the base's file holds an equal copy of the tied layer.
- *donor unties*: the base is tied, and the donor has an output layer of its own. *donor ties*: the reverse.
- A dash: the class is always tied, or never.
"""
REFUSALS = (
    "## Refusals",
    "",
    "A number above is that of a refusal: `extract` or `merge` ends with this reason and writes nothing.",
    "",
)
OLDER = """## Older readers

What transformers 4.46.3 and 4.57.1 compute of the grafts with another theta (or length), compared with the
donor's logits in transformers 5 to a thousandth. A dash: the version does not have the class. A letter: the
list below has the reason; an error is one that the donor's files, as transformers 5 saved them, cause as
well, unless it says otherwise. `merge` warns of each class and form that differs, before it writes, and names
the version.

OLMo 3 and ModernBERT's decoder have a theta for each type of layer, where 4.57 has one for all; 4.46
computes Qwen2 with a window otherwise past that window, and Mamba-2 (with two groups) at any length; both
versions compute RecurrentGemma otherwise past its window.

Of the other forms of RoPE, 4.46 ignores `rope_scaling` in Gemma, Gemma 2, GLM, Mistral, Mixtral and
Nemotron (Nemotron in 4.57, too), takes `max_position_embeddings` for the original length of YaRN, and the
long factors of LongRoPE at every length in classes other than Phi-3. These models are so small that YaRN's
frequencies are the same for both lengths in some classes (*right*); `merge` warns of them, too. Both
versions have no keys for YaRN, Llama 3's scaling and LongRoPE in OLMo and OLMo 2, nor for the `factor` of
LongRoPE in Phi-3, which these donors state and published ones do not. 4.57 loads Llama 4 with Llama 3's
scaling only.
"""


def outcome(proof: Proof) -> str:
    """What a row says of a donor: right, the reason of a refusal, or the distances of a wrong graft."""
    if proof.refusal:
        return f"refused: {proof.reason}"
    return RIGHT if max(proof.distances.values()) < TOLERANCE else f"WRONG: {proof.distances}"


def forms_of(name: str) -> list[str]:
    """The forms of a donor that a family may have."""
    family = FAMILIES[name]
    forms = list(ROPE) if has_rope(base_config(name, family)) else ["theta"]
    return forms + (["window"] if family.window else []) + list(HEADS)


def prove_rows(name: str) -> dict[str, str]:
    """All rows of a family; those that transformers has no form for are left out."""
    rows = {}
    for form in forms_of(name):
        with tempfile.TemporaryDirectory() as folder:
            proof = prove(name, FAMILIES[name], form, Path(folder))
        if proof is not None:
            rows[form] = outcome(proof)
    return rows


def read_rows() -> Rows:
    """The rows as the tests prove them."""
    rows: Rows = json.loads(ROWS.read_text())
    return rows


def page(rows: Rows) -> str:
    """The text of docs/models.md."""
    reasons = sorted({text for forms in rows.values() for text in forms.values() if text != RIGHT})
    numbers = {text: str(number) for number, text in enumerate(reasons, 1)}
    text = {name: forms for name, forms in rows.items() if name not in VISION_LANGUAGE}
    vision = {name: forms for name, forms in rows.items() if name in VISION_LANGUAGE}
    lines = [HEAD, "## Language models", "", *_table(text, FORMS, numbers)]
    lines += ["", "## Vision-language models", ""]
    lines += ["The language model is grafted; the other towers stay byte for byte.", ""]
    lines += [*_table(vision, FORMS, numbers), "", OUTPUT_LAYERS, *_table(rows, HEADS, numbers)]
    if reasons:
        lines += ["", *REFUSALS]
    lines += [f"{number}. {reason.removeprefix('refused: ')}" for reason, number in numbers.items()]
    lines += ["", OLDER, *table(read_readers()), "", *refused_lines()]
    return "\n".join(lines) + "\n"


def _table(
    rows: Mapping[str, Mapping[str, str]], columns: Collection[str], numbers: Mapping[str, str]
) -> list[str]:
    known = {"": "-", RIGHT: RIGHT, **numbers}
    lines = [f"| class | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for name, forms in rows.items():
        cells = [known[forms.get(column, "")] for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    before = read_rows() if ROWS.exists() else {}
    proven = {name: prove_rows(name) if name in sys.argv[1:] else before.get(name, {}) for name in FAMILIES}
    ROWS.write_text(json.dumps(proven, indent=1) + "\n")
    PAGE.write_text(page(proven))
