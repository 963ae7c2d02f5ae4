"""The real command, killed in the middle: the same command again gives the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ..command_server import command_server
from .fork_server import fork_server

RUN = "from contextgraft.cli.main import main; main()"


def start(*words: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", RUN, *map(str, words)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def finish(*words: object) -> tuple[int, str, str]:
    command = [str(command_server("contextgraft").command), *map(str, words)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    return done.returncode, done.stdout, done.stderr


def stop_after(journal: Path, steps: int, sign: int, *words: object) -> int:
    """Send a signal once more steps than before are on record; returns how many were."""
    process = start(*words)
    before = len(list(journal.glob("*.json")))
    while len(list(journal.glob("*.json"))) < before + steps:
        assert process.poll() is None, "it finished before it could be stopped"
        time.sleep(0.002)
    process.send_signal(sign)
    process.communicate(timeout=300)
    assert process.returncode == (-sign if sign == signal.SIGKILL else 130)
    return len(list(journal.glob("*.json")))


@pytest.fixture(scope="module")
def big(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Tens of megabytes: base, donor and target, so that there is a middle to be killed in."""
    root = tmp_path_factory.mktemp("big")
    config = toy.config(hidden_size=512, intermediate_size=1536, num_hidden_layers=8)
    base = toy.weights(config)
    longer = {**config, "rope_theta": 4e4, "max_position_embeddings": 1024}
    toy.write(root / "base", base, config)
    toy.write(root / "donor", toy.moved(base, 1), longer, shards=3)
    toy.write(root / "target", toy.moved(base, 2), config, shards=12)
    return root, config


@pytest.mark.slow
def test_extract_and_merge_survive_a_kill_and_an_interrupt(
    big: tuple[Path, Any], toy: SimpleNamespace
) -> None:
    root, _ = big
    models = ["--base", root / "base", "--donor", root / "donor", "--rank", 4, "--rank", 16]
    code, _, err = finish("extract", *models, "--out", root / "whole")
    assert (code, "weights to factorise" in err) == (0, True), err

    again = ["extract", *models, "--out", root / "killed"]
    journal = root / ".killed.partial" / ".journal"
    total = 8 * 9 + 3  # steps on record, and the head of the journal
    killed = stop_after(journal, 10, signal.SIGKILL, *again)
    assert killed < total
    assert not (root / "killed").exists()
    assert killed < stop_after(journal, 5, signal.SIGINT, *again) < total
    code, out, err = finish(*again, "--json")
    assert code == 0, err
    assert [row["rank"] for row in json.loads(out)] == [4, 16]
    assert toy.contents(root / "killed") == toy.contents(root / "whole")

    parts = ["--adapter", root / "whole" / "r16", "--target", root / "target"]
    assert finish("merge", *parts, "--out", root / "graft")[0] == 0
    again = ["merge", *parts, "--out", root / "graft2"]
    journal = root / ".graft2.partial" / ".journal"
    killed = stop_after(journal, 10, signal.SIGKILL, *again)
    assert killed < total
    assert not (root / "graft2").exists()
    assert killed < stop_after(journal, 5, signal.SIGINT, *again) < total
    code, out, err = finish(*again, "--json")
    assert code == 0, err
    assert json.loads(out)["changed"] == 8 * 9 + 1
    assert toy.contents(root / "graft2") == toy.contents(root / "graft")
    assert sorted(path.name for path in root.iterdir()) == [
        "base", "donor", "graft", "graft2", "killed", "target", "whole",
    ]  # fmt: skip


# Stops itself when it begins to work, so that it holds the lock for as long as the second run takes.
STOPPED = """
import os, signal, sys

def stop(event, arguments):
    if event == "open" and ".journal" in str(arguments[0]) and running:
        running.clear()
        os.kill(os.getpid(), signal.SIGSTOP)

running = [True]
print(os.getpid(), flush=True)
sys.addaudithook(stop)
from contextgraft.cli.main import main
main()
"""


def test_two_runs_at_once(toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config()
    base = toy.weights(config)
    toy.write(tmp_path / "base", base, config)
    toy.write(tmp_path / "donor", toy.moved(base, 1), {**config, "rope_theta": 4e4})
    models = ["--base", tmp_path / "base", "--donor", tmp_path / "donor", "--rank", 4]
    words = ["extract", *models, "--out", tmp_path / "both"]
    command = [str(command_server("contextgraft").python), "-c", STOPPED, *map(str, words)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert first.stdout is not None
    process = int(first.stdout.readline())
    while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert first.poll() is None
        time.sleep(0.01)
    try:
        code, _, err = finish(*words)
    finally:
        os.kill(process, signal.SIGCONT)
    first.communicate()
    assert (code, first.returncode) == (2, 0)
    assert "another run is writing it" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("verb", ["extract", "merge", "verify", "rope"])
def test_bad_words_exit_with_2(verb: str, tmp_path: Path) -> None:
    done = fork_server().run(verb, "--no-such-option", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_a_setting_that_no_adapter_carries_is_a_warning(toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config(rms_norm_eps=1e-6)
    base = toy.weights(config)
    toy.write(tmp_path / "base", base, config)
    longer = {**config, "rope_theta": 4e4, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5}
    toy.write(tmp_path / "donor", toy.moved(base, 1), longer)
    models = ["--base", tmp_path / "base", "--donor", tmp_path / "donor"]
    code, _, err = finish("extract", *models, "--rank", 2, "--out", tmp_path / "adapters")
    assert code == 0
    assert "warning" in err
    assert "rms_norm_eps is 1e-05, the base's 1e-06" in err
    grafted = ["--adapter", tmp_path / "adapters/r2", "--target", tmp_path / "base"]
    code, _, err = finish("merge", *grafted, "--out", tmp_path / "graft")
    assert code == 0
    assert "warning" in err
    assert "rms_norm_eps (1e-06) is not the one" in err


def test_an_exchanged_base_and_donor_are_a_warning(toy: SimpleNamespace, tmp_path: Path) -> None:
    for name, positions in (("long", 512), ("short", 128)):
        config = toy.config(max_position_embeddings=positions)
        toy.write(tmp_path / name, toy.weights(config, seed=positions), config)
    for base, donor, warned in (("long", "short", True), ("short", "long", False)):
        words = [
            "--base",
            tmp_path / base,
            "--donor",
            tmp_path / donor,
            "--rank",
            2,
            "--out",
            tmp_path / f"from {donor}",
        ]
        code, _, err = finish("extract", *words)
        assert (code, "were --base and --donor exchanged?" in err) == (0, warned), err
