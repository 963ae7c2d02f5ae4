"""Grafts of every family in transformers 4.46 and 4.57, as docs/models.md says."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.parity.families.matrix import RIGHT, read_rows
from tests.parity.families.old_reader import ALONE
from tests.parity.families.readers import FIRST, FORMS, VERSIONS, read_by, read_readers, write_grafts

from contextgraft.rope.older_readers import older_reader_warnings

READERS = read_readers()

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def grafts(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    rows = {
        name: [form for form in (FIRST, *FORMS) if forms.get(form) == RIGHT]
        for name, forms in read_rows().items()
    }
    return write_grafts(rows, tmp_path_factory.mktemp("grafts"))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_logits_are_those_of_the_donor(
    version: str, grafts: dict[tuple[str, str], Path], consumer: Callable[[str], Path]
) -> None:
    python = consumer(f"transformers-{version}") / "bin/python"
    read = read_by(python, grafts)
    assert read == READERS[version]
    differing = [key for key in grafts if read[key[0]][key[1]].startswith(("other logits", ALONE))]
    assert differing
    assert [key for key in differing if not _is_warned_of(version, grafts[key] / "graft")] == []


def _is_warned_of(version: str, graft: Path) -> bool:
    """Whether `merge`, which gives these warnings of what it writes, names the version or transformers 4."""
    config = json.loads((graft / "config.json").read_text())
    names = (version, "transformers 4 ", "transformers before ")
    return any(name in line for line in older_reader_warnings(config) for name in names)
