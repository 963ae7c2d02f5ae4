"""A graft onto the base itself, at full rank, computes the donor's logits, past the base's context too."""

from pathlib import Path

import pytest
from tests.parity.context_families import FAMILIES, LENGTHS, build, distance, graft

from contextgraft.adapter.verify.graft import verify

FAST = ("mistral without window", "gemma3", "qwen2 with a window")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_the_graft_is_the_donor(name: str, tmp_path: Path) -> None:
    build(FAMILIES[name], tmp_path)
    graft(tmp_path)
    for length in LENGTHS:
        assert distance(tmp_path, length) < 1e-4, length
    checks = verify(tmp_path / "graft", target=tmp_path / "base", adapters=[tmp_path / "adapter/r64"])
    assert [check for check in checks if not check.holds] == []
