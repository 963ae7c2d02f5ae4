"""The line about libraries that take long to load."""

import importlib
import time
from pathlib import Path

import pytest

from contextgraft.cli import loading
from contextgraft.cli.loading import loading_line
from contextgraft.cli.verbosity import Verbosity


@pytest.mark.parametrize(
    ("imported", "quiet", "lines"), [(True, False, 1), (True, True, 0), (False, False, 0)]
)
def test_a_long_import_is_said_unless_quiet(
    imported: bool,
    quiet: bool,
    lines: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / f"slow_{imported}_{quiet}.py").write_text("import time; time.sleep(0.4)")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(loading, "IN_LOG", 0.05)
    with loading_line(Verbosity(quiet=quiet)):
        if imported:
            importlib.import_module(f"slow_{imported}_{quiet}")
        else:
            time.sleep(0.2)
    assert capsys.readouterr().err == "contextgraft: loading libraries\n" * lines
