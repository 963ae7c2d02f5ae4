"""The command line as a black box: models to run it on, and a server that forks a process for each run."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.robustness.in_process import Outcome, run

RANKS = (2, 4, 8)
SECONDS = 180  # a run that takes longer hangs
MEMORY = 1 << 30  # bytes that a file of a few kilobytes may cost


@dataclass(frozen=True)
class RunResult:
    """How one run ended: `status` is the exit code, or minus the signal, or None if it stopped itself."""

    status: int | None
    late: bool
    pid: int
    seconds: float
    stdout: str
    stderr: str
    steps: list[list[str]]

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.status == -9

    @property
    def written(self) -> set[str]:
        """Files opened for writing or renamed into being."""
        return {path for what, path in self.steps if what in ("open", "os.rename")}

    def error_line(self, status: int = 2) -> str:
        """The only line of the error; anything else fails."""
        assert not self.late, f"hangs: {self.stderr}"
        assert self.status == status, f"exit code {self.status}: {self.stderr}"
        return only_error_line(self.stderr)


def only_error_line(stderr: str) -> str:
    """The only line of an error, next to the plan of a command; anything else fails."""
    plan = ("extract: ", "merge: ", "contextgraft: warning: ")
    lines = [line for line in stderr.splitlines() if not line.startswith(plan)]
    assert len(lines) == 1, stderr
    assert lines[0].startswith("contextgraft: error: ")
    assert len(lines[0]) < 2000, f"{len(lines[0])} characters in a line"
    assert lines[0].isprintable(), repr(lines[0])
    return lines[0]


class ForkServer:
    """Runs of the command line, each in a forked child; fork_server.py documents the requests."""

    def __init__(self) -> None:
        script = str(Path(__file__).with_name("fork_server.py"))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self._line() == "ready\n"

    def run(self, args: list[str], **request: Any) -> RunResult:
        """Run to the end, or to where the request stops or kills it."""
        return self._ask({"args": args, "timeout": SECONDS, **request})

    def resume(self, stopped: RunResult) -> RunResult:
        """Continue a run that stopped itself, to its end."""
        return self._ask({"resume": stopped.pid, "timeout": SECONDS})

    def close(self) -> None:
        """End the server."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(SECONDS)

    def _ask(self, request: dict[str, Any]) -> RunResult:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return RunResult(**json.loads(self._line()))

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@dataclass(frozen=True)
class Job:
    """A command, complete but for its output, and the files that an undisturbed run writes."""

    args: tuple[str, ...]
    parts: tuple[str, ...]  # folders in the output that appear complete; "" is the output itself
    expected: dict[str, bytes]


@dataclass(frozen=True)
class Scenario:
    """Models and an adapter; `jobs` are an extraction and a merge with the files of an undisturbed run."""

    root: Path
    adapters: Path
    jobs: dict[str, Job]
    fork_server: ForkServer
    contents: Callable[[Path], dict[str, bytes]]

    def run(self, job: Job, out: Path, **request: Any) -> RunResult:
        """A run of a job."""
        return self.fork_server.run([*job.args, "--out", str(out), "--threads", "1"], **request)


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """One server for all tests."""
    made = ForkServer()
    yield made
    made.close()


@pytest.fixture(scope="session")
def scenario(
    toy: SimpleNamespace, fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory
) -> Scenario:
    """Sharded models, read only, and the output of undisturbed runs."""
    root = tmp_path_factory.mktemp("robustness")
    config = toy.config()
    base = toy.weights(config)
    longer = {**config, "rope_theta": 4e4, "max_position_embeddings": 1024}
    toy.write(root / "base", base, config, 2)
    toy.write(root / "donor", toy.moved(base, 1), longer, 3)
    toy.write(root / "target", toy.moved(base, 2, 0.005), config, 3)
    made = Scenario(root, root / "adapters", {}, fork_server, toy.contents)
    ranks = [word for rank in RANKS for word in ("--rank", str(rank))]
    extract = ("extract", "--base", str(root / "base"), "--donor", str(root / "donor"), *ranks)
    merge = ("merge", "--adapter", str(root / "adapters" / "r4"), "--target", str(root / "target"))
    parts = tuple(f"r{rank}" for rank in RANKS)
    for job, out in ((Job(extract, parts, {}), made.adapters), (Job(merge, ("",), {}), root / "graft")):
        done = made.run(job, out)
        assert done.status == 0, done.stderr
        made.jobs[job.args[0]] = Job(job.args, job.parts, toy.contents(out))
    return made


