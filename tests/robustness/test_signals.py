"""SIGINT, SIGTERM and SIGHUP in every verb, at any moment: one line, nothing half-written, the same end."""

import random
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
from tests.robustness.in_process import run
from tests.robustness.test_full_disk import COMMANDS, attempt, contents, visible, words

from contextgraft.cli.main import VERBS, cli

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MOMENTS = 4  # of each command and signal; a moment is a file that is opened, or a change of the disk
# print only
PRINTING = {
    "inspect": "inspect {made}/style --base {made}/base",
    "inspect-sheet": "inspect-sheet {made}/sheet.tsv --base {made}/base",
    "plan": "plan training {made}/recipe.yaml --base {made}/base/config.json",
    "rope": "rope --theta 10000 --context 8192 --to 65536",
    "cache": "cache",
    "verify": "verify {made}/graft --target {made}/style --adapter {made}/adapters/r2",
    "compare": "compare {made}/adapters/r2 {made}/adapters/r2",
    "replay": "replay {made}/results/samples.parquet 0 {made}/style --skill {made}/k.jsonl",
}
ELSEWHERE = {"publish": "tests/hub/publish/test_signals.py, with a hub; so are headers"}
QUICK = {("fetch a folder", signal.SIGINT), ("extract", signal.SIGTERM), ("merge", signal.SIGHUP)}


class Whole(NamedTuple):
    """What an undisturbed run writes, and its number of moments."""

    files: dict[str, bytes]
    moments: int


@pytest.fixture(scope="module")
def whole(inputs: Path, fork_server: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    """What each command does when nothing disturbs it; computed when it is first wanted."""

    class Runs(dict[str, Whole]):
        def __missing__(self, name: str) -> Whole:
            folder = tmp_path_factory.mktemp("whole")
            done = fork_server.run(arguments(name, inputs, folder / "out"), reads=True)
            assert done.status == 0, done.stderr
            self[name] = Whole(read(folder, contents(folder)), len(done.steps))
            return self[name]

    return Runs()


def arguments(name: str, made: Path, out: Path) -> list[str]:
    return PRINTING[name].format(made=made).split() if name in PRINTING else words(name, made, out)


def read(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Files of a folder, in which a study names the folder itself."""
    return {name: (folder / name).read_bytes().replace(bytes(folder), b"FOLDER") for name in names}


def cases() -> list[Any]:
    """Every command with every signal; the quick ones run by default."""
    return [
        pytest.param(name, number, marks=[] if (name, number) in QUICK else pytest.mark.slow)
        for name in sorted(COMMANDS.keys() - {"fetch headers"} | PRINTING.keys())  # that one needs a hub
        for number in SIGNALS
    ]


@pytest.mark.parametrize(("name", "number"), cases())
def test_one_line_and_the_same_end(
    *,
    name: str,
    number: signal.Signals,
    inputs: Path,
    whole: dict[str, Whole],
    fork_server: Any,
    tmp_path: Path,
) -> None:
    expected, chance = whole[name], random.Random(f"{name} {number}")
    for moment in sorted(chance.sample(range(1, expected.moments + 1), min(MOMENTS, expected.moments))):
        folder = tmp_path / str(moment)
        folder.mkdir()
        args = arguments(name, inputs, folder / "out")
        done = fork_server.run(args, at=moment, signal=number, reads=True)
        where = f"moment {moment} of {expected.moments}: {done.stderr}"
        assert not done.late, where
        assert "Traceback" not in done.stderr, where
        complete = read(folder, (str(path.relative_to(folder)) for path in visible(folder)))
        assert complete.items() <= expected.files.items(), where
        if done.status == 0:  # it had finished
            assert complete == expected.files, where
        else:
            assert done.status in {128 + number, 130}, where
            assert done.stderr.count("contextgraft: interrupted") == 1, where
        again = run(args) if name in PRINTING else attempt(name, inputs, folder / "out")
        there = "already exists" in again.stderr or "exists already" in again.stderr
        finished = complete == expected.files and there
        assert again.status == 0 or finished, (where, again)
        assert read(folder, contents(folder)) == expected.files, where


def test_every_verb_is_tried() -> None:
    tried = {word for text in (*COMMANDS.values(), *PRINTING.values()) for word in text.split()}
    assert set(VERBS) - tried == set(ELSEWHERE)
    assert all(cli.get_command(click.Context(cli), verb) is not None for verb in ELSEWHERE)
