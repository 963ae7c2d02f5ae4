"""A file that cannot be read now is one line; what it belongs to is neither removed nor computed again."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
import torch

from contextgraft.adapter.verify.checks import run_check
from contextgraft.checkpoint.atomic import publish
from contextgraft.checkpoint.model_folder import open_model, read_json
from contextgraft.checkpoint.reader import read_tensor
from contextgraft.checkpoint.resume import ResumeLog
from contextgraft.checkpoint.safetensors_header import open_tensors
from contextgraft.cli.evaluate.outputs import check_out
from contextgraft.config.text_file import list_below
from contextgraft.errors import (
    CheckpointError,
    OutputError,
    ReadError,
    file_system_remedy,
    library_errors,
    raise_read_error,
)
from contextgraft.evaluation.suites.long_perplexity.reference import read_key_tokens, write_key_tokens
from contextgraft.evaluation.suites.reference_logprobs import LogprobSpec, LogprobWriter, reference_paths
from contextgraft.formats import samples
from contextgraft.formats.refusal import is_final
from contextgraft.sources.cache import local_folder
from contextgraft.sources.cache_lock import lock_entry
from contextgraft.sources.fetch import fetch
from contextgraft.sources.fetched import check_fetched
from contextgraft.sources.hub.client import Hub
from contextgraft.training.data import packing
from contextgraft.training.reporting.metrics import read_metrics, write_metrics
from contextgraft.training.state import SavedState, load_state, save_state, saved_step


@contextmanager
def no_more_files() -> Iterator[None]:
    """Every attempt to open a file fails, as where a process has too many open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Case(NamedTuple):
    """How files are made in a folder, and what reads them."""

    make: Callable[[Path], object]
    read: Callable[[Path], Any]


def make_state(work: Path) -> None:
    write_metrics(work, [{"step": 1, "loss": 0.5}])
    save_state(SavedState(1, {"weight/w": torch.ones(3)}), work)


def make_packed(work: Path) -> None:
    (work / "packed").mkdir()
    packing.write_shards(work / "packed", iter([([1, 2, 3, 4], [0])] * 50), 4)


def make_log(work: Path) -> None:
    try:
        with ResumeLog(work, {"job": 1}) as log:
            log.put("step", {"done": 1})
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass


def read_log(work: Path) -> object:
    return ResumeLog(work, {"job": 1}).__enter__().get("step")  # not left: that would end the job


def make_reference(work: Path) -> None:
    with LogprobWriter(reference_paths(work, "d"), LogprobSpec("i", 1, 3)) as writer:
        writer.put(0, torch.zeros(1, 3))
        writer.finish()


def make_samples(work: Path) -> None:
    samples.write(samples.SCHEMA.empty_table(), work / "samples.parquet", "run")


def is_whole(folder: Path) -> bool:
    check_fetched(folder)
    return True


