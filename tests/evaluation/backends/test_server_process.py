"""A server that is started for each model: its command, its start, its failures; nothing of it is left.

`stand_in_server.py` is no model. A real server: tests/consumers/test_served_model.py.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contextgraft.config.base import validate
from contextgraft.config.evaluation import EvaluationConfig
from contextgraft.config.server.backend import ServerBackend
from contextgraft.errors import ConfigError, InputError, ProcessEnded
from contextgraft.evaluation.backends import openai, server_process
from contextgraft.evaluation.backends.registry import BackendConfig, backend_key
from contextgraft.evaluation.backends.server_process import free_port, running_server
from contextgraft.evaluation.run import evaluate_models
from contextgraft.evaluation.spec import EvalSpec, build_spec
from contextgraft.formats.refusal import is_final

MakeModel = Callable[..., Path]
STAND_IN = Path(__file__).with_name("stand_in_server.py")
PACKAGE = Path(server_process.__file__).parents[3]


class Quiet:
    """A progress reporter that counts models, new responses, and models that were complete."""

    def __init__(self) -> None:
        self.models, self.count, self.complete = 0, 0, 0

    def model(self, *_: object) -> None:
        self.models += 1

    def advance(self, count: int) -> None:
        self.count += count

    def prefilled(self, *_: object) -> None:
        raise AssertionError("a server does not say what it computed")

    def kept(self, _: str) -> None:
        self.complete += 1


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of PATH in which `vllm` is the stand-in."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "vllm").write_text(f'#!/bin/sh\nexec {sys.executable} -S {STAND_IN} "$@"\n')
    (folder / "vllm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(openai, "ATTEMPTS", 1)
    return folder


@pytest.fixture
def config(format_file: Path) -> EvaluationConfig:
    needle = {"format": str(format_file), "lengths": [64, 200], "samples": 1, "depths": [0, 100]}
    return EvaluationConfig.model_validate({"needle": needle, "seed": 3})


@pytest.fixture
def spec(config: EvaluationConfig) -> EvalSpec:
    return build_spec(config)


def backend(note: Path, *args: str, **settings: Any) -> BackendConfig:
    words = ["--note", str(note), *args]
    return BackendConfig(
        backend="serve", server=ServerBackend(serve="vllm", args=words, **settings), batch_size=2
    )


def started(note: Path) -> tuple[list[int], list[str]]:
    """Process ids and words of a server that was started."""
    pid, worker, words = json.loads(note.read_text())
    return [pid, worker], words


def alive(pids: list[int]) -> list[int]:
    """Those that still run; a process that ended but is not reaped (in a container without init) does not."""
    left = []
    for pid in pids:
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                left.append(pid)
    return left


def gone(note: Path) -> bool:
    """Whether the server and its worker end, at once but for the system."""
    pids, _ = started(note)
    deadline = time.monotonic() + 120
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pids)


def test_a_server_is_started_for_each_model_and_stopped(
    make_model: MakeModel, spec: EvalSpec, tmp_path: Path
) -> None:
    folder, note, out = make_model("served", seed=1), tmp_path / "note", tmp_path / "s.parquet"
    table = evaluate_models([("m", folder)], spec, backend(note), out, Quiet()).to_pylist()
    assert {row["status"] for row in table} == {"ok"}
    assert {row["output"] for row in table} == {"13 thank you"}
    assert gone(note)
    _, words = started(note)
    port, name = (words[words.index(option) + 1] for option in ("--port", "--served-model-name"))
    override = json.dumps({"max_position_embeddings": 200})  # the model's own 128 are fewer
    assert words == [
        *("serve", str(folder), "--max-model-len", "200", "--dtype", "float32"),
        *("--tensor-parallel-size", "1"),
        *("--hf-overrides", override, "--generation-config", "vllm", "--enable-prefix-caching"),
        *("--served-model-name", name, "--host", "127.0.0.1", "--port", port),
        *("--note", str(note)),
    ]  # fmt: skip


def test_without_missing_responses_no_server_is_started(
    make_model: MakeModel, spec: EvalSpec, tmp_path: Path
) -> None:
    folder, note, out = make_model("served", seed=1), tmp_path / "note", tmp_path / "s.parquet"
    evaluate_models([("m", folder)], spec, backend(note), out, Quiet())
    note.unlink()
    again = Quiet()
    evaluate_models([("m", folder)], spec, backend(note), out, again)
    assert (again.complete, again.count, note.exists()) == (1, 0, False)


def has_content(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (
            "fails",
            r"the server ended before it was ready; .*exit status 3; .*lines: loading \| CUDA error: out of",
        ),
        (
            "never ready",
            r"the server did not become ready; .*within 0.005 minutes .*last lines: still loading",
        ),
        ("dies", r"the server failed; expected an answer to each prompt; .*its last lines: worker died"),
    ],
)
def test_a_server_that_fails_is_one_line_and_no_refusal_of_the_model(
    make_model: MakeModel, spec: EvalSpec, monkeypatch: pytest.MonkeyPatch, *, behaviour: str, words: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(ServerBackend, "start_seconds", 0.3 if behaviour == "never ready" else 120)
    note, out = tmp_path / "note", tmp_path / "s.parquet"
    if behaviour == "never ready":  # no time passes before the stand-in has said something
        clock = SimpleNamespace(monotonic=lambda: float(has_content(note)), sleep=time.sleep)
        monkeypatch.setattr(server_process, "time", clock)
    served = backend(note, "--behaviour", behaviour)
    with pytest.raises(ProcessEnded, match=words) as caught:
        evaluate_models([("m", make_model())], spec, served, out, Quiet(), allow_refused=True)
    assert not is_final(caught.value)
    assert not out.exists()
    assert not note.exists() or gone(note)


def test_a_program_that_is_not_installed_is_one_line(
    make_model: MakeModel, spec: EvalSpec, programs: Path, tmp_path: Path
) -> None:
    shutil.rmtree(programs)
    with pytest.raises(
        InputError, match=r"serve is vllm, and a program of it is not installed; expected vllm"
    ):
        evaluate_models([("m", make_model())], spec, backend(tmp_path / "n"), tmp_path / "s", Quiet())


def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "PATIENCE", 0.2)
    note, port = tmp_path / "note", free_port()
    words = [
        *("vllm", "serve", "m", "--served-model-name", "m", "--port", str(port)),
        *("--note", str(note), "--behaviour", "ignores SIGTERM"),
    ]
    with running_server(words, port, "m", seconds=120, folder=tmp_path):
        assert len(alive(started(note)[0])) == 2
    assert gone(note)


ENDINGS: list[Any] = [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 128 + signal.SIGTERM)]
ENDINGS += [pytest.param(signal.SIGHUP, 128 + signal.SIGHUP, marks=pytest.mark.slow)]
ENDINGS += [(signal.SIGKILL, -signal.SIGKILL)] if shutil.which("setpriv") else []


@pytest.mark.parametrize(("number", "code"), ENDINGS)
@pytest.mark.parametrize("moment", ["ready", "never ready"])
def test_no_process_is_left_after_a_signal(number: int, code: int, moment: str, tmp_path: Path) -> None:
    """Ctrl-C, SIGTERM, and a kill, of which this program learns nothing: only the server itself ends then."""
    note, port = tmp_path / "note", free_port()
    words = [
        "vllm",
        "--served-model-name",
        "m",
        "--port",
        str(port),
        "--note",
        str(note),
        "--behaviour",
        moment,
    ]
    program = (
        "import time; from pathlib import Path;"
        "from contextgraft.evaluation.backends.server_process import running_server\n"
        f"with running_server({words!r}, {port}, 'm', seconds=600, folder=Path({str(tmp_path)!r})):\n"
        "    print('ready', flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    if moment == "ready":
        assert process.stdout.readline() == b"ready\n"
    while not note.exists() or not note.read_text():
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=120) == code
    process.stdout.close()
    if number == signal.SIGKILL:
        (server, worker), _ = started(note)
        deadline = time.monotonic() + 120
        while alive([server]) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(worker, signal.SIGKILL)  # a real server ends its workers
    assert gone(note)


def test_the_server_is_in_the_key_and_not_in_the_prompts(config: EvaluationConfig) -> None:
    one, two = (ServerBackend(serve="vllm", tensor_parallel=count) for count in (1, 2))
    asked = config.model_copy(update={"backend": two})
    assert build_spec(asked).questions_digest() == build_spec(config).questions_digest()
    assert asked.selected_suites == config.selected_suites
    keys = [backend_key(BackendConfig(backend="serve", server=server)) for server in (one, two)]
    assert keys[0] != keys[1]
    assert keys[0] == backend_key(
        BackendConfig(backend="serve", server=one.model_copy(update={"start_minutes": 5}))
    )
    assert EvaluationConfig.model_validate_json(asked.model_dump_json()) == asked


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({}, "give exactly one of serve"),
        ({"serve": "vllm", "url": "http://x"}, "give exactly one of serve"),
        ({"serve": "transformers"}, "vllm' or 'llama-server"),
        ({"serve": "vllm", "model": "x"}, "model: not a key of serve"),
        ({"url": "http://x", "tensor_parallel": 2}, "tensor_parallel: not a key of url"),
        ({"serve": "llama-server"}, "converter is needed by llama-server"),
        ({"serve": "vllm", "converter": ["x"]}, "converter is needed by llama-server"),
        ({"serve": "llama-server", "converter": ["x"], "tensor_parallel": 2}, "an option of vllm"),
        ({"serve": "vllm", "args": ["--port=1"]}, "args cannot have --port=1"),
        ({"serve": "vllm", "args": ["--trust-remote-code"]}, "args cannot have --trust-remote-code"),
    ],
)
def test_sections_that_cannot_be(section: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        validate(EvaluationConfig, {"backend": section}, "file.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_server_while_prompts_are_on_their_way(
    make_model: MakeModel, config: EvaluationConfig, number: int, code: int, tmp_path: Path
) -> None:
    """`evaluate --config` as a whole; what it wrote for the server is removed, too."""
    (tmp_path / "temporary").mkdir()
    note = tmp_path / "note"
    server = ServerBackend(
        serve="vllm",
        args=["--note", str(note), "--behaviour", "hangs"],
        temporary=str(tmp_path / "temporary"),
    )
    (tmp_path / "c.yaml").write_text(config.model_copy(update={"backend": server}).to_yaml())
    words = [sys.executable, "-m", "contextgraft.cli", "evaluate", str(make_model())]
    words += ["--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "s.parquet")]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    while not note.with_suffix(".asked").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=120) == code
    assert gone(note)
    assert not list((tmp_path / "temporary").iterdir())
