"""Ranks that are killed, stopped or terminated, bursting losses, full disks: one line, and the same end."""

import random
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from contextgraft.training.parallel.checkpoints import complete_checkpoints, remove_unusable
from contextgraft.training.state import CHECKPOINTS
from contextgraft.training.trainer import train

from ..conftest import Recorder, curve, write_recipe, write_recipe_folder
from .conftest import (
    COMMAND,
    Run,
    environments,
    error_line,
    finish,
    start,
    start_ranks,
    wait_until,
    work_folder,
)
from .fork_server import Process

STAGES = [{"length": 32, "steps": 36, "tokens": 64}, {"length": 64, "steps": 24, "tokens": 64}]
SOON = ["--checkpoint-seconds", "0"]


@pytest.fixture(scope="module")
def command(sharded: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run of many small steps; the output is to be added."""
    config = write_recipe(write_recipe_folder(tmp_path_factory.mktemp("run") / "recipes"), stages=STAGES)
    return [*COMMAND, "--config", str(config), "--base", str(sharded), *SOON, "--out"]


@pytest.fixture(scope="module")
def whole(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of two undisturbed ranks."""
    out = tmp_path_factory.mktemp("whole") / "whole"
    finish(start_ranks([*command, str(out)], 2))
    return out


def assert_the_same_end(out: Path, whole: Path, base: Path) -> None:
    """The whole curve, and every weight by how far it moved, but for roundings that grew over sixty steps."""
    losses = [(a["loss"] / b["loss"] - 1) for a, b in zip(curve(out), curve(whole), strict=True)]
    before = {name: value for shard in base.glob("*.safetensors") for name, value in load_file(shard).items()}
    one, other = (load_file(folder / "model.safetensors") for folder in (out, whole))
    moved = {
        name: ((one[name] - other[name]).norm() / (other[name] - value).norm()).item()
        for name, value in before.items()
    }
    assert max(map(abs, losses)) < 5e-6
    assert max(moved.values()) < 3e-5, moved


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def start_and_pause(command: list[str], out: Path) -> list[Process]:
    """Two ranks that wait where a checkpoint is complete; resume the first to let them go on."""
    work = work_folder(out)
    processes = start_ranks([*command, str(out)], 2, pause=work)
    wait_until(lambda: complete_checkpoints(work), processes)
    return processes


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 0])
def test_a_killed_rank_ends_the_run_with_one_line_and_a_rerun_ends_the_same(
    command: list[str], whole: Path, tmp_path: Path, rank: int
) -> None:
    out = tmp_path / "out"
    processes = start_and_pause(command, out)
    processes[rank].kill()
    processes[0].resume()
    survivor = finish([processes[1 - rank]], status=2)
    assert "another process of the run has ended" in error_line(survivor)
    assert not out.exists()
    said = finish(start_ranks([*command, str(out)], 2))
    assert "resuming after step" in said[0].err
    assert files(out) == files(whole)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [0, 1])
def test_a_byte_of_a_checkpoint_that_changed_is_noticed(
    command: list[str], whole: Path, tmp_path: Path, shard: int
) -> None:
    out = tmp_path / "out"
    processes = start_and_pause(command, out)
    for process in processes:
        process.kill()
        process.wait()
    for folder in complete_checkpoints(work_folder(out)):
        path = sorted(folder.glob("*.safetensors"))[shard]
        raw = bytearray(path.read_bytes())
        raw[len(raw) * 3 // 4] ^= 1
        path.write_bytes(raw)
    said = finish(start_ranks([*command, str(out)], 2))
    assert "resuming" not in said[0].err
    assert files(out) == files(whole)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, None, 4])
def test_another_number_of_ranks_goes_on(
    *, command: list[str], whole: Path, sharded: Path, tmp_path: Path, world: int | None
) -> None:
    """SIGTERM sets the run aside; None: in one process that torchrun did not start."""
    out = tmp_path / "out"
    processes = start_and_pause(command, out)
    processes[0].send_signal(signal.SIGTERM)
    processes[0].resume()
    said = finish(processes, status=130)
    assert "interrupted; run the same command again" in said[0].err
    assert not said[1].err
    assert len(list((work_folder(out) / CHECKPOINTS).iterdir())) <= 2, "older checkpoints go"
    if world is None:
        said = finish([start([*command, str(out)])])
    else:
        said = finish(start_ranks([*command, str(out)], world))
    assert "resuming after step" in said[0].err
    assert_the_same_end(out, whole, sharded)


@pytest.mark.slow
def test_many_ranks_take_up_what_one_process_began(
    command: list[str], whole: Path, sharded: Path, tmp_path: Path
) -> None:
    config, steps = Path(command[command.index("--config") + 1]), iter(range(1000))
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        train(config, sharded, out, reporter=Recorder(stop=lambda: next(steps) == 20))
    said = finish(start_ranks([*command, str(out)], 2))
    assert "resuming after step 21 of 60" in said[0].err
    assert_the_same_end(out, whole, sharded)


def test_other_ranks_hear_from_a_long_task_of_one(ranks: Run, tmp_path: Path) -> None:
    """Packing documents or writing a large model may take longer than the timeout for a message."""
    main, other = ranks(2, "long_tasks", module="message_jobs", out=str(tmp_path / "out"))
    assert main["results"] == ["done", ["InputError", "no good"], True]
    assert other["results"] == ["done", ["RemoteRankError", "no good"], True]
    assert main["waits"] == [main["timeout"] / 4] * len(main["waits"])
    assert other["messages"] == len(main["waits"]) >= 10