CASES = {
    "state": Case(make_state, lambda work: load_state(work).step),
    "step of a state": Case(make_state, saved_step),
    "metrics": Case(make_state, lambda work: read_metrics(work, 1)),
    "packed sequences": Case(make_packed, lambda work: packing.is_packed(work / "packed")),
    "resume log": Case(make_log, read_log),
    "predictions": Case(make_reference, lambda work: reference_paths(work, "d").ready()),
    "samples": Case(make_samples, lambda work: samples.read_if(work / "samples.parquet", "run")),
    "key tokens": Case(
        lambda work: write_key_tokens(work / "k.json", {"window": [1]}),
        lambda work: read_key_tokens(work / "k.json"),
    ),
    "fetched folder": Case(lambda work: fetch("demo:base", work / "m"), lambda work: is_whole(work / "m")),
    "header": Case(
        lambda work: fetch("demo:base", work / "m"), lambda work: open_tensors(work / "m/model.safetensors")
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_nothing_is_removed_or_computed_again(tmp_path: Path, case: Case) -> None:
    work = tmp_path / "work"
    work.mkdir()
    case.make(work)
    good, files = case.read(work), content(work)
    assert good is not None
    with no_more_files(), pytest.raises(ReadError, match=r"cannot be read; received Too many open files"):
        case.read(work)
    assert content(work) == files
    assert case.read(work) == good


def fail(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.EIO, "Input/output error")


def test_packed_sequences_on_a_failing_disk_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_packed(tmp_path)
    rows = packing.PackedSequences(tmp_path / "packed", 0)
    monkeypatch.setattr(rows, "shards", [FailingShard(rows.shards[0])])
    with pytest.raises(ReadError, match="cannot be read; received Input/output error"):
        rows.row(0)
    assert packing.is_packed(tmp_path / "packed")


class FailingShard:
    """A Parquet file of which nothing can be read."""

    def __init__(self, shard: Any) -> None:
        self.metadata = shard.metadata
        self.read_row_group = fail


def test_a_cached_model_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository, or a file that was converted, may have taken hours to fetch."""
    monkeypatch.setenv("CONTEXTGRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("contextgraft.sources.cache.is_dataset", lambda _: False)
    monkeypatch.setattr("contextgraft.sources.cache.on_hub", lambda _: True)
    monkeypatch.setattr("contextgraft.sources.cache.repository_commit", lambda *_: ("owner/name", "c" * 40))
    monkeypatch.setattr("contextgraft.sources.cache.fetch", lambda _, out, **__: fetch("demo:base", out))
    folder = local_folder("hf:owner/name", Hub())
    files = content(folder)
    monkeypatch.setattr("contextgraft.sources.fetched.open_model", fail)
    with pytest.raises(ReadError, match="cannot be read; received Input/output error"):
        local_folder("hf:owner/name", Hub())
    assert content(folder) == files


def test_finished_steps_stay_when_an_input_cannot_be_read(tmp_path: Path) -> None:
    make_log(tmp_path)
    files = content(tmp_path)
    with pytest.raises(ReadError), ResumeLog(tmp_path, {"job": 1}), no_more_files():
        read_json(Path(__file__))
    assert content(tmp_path) == files


def test_tensors_of_a_file_that_cannot_be_opened_now(tmp_path: Path) -> None:
    fetch("demo:base", tmp_path / "m")
    model = open_model(tmp_path / "m")
    name = next(iter(model.tensors))
    read_tensor(model, name)
    with no_more_files(), pytest.raises(ReadError):
        read_tensor(model, name)


def test_it_is_no_refusal_of_a_model() -> None:
    """But a file that this user may not read is: the others of a batch go on."""
    for code, final in ((errno.EIO, False), (errno.EMFILE, False), (errno.EACCES, True), (errno.EPERM, True)):
        with pytest.raises(ReadError) as caught, library_errors("cannot be loaded", "m"):
            raise OSError(code, os.strerror(code))
        assert is_final(caught.value) is final
    for code in (errno.ENOENT, errno.EISDIR, errno.EINVAL):
        with pytest.raises(CheckpointError) as other, library_errors("cannot be loaded", "m"):
            raise OSError(code, os.strerror(code))
        assert is_final(other.value)


def test_errors_of_libraries_in_words_are_known() -> None:
    with pytest.raises(ReadError, match="received Input/output error"):
        raise_read_error(RuntimeError("No such device (os error 5)"), "m")
    raise_read_error(RuntimeError("invalid header"), "m")


def test_a_proof_that_cannot_be_made_is_no_disproof() -> None:
    def prove() -> str:
        raise_read_error(OSError(errno.EIO, "Input/output error"), "m")
        return "holds"

    with pytest.raises(ReadError):
        run_check("tensors", prove)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free disk space"), (errno.EACCES, "permissions"), (errno.EROFS, "permissions"),
        (errno.EIO, "check the disk"), (errno.ENOTDIR, "a part of the path is a file: name"),
        (errno.EEXIST, "File exists; name another path"),
    ],
)  # fmt: skip
def test_the_remedy_is_for_the_error(
    number: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, *_: object) -> NoReturn:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "mkdir", fail)
    with pytest.raises(OutputError, match=remedy), publish(tmp_path / "out"):
        pass


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free disk space, or set CONTEXTGRAFT_CACHE"),
        (errno.ENOLCK, "a file system with locks"),
    ],
)
def test_the_remedy_for_the_cache_is_for_the_error(
    number: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(OutputError, match=remedy), lock_entry(tmp_path / "entry", lambda: None):
        pass


@pytest.mark.parametrize(
    ("out", "remedy"), [("file/x.parquet", "file is a file: name"), ("no/x.parquet", "mkdir -p .*/no$")]
)
def test_a_file_in_place_of_the_folder_of_samples(out: str, remedy: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=remedy):
        check_out(tmp_path / out)


def test_too_many_open_files_are_no_lack_of_space() -> None:
    assert "ulimit -n" in file_system_remedy(OSError(errno.EMFILE, ""), "free disk space")


def test_a_folder_that_cannot_be_listed_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Path.rglob` leaves it out: a graft was copied without its files."""
    (tmp_path / "model/inside").mkdir(parents=True)
    (tmp_path / "model/inside/file.txt").touch()
    (tmp_path / "model/.hidden").mkdir()
    (tmp_path / "model/.hidden/file.txt").touch()
    assert list_below(tmp_path / "model", "*.txt") == [tmp_path / "model/inside/file.txt"]
    assert len(list_below(tmp_path / "model", "*.txt", hidden=True)) == 2
    assert list_below(tmp_path / "missing") == []
    scandir = os.scandir

    def listed(path: str) -> Any:
        if Path(path).name == "inside":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listed)
    with pytest.raises(ReadError, match="inside"):
        list_below(tmp_path / "model")
