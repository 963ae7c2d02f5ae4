"""A process that is ended from outside says nothing about a model; nothing of a process is left behind."""

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from contextgraft.errors import CheckpointError, ContextgraftError, MissingExtra, ProcessEnded
from contextgraft.formats.model.limited_process import LimitedProcess, ProcessBudget, run_limited
from contextgraft.formats.refusal import is_final

BUDGET = ProcessBudget(cpu_seconds=2, memory=1 << 28)


def error_of(function: Callable[[], str], tmp_path: Path) -> ContextgraftError:
    with pytest.raises(ContextgraftError) as caught:
        run_limited(function, "its tokenizer", tmp_path, BUDGET)
    assert str(caught.value).isprintable()
    return caught.value


def missing(name: str) -> str:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


FROM_OUTSIDE: dict[str, Callable[[], object]] = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),  # of the kernel, when memory is short
    "SIGUSR1": lambda: os.kill(os.getpid(), signal.SIGUSR1),
    "exit code 3": lambda: os._exit(3),
}


@pytest.mark.parametrize("name", FROM_OUTSIDE)
def test_an_end_from_outside_is_no_refusal(tmp_path: Path, name: str) -> None:
    error = error_of(lambda: str(FROM_OUTSIDE[name]()), tmp_path)
    assert isinstance(error, ProcessEnded)
    assert f"received {name}" in str(error)
    assert not is_final(error)


def test_signals_that_reach_all_processes_of_a_job_leave_the_end_to_the_parent(tmp_path: Path) -> None:
    def function() -> str:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(os.getpid(), number)
        return "answered"

    assert run_limited(function, "its tokenizer", tmp_path, BUDGET) == "answered"


def test_what_the_function_itself_does_is_a_refusal(tmp_path: Path) -> None:
    for function, words in (
        (lambda: str(os.abort()), "was stopped; expected an end within .*SIGABRT"),  # Rust without memory
        (lambda: "x" * (1 << 30), "cannot be used; received MemoryError: more than 256 MB"),
        (lambda: missing("fugashi"), "received ModuleNotFoundError: No module named 'fugashi'"),
    ):
        error = error_of(function, tmp_path)
        assert isinstance(error, CheckpointError)
        with pytest.raises(CheckpointError, match=words):
            raise error


def test_a_package_of_an_extra_is_named_and_no_refusal(tmp_path: Path) -> None:
    error = error_of(lambda: missing("lm_eval"), tmp_path)
    assert isinstance(error, MissingExtra)
    assert "contextgraft[lm-eval]" in str(error)
    assert not is_final(error)


def test_later_requests_have_the_same_error(tmp_path: Path) -> None:
    process = LimitedProcess(lambda _: os._exit(1), "it", tmp_path, 1 << 28)
    for _ in range(2):
        with pytest.raises(ProcessEnded, match="exit code 1"):
            process.ask(b"", 1)


@pytest.mark.parametrize("call", ["fork", "pipe"])
def test_a_process_that_cannot_start_leaves_no_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = os.pipe
    calls = iter([real])

    def fails() -> tuple[int, int]:
        if call == "pipe" and (first := next(calls, None)):
            return first()
        raise OSError(11, "Resource temporarily unavailable")

    before = sorted(Path("/proc/self/fd").iterdir())
    monkeypatch.setattr(os, call, fails)
    error = error_of(lambda: "", tmp_path)
    assert isinstance(error, ProcessEnded)
    assert not is_final(error)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_module_that_another_thread_imports_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the process would wait for the lock of the module, which nobody releases in it."""
    source = "import threading\nBEGUN.set()\nGO.wait(600)\nVALUE = 'imported'\n"
    (tmp_path / "slow_module.py").write_text(f"from slow_events import BEGUN, GO\n{source}")
    (tmp_path / "slow_events.py").write_text(
        "import threading\nBEGUN, GO = threading.Event(), threading.Event()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    slow_events = importlib.import_module("slow_events")

    thread = threading.Thread(target=lambda: __import__("slow_module"))
    thread.start()
    slow_events.BEGUN.wait(600)
    threading.Timer(0.2, slow_events.GO.set).start()
    value = run_limited(lambda: __import__("slow_module").VALUE, "it", tmp_path, BUDGET)
    thread.join()
    assert value == "imported"
    for name in ("slow_module", "slow_events"):
        del sys.modules[name]
