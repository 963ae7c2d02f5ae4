"""The line about libraries that take long to load."""

import importlib
import time
from pathlib import Path

import pytest

from contextgraft.cli import progress
from contextgraft.cli.progress import loading_line
from contextgraft.cli.verbosity import Verbosity


@pytest.fixture
def slow_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for quiet in (False, True):
        (tmp_path / f"slow_import_{quiet}.py").write_text("import time; time.sleep(0.4)")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(progress, "IN_LOG", 0.05)


@pytest.mark.parametrize(
    ("imported", "quiet", "lines"), [(True, False, 1), (True, True, 0), (False, False, 0)]
)
def test_a_long_import_is_said_unless_quiet(
    imported: bool, quiet: bool, lines: int, slow_modules: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with loading_line(Verbosity(quiet=quiet)):
        if imported:
            importlib.import_module(f"slow_import_{quiet}")
        else:
            time.sleep(0.2)
    assert capsys.readouterr().err == "contextgraft: loading libraries\n" * lines
