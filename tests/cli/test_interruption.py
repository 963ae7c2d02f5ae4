"""Signals that end a command: one line, exit code 128 + signal; ignored ones stay ignored."""

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from contextgraft.cli import main as command_line
from contextgraft.cli.interruption import SIGNALS, Interruption


@pytest.fixture(autouse=True)
def _restore_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, initial in SIGNALS.items():
        signal.signal(number, initial)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Ended(BaseException):
    """The end of the process."""


def end_of(run: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of the command line, with `run` as the verb."""

    def leave(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(command_line.cli, "main", run)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # set back at the end
    with pytest.raises(Ended) as end:
        command_line.main()
    return int(end.value.args[0])


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("error", [None, RuntimeError("query interrupted"), SystemExit(1)])
def test_a_signal_is_one_line_whatever_a_library_makes_of_it(
    number: signal.Signals,
    error: BaseException | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def verb(**_: object) -> None:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise error or KeyboardInterrupt from None

    assert end_of(verb, monkeypatch) == 128 + number
    by = "" if number == signal.SIGINT else f" by {number.name}"
    expected = f"contextgraft: interrupted{by}; run the same command again to resume"
    assert capsys.readouterr().err.splitlines() == [expected]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_while_the_line_is_written_changes_nothing(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from Snakemake, which sends on what the terminal has sent to every process."""
    lines = []

    def slow_terminal(text: str = "", **_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        lines.append(text)

    monkeypatch.setattr("contextgraft.cli.interruption.echo", slow_terminal)
    assert end_of(lambda **_: os.kill(os.getpid(), number), monkeypatch) == 128 + number
    assert len(lines) == 1


def test_a_closed_terminal_takes_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("contextgraft.cli.interruption.echo", closed)
    assert end_of(lambda **_: os.kill(os.getpid(), signal.SIGHUP), monkeypatch) == 129


def test_signals_that_are_ignored_or_handled_stay_so() -> None:
    """As `nohup` does it, and as `train` does it with SIGTERM."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, handler := lambda *_: None)
    interruption = Interruption()
    interruption.watch()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.getsignal(signal.SIGINT) == interruption._receive


def test_a_finished_command_is_not_made_a_failure_by_ctrl_c() -> None:
    interruption = Interruption()
    interruption.watch()
    interruption.end()
    assert [signal.getsignal(number) for number in SIGNALS] == [
        signal.SIG_IGN,
        signal.SIG_DFL,
        signal.SIG_DFL,
    ]
