"""The checks for GPUs: they run to their end on a processor, and no check stops the others."""

import importlib.util
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
GPU = ROOT / "bench/gpu"


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(GPU))
    return importlib.import_module("gpu_checks")


def run_all(checks: Any, folder: Path, chosen: list[Any], seconds: float = 100) -> list[tuple[str, str]]:
    """Name and verdict of each row, as printed and as written."""
    deadline = time.monotonic() + seconds
    session = checks.GpuSession("cpu", True, ROOT, folder, folder, deadline)
    rows = checks.run_checks(chosen, session)
    assert json.loads((folder / "gpu-check.json").read_text())["rows"] == rows
    return [(row["check"], row["verdict"]) for row in rows]


def test_a_failed_check_does_not_stop_the_others(
    checks: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(session: Any) -> Iterator[Any]:
        yield checks.Outcome("before the error", {"error": 0.123456789})
        raise RuntimeError("CUDA error: no kernel")

    def sound(session: Any) -> Iterator[Any]:
        yield checks.Outcome("within its bound", {}, True)
        yield checks.Outcome("outside its bound", {}, False)

    rows = run_all(checks, tmp_path, [checks.Check("broken", broken, 0), checks.Check("sound", sound, 0)])
    assert rows == [("broken", "measured"), ("broken", "fail"), ("sound", "pass"), ("sound", "fail")]
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    assert "error=0.1235" in printed[0]
    assert "CUDA error: no kernel" in printed[1]


def test_what_does_not_fit_into_the_budget_is_skipped_or_ended(checks: Any, tmp_path: Path) -> None:
    def endless(session: Any) -> Iterator[Any]:
        yield checks.Outcome("begun", {})
        while True:
            time.sleep(0.01)

    ran = run_all(
        checks, tmp_path, [checks.Check("endless", endless, 0), checks.Check("late", endless, 5)], 0.3
    )
    assert ran == [("endless", "measured"), ("endless", "fail"), ("late", "skipped")]


@pytest.mark.parametrize("path", sorted(GPU.glob("*.py")), ids=lambda path: path.name)
def test_files_are_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


@pytest.fixture
def program(checks: Any) -> Any:
    specification = importlib.util.spec_from_file_location("gpu_run", GPU / "run.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_checks_that_cannot_be_imported_fail_alone(checks: Any, program: Any, tmp_path: Path) -> None:
    chosen = [*program.load_checks("absent_checks"), checks.Check("later", lambda _: iter(()), 0)]
    assert run_all(checks, tmp_path, chosen) == [("import absent_checks", "fail")]


def test_the_documentation_has_every_check() -> None:
    sources = [path.read_text() for path in GPU.glob("*.py")]
    names = [name for source in sources for name in re.findall(r'\bCheck\("([^"]+)"', source)]
    page = (ROOT / "docs/gpu.md").read_text()
    assert len(names) == 18
    assert [name for name in names if f"`{name}`" not in page] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_checks_run_on_a_processor(tmp_path: Path) -> None:
    command = [sys.executable, str(GPU / "run.py"), "--device", "cpu", "--small", "--seconds", "1500"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "gpu-check.json").read_text())["rows"]
    assert {row["verdict"] for row in rows} == {"pass", "measured"}
    assert (tmp_path / "profile.txt").stat().st_size
