"""Records of others in model cards and CSV tables: no field is markup, a formula, or metadata."""

import csv
import io
import re
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from contextgraft.formats.adapter_record import AdapterRecord
from contextgraft.formats.graft_record import GraftRecord
from contextgraft.report.cards import adapter_card_of, graft_card_of
from contextgraft.report.dvc_plots import as_csv, cell_text

HOSTILE = (
    "x`<script>alert(1)</script>`[a](javascript:b)\n---\nlicense: mit\n# T\n|x| <img src=x onerror=y> \x1b[2J"
)
IDENTITY = {"name": HOSTILE, "digest": HOSTILE, "source": HOSTILE, "revision": HOSTILE}
ROPE = {"theta": 10000.0, "max_positions": 64, "rope_type": "default"}
STUDY: Any = SimpleNamespace(targets=[])


def checked(card: str) -> str:
    """The body of a card whose metadata is between the first two lines of ---, and is not the text's."""
    _, front, body = card.split("---\n", 2)
    data = yaml.safe_load(front)
    assert data.get("license") != "mit"
    assert data["tags"] in (["contextgraft", "long-context", kind] for kind in ("merge", "lora"))
    outside = re.sub(r"`[^`\n]*`", "", body)  # inline code is shown as it is
    assert not re.search(r"(?<!\\)<\w", outside)
    assert not re.search(r"(?<!\\)\]\(javascript", outside)
    assert "\n---\n" not in body
    assert "\n# T" not in body
    assert not any(not letter.isprintable() and letter != "\n" for letter in card)
    return body


def test_a_graft_of_hostile_models() -> None:
    adapter = {"rank": HOSTILE, "scale": 1.0, "digest": HOSTILE, "base": IDENTITY, "donor": IDENTITY}
    graft = GraftRecord(HOSTILE, IDENTITY, (adapter,), {"before": ROPE, "after": ROPE}, ())
    assert "script" in checked(graft_card_of(STUDY, graft))


@pytest.mark.parametrize("theta", [10000.0, HOSTILE])
def test_an_adapter_of_hostile_models(theta: Any) -> None:
    rope = {"base": ROPE, "donor": {**ROPE, "theta": theta}}
    fields = {"base": IDENTITY, "donor": IDENTITY, "rope": rope, "rank": 4, "energy": 0.5}
    names = AdapterRecord.__dataclass_fields__
    adapter = AdapterRecord(**{name: fields.get(name, ()) for name in names})  # type: ignore[arg-type]
    checked(adapter_card_of(STUDY, adapter, {}))


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1",
        "@x",
        "\t=1",
        "\r=1",
        " =cmd|' /C calc'!A0",
        "\n=1",
        "\uff1d1+1",
        "\u200b=1",
        " \t@x",
    ],
)
def test_no_cell_is_a_formula(text: str) -> None:
    [row] = csv.DictReader(io.StringIO(as_csv(["a", "b"], [{"a": text, "b": -1.5}])))
    assert row["a"].startswith(("'", "\\"))
    assert row["b"] == "-1.5"
    assert cell_text("plain = text") == "plain = text"
