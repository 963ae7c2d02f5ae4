"""Grafts of every family in transformers 4.46 and 4.57, as docs/models.md says."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.parity.families.readers import VERSIONS, read_by, read_readers, write_grafts

READERS = read_readers()

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def grafts(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    rows = {name: list(forms) for name, forms in READERS[VERSIONS[0]].items()}
    return write_grafts(rows, tmp_path_factory.mktemp("grafts"))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_logits_are_those_of_the_donor(
    version: str, grafts: dict[tuple[str, str], Path], consumer: Callable[[str], Path]
) -> None:
    python = consumer(f"transformers-{version}") / "bin/python"
    read = read_by(python, grafts)
    assert read == READERS[version]
    assert not [text for forms in read.values() for text in forms.values() if text.startswith("WRONG")]
