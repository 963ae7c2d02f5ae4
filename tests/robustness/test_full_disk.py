"""A full disk in every verb that writes: one line, exit code 2, nothing half-written; a rerun goes on."""

import os
import resource
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from tests.robustness.in_process import Outcome, flaw, run

from contextgraft.cli.main import VERBS, cli

# each writes `out`, a folder or a file
COMMANDS = {
    "fetch a folder": "fetch {made}/style --out {out}",
    "fetch a demo model": "fetch demo:style --out {out}",
    "fetch a GGUF file": "fetch {made}/m.gguf --out {out}",
    "fetch pickles": "fetch {made}/pickles --convert-pickles --out {out}",
    "fetch FP8": "fetch {made}/fp8 --dequantize --out {out}",
    "fetch headers": "fetch {made}/style --headers --out {out}",
    "extract": "extract --base {made}/base --donor {made}/facts --rank 4 --gguf --out {out}",
    "merge": "merge --adapter {made}/adapters/r2 --target {made}/style --out {out}",
    "evaluate": "evaluate {made}/style --suite skill --skill {made}/k.jsonl --out {out}.parquet",
    "evaluate with a graft": "evaluate {made}/style --adapter g={made}/adapters/r2 --base {made}/base "
    "--record g={out}.record --alignment g={out}.alignment.parquet --recommendation {out}.json "
    "--suite skill --skill {made}/k.jsonl --allow-refused --out {out}.parquet",
    "merge and verify": "merge --adapter {made}/adapters/r2 --target {made}/style --verify {out}.json "
    "--out {out}",
    "align": "align --base {made}/base --donor {made}/facts --target {made}/style --out {out}.parquet",
    "report": "report {made}/results --adapter {made}/adapters --out {out}",
    "init": "init --base {made}/base --donor {made}/facts --fine-tune {made}/style --out {out}",
    "train": "train --config {made}/recipe.yaml --base {made}/base --out {out}",
    "a refusal": "--refusal {out} merge --adapter {made}/adapters/r2 --target {made}/broken --out {out}",
}
RESUMED = ("fetch a folder", "fetch FP8", "fetch pickles", "fetch a GGUF file", "merge")
NOT_LIMITED = {"fetch headers", "a refusal", "init"}  # write less than any limit here, or the path itself
SEVERAL = {"evaluate with a graft"}  # outputs, each of which appears when it is complete
PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes: what a tmpfs gives to a file at least


@pytest.fixture(scope="module")
def expected(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What each command writes on a disk that is large enough; computed when it is first wanted."""

    class Results(dict[str, dict[str, bytes]]):
        def __missing__(self, name: str) -> dict[str, bytes]:
            folder = tmp_path_factory.mktemp("expected")
            assert attempt(name, inputs, folder / "out").status == 0
            self[name] = contents(folder)
            return self[name]

    return Results()


def words(name: str, made: Path, out: Path) -> list[str]:
    return COMMANDS[name].format(made=made, out=out).split()


def attempt(name: str, made: Path, out: Path) -> Outcome:
    """Run a command; V8, which draws the charts of a report, reserves more addresses than other libraries."""
    return run(words(name, made, out), memory=1 << 38)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def visible(folder: Path) -> list[Path]:
    """Files that a reader of the output would find."""
    return [
        path for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]  # fmt: skip


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """No file may be larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fails_then_succeeds(
    name: str, inputs: Path, folder: Path, expected: dict[str, bytes], limit: Any
) -> None:
    with limit:
        outcome = attempt(name, inputs, folder / "out")
    assert flaw(outcome, ()) is None, flaw(outcome, ())
    assert "cannot be written" in outcome.stderr
    assert "free disk space" in outcome.stderr
    complete = {str(path.relative_to(folder)): path.read_bytes() for path in visible(folder)}
    assert complete.items() < expected.items() if name in SEVERAL else not complete
    again = attempt(name, inputs, folder / "out")
    assert again.status == 0, (again.stderr, again.raised)
    assert contents(folder) == expected


SHARES = [0.5, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.0, 0.1, 0.9, 0.98))]


def marked(names: Iterable[str]) -> list[Any]:
    """Names of commands, of which two take their time: pickles are read by a process that imports torch."""
    slow = {"fetch pickles", *SEVERAL}
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", marked(sorted(COMMANDS.keys() - NOT_LIMITED)))
def test_no_file_may_be_larger(
    inputs: Path, expected: dict[str, dict[str, bytes]], tmp_path: Path, name: str, share: float
) -> None:
    right = expected[name]
    largest = max(map(len, right.values()))
    fails_then_succeeds(name, inputs, tmp_path, right, limited_files(int(share * largest)))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "zeros": lambda raw: bytes(len(raw)),
    "zeros at the end": lambda raw: raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2),
    "cut": lambda raw: raw[: len(raw) // 3],
    "one byte": lambda raw: raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :],
    "another line": lambda raw: b"{}\n" + raw,
    "empty": lambda raw: b"",
}


@pytest.mark.parametrize(
    "damage", ["zeros", *(pytest.param(name, marks=pytest.mark.slow) for name in list(DAMAGES)[1:])]
)
@pytest.mark.parametrize("name", marked(RESUMED))
def test_spoiled_partial_results_are_not_believed(
    inputs: Path, expected: dict[str, dict[str, bytes]], tmp_path: Path, name: str, damage: str
) -> None:
    """After a loss of power, files of an unfinished run hold anything."""
    right = expected[name]
    with limited_files(int(0.9 * max(map(len, right.values())))):
        assert attempt(name, inputs, tmp_path / "out").status == 2
    for path in [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    again = attempt(name, inputs, tmp_path / "out")
    assert again.status == 0, (again.stderr, again.raised)
    assert contents(tmp_path) == right


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - NOT_LIMITED))
def test_the_disk_is_full(
    inputs: Path, expected: dict[str, dict[str, bytes]], disk: Any, name: str, share: float
) -> None:
    right = expected[name]
    pages = sum(-(-len(content) // PAGE) for content in right.values())
    room = PAGE * max(1, min(int(share * pages), pages - 1))

    @contextmanager
    def small() -> Iterator[None]:
        disk.mount("tmpfs", "remount", f"size={room}")
        yield
        disk.mount("tmpfs", "remount", "size=100m")

    fails_then_succeeds(name, inputs, disk.path, right, small())


@pytest.mark.parametrize("name", sorted(NOT_LIMITED))
def test_small_outputs_on_a_disk_without_room(inputs: Path, disk: Any, name: str) -> None:
    (disk.path / "fill").write_bytes(bytes(os.statvfs(disk.path).f_bavail * os.statvfs(disk.path).f_frsize))
    outcome = attempt(name, inputs, disk.path / "out")
    assert flaw(outcome, ()) is None, flaw(outcome, ())
    assert visible(disk.path) == [disk.path / "fill"]


def test_every_verb_that_writes_is_tried() -> None:
    context = click.Context(cli)
    for verb in VERBS:
        command = cli.get_command(context, verb)
        assert command is not None
        writes = any("--out" in parameter.opts for parameter in command.params)
        assert writes == any(f"{words} ".startswith(f"{verb} ") for words in COMMANDS.values()), verb