def test_an_unfinished_checkpoint_does_not_mix_with_the_next(tmp_path: Path) -> None:
    for name in ("step-00000003", "step-00000004.partial"):
        (tmp_path / CHECKPOINTS / name).mkdir(parents=True)
    (tmp_path / CHECKPOINTS / "step-00000004.partial/shard-00004.safetensors").write_bytes(
        b"of a fourth rank"
    )
    assert remove_unusable(tmp_path) == 3
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == ["step-00000003"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 0])
def test_a_hung_rank_is_reported_and_not_waited_for(command: list[str], tmp_path: Path, rank: int) -> None:
    out = tmp_path / "out"
    processes = start_and_pause([*command[:-1], "--patience", "120", "--out"], out)
    processes[rank].send_signal(signal.SIGSTOP)
    processes[0].resume()
    try:
        survivor = finish([processes[1 - rank]], status=2)
        assert "did not answer for 120 s" in error_line(survivor)
        assert processes[rank].poll() is None
    finally:
        processes[rank].kill()


def test_a_loss_that_bursts_is_one_line(sharded: Path, recipe_folder: Path, tmp_path: Path) -> None:
    config = write_recipe(recipe_folder, optimiser={"learning_rate": 1e30, "warmup": 0})
    out = ["--config", str(config), "--base", str(sharded), "--out", str(tmp_path / "out")]
    said = finish(start_ranks([*COMMAND, *out], 2), status=2)
    assert "training diverged" in error_line(said)
    rows = (tmp_path / ".out.partial/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert f"at step {len(rows) + 1};" in error_line(said)  # those that led there are kept


def test_no_checkpoint_is_begun_while_one_is_written(ranks: Run, tmp_path: Path) -> None:
    (tmp_path / "step-00000007.partial").mkdir()
    for said in ranks(2, "agreements", module="message_jobs", folder=str(tmp_path)):
        assert said == [[True, False], [False, True], [True, False]]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]


@pytest.mark.slow
def test_another_dtype_does_not_go_on(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    processes = start_and_pause(command, out)
    for process in processes:
        process.kill()
        process.wait()
    said = finish(start_ranks([*command, str(out), "--dtype", "bfloat16"], 2), status=2)
    assert "contains an unfinished run with another dtype" in error_line(said)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 0])
def test_a_full_disk_on_any_rank_is_one_line(
    command: list[str], whole: Path, tmp_path: Path, rank: int
) -> None:
    """A rank whose files may not grow: it cannot write its part of a checkpoint."""
    out = tmp_path / "out"
    processes = [
        start([*command, str(out)], environment, file_bytes=4096 if number == rank else None)
        for number, environment in enumerate(environments(2))
    ]
    line = error_line(finish(processes, status=2))
    assert "cannot be written" in line
    assert "free disk space" in line
    finish(start_ranks([*command, str(out)], 2))
    assert files(out) == files(whole)


@pytest.mark.slow
def test_killed_at_random_times_the_end_is_the_same(command: list[str], whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    chance = random.Random(6)
    for victims in ([0, 1], [0], [1], [0, 1], [1], [0]):
        processes = start_ranks([*command[:-1], "--patience", "120", "--out", str(out)], 2)
        time.sleep(chance.uniform(0.1, 4))
        for rank in victims:
            processes[rank].kill()
        for process in processes:
            process.wait()  # a survivor ends by itself
        if out.exists():
            break
    finish(start_ranks([*command, str(out)], 2)) if not out.exists() else None
    assert files(out) == files(whole)


@pytest.mark.slow
@pytest.mark.parametrize("world", [None, 2])
def test_interrupted_at_random_times_the_end_is_the_same(
    command: list[str], tmp_path: Path, world: int | None
) -> None:
    """Ctrl-C and SIGTERM to all processes: one line in all, no traceback, and the same command resumes."""
    chance, out = random.Random(8), tmp_path / "out"
    undisturbed = tmp_path / "undisturbed"
    finish(started(command, undisturbed, world))
    for number in (signal.SIGINT, signal.SIGTERM) * 4:
        processes = started(command, out, world)
        while processes[0].poll() is None and not is_training(processes[0]):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1))
        for process in processes:
            process.send_signal(number)
        for process in processes:
            process.wait()
        if out.exists():
            break
        said = finish(processes, status=130)
        lines = [line for rank in said for line in rank.err.splitlines() if "interrupted" in line]
        assert lines == ["contextgraft: interrupted; run the same command again to resume"]
        assert not any("Traceback" in rank.err for rank in said), said
    finish(started(command, out, world)) if not out.exists() else None
    assert files(out) == files(undisturbed)


def is_training(process: Process) -> bool:
    """Whether a run has said what it trains."""
    path = process.folder / "err"
    return path.exists() and "training" in path.read_text()


def started(command: list[str], out: Path, world: int | None) -> list[Process]:
    """A run in so many processes, or in one that torchrun did not start."""
    words = [*command, str(out)]
    return [start(words)] if world is None else start_ranks(words, world)