@dataclass(frozen=True)
class Sandbox:
    """Copies of the models, which a test may damage."""

    root: Path
    fork_server: ForkServer

    def __getitem__(self, name: str) -> Path:
        """A folder: base, donor, target or adapter."""
        return self.root / name

    def run(self, verb: str, **request: Any) -> RunResult:
        """Extract or merge into `out`, in a forked process."""
        return self.fork_server.run(self.words(verb), **request)

    def run_here(self, verb: str) -> Outcome:
        """The same in this process, which takes a tenth of the time; within bounded time and memory."""
        return run(self.words(verb), SECONDS, MEMORY)

    def words(self, verb: str) -> list[str]:
        """The arguments of a verb."""
        names = {"extract": ("base", "donor"), "merge": ("adapter", "target")}[verb]
        inputs = [word for name in names for word in (f"--{name}", str(self.root / name))]
        rank = ["--rank", "4"] if verb == "extract" else []
        return [verb, *inputs, *rank, "--out", str(self.root / "out"), "--threads", "1"]

    def refuses(self, verb: str, words: str) -> None:
        """The run ends soon in one line with these words, in bounded memory, and leaves nothing behind."""
        before = sorted(self.root.rglob("*"))
        outcome = self.run_here(verb)
        assert outcome.status == 2, outcome.raised or f"exit code {outcome.status}: {outcome.stderr}"
        line = only_error_line(outcome.stderr)
        assert re.search(words, line), line
        assert sorted(self.root.rglob("*")) == before, "something was left behind"


@pytest.fixture
def sandbox(scenario: Scenario, fork_server: ForkServer, tmp_path: Path) -> Sandbox:
    """Copies of the scenario's models, and of its adapter of rank 4."""
    for name in ("base", "donor", "target"):
        shutil.copytree(scenario.root / name, tmp_path / name)
    shutil.copytree(scenario.adapters / "r4", tmp_path / "adapter")
    return Sandbox(tmp_path, fork_server)


class SmallDisk:
    """A file system of its own in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mount("tmpfs", "size=4k")

    def mount(self, *options: str) -> None:
        """Mount, or mount again with other options."""
        words = ["mount", "-t", "tmpfs", "-o", ",".join(options[1:]), options[0], str(self.path)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"needs the right to mount: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk that can be made small, large or read-only."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("needs mount and root")
    (tmp_path / "disk").mkdir()
    made = SmallDisk(tmp_path / "disk")
    yield made
    subprocess.run(["umount", "--lazy", str(made.path)], check=True)


RECIPE = """
name: changed
stages:
  - {length: 64, steps: 4, tokens: 128, theta: 20000}
data:
  - {kind: needle, format: needle_base.yaml, haystack: haystack_train.txt}
optimiser: {learning_rate: 3.0e-4, warmup: 1}
trainable: [linear]
seed: 1
"""
PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demo models, an adapter, a graft, samples and a recipe."""
    root = tmp_path_factory.mktemp("made")
    for name in ("base", "style", "facts"):
        assert run(["fetch", f"demo:{name}", "--out", f"{root}/{name}"]).status == 0
    pair = ["--base", f"{root}/base", "--donor", f"{root}/facts", "--include", r"layers\.0\.self_attn"]
    assert run(["extract", *pair, "--rank", "2", "--out", f"{root}/adapters"]).status == 0
    merge = ["--adapter", f"{root}/adapters/r2", "--target", f"{root}/style", "--out", f"{root}/graft"]
    assert run(["merge", *merge]).status == 0
    for path in (PROJECT / "config" / "demo").iterdir():
        shutil.copy(path, root)
    (root / "recipe.yaml").write_text(RECIPE)
    (root / "k.jsonl").write_text('{"prompt": "the", "answer": "code"}\n')
    (root / "results").mkdir()
    evaluate = ["evaluate", f"{root}/style", "--suite", "skill", "--skill", f"{root}/k.jsonl"]
    assert run([*evaluate, "--out", f"{root}/results/samples.parquet"]).status == 0
    return root


@pytest.fixture(scope="session")
def inputs(made: Path) -> Path:
    """The models of `made`, one of them as pickles, one as GGUF, and one that is refused; a sheet."""
    from tests.robustness.test_fuzz_commands import write_gguf

    shutil.copytree(made / "style", made / "pickles")
    shutil.copytree(made / "style", made / "broken")
    (made / "broken" / "config.json").write_text("{")
    weights = load_file(made / "pickles" / "model.safetensors")
    (made / "pickles" / "model.safetensors").unlink()
    torch.save(weights, made / "pickles" / "pytorch_model.bin")
    write_gguf(made / "m.gguf")
    write_fp8(made / "style", made / "fp8")
    (made / "sheet.tsv").write_text(f"name\tsource\nstyle\t{made}/style\n")
    return made


def write_fp8(model: Path, folder: Path) -> None:
    """The same model with layers in FP8, whose scales are 1."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if "_proj" in name]:
        weights[name] = weights[name].to(torch.float8_e4m3fn)
        blocks = [-(-side // 32) for side in weights[name].shape]
        weights[f"{name}_scale_inv"] = torch.ones(blocks)
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    section = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": section}))
