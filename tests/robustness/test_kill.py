"""Killed anywhere: no half result is ever taken for a whole one, and the same command ends in the same bytes.

Moments are steps (every change of the disk is one, so the narrow places around publishing are all hit) and
times. The seed is fixed; `slow` takes every step there is.
"""

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

JOBS = ("extract", "merge")
TAIL = 30  # last steps before the end, every third of them killed at: journal, publishing, tidying
SPREAD = 5  # steps drawn from the rest
AGAIN = 6


@dataclass(frozen=True)
class Traces:
    """What a killed run left: records of finished tensors, whether all is public; its effort until then."""

    records: set[str]
    complete: bool
    effort: int


def look(scenario: Any, run: Any, job: Any, out: Path) -> Traces:
    """What is there, and fail if anything half is where a whole thing is to be."""
    assert all(path == out or path.name.startswith(".") for path in out.parent.iterdir())
    found = scenario.contents(out) if out.exists() else {}
    for part in job.parts:
        here = of_part(found, part)
        assert here in ({}, of_part(job.expected, part)), f"half of {part or out.name} is public"
    journal = (path for path in out.parent.rglob(".journal/*.json") if path.name[0] != ".")
    records = {str(path) for path in journal if path.name != "job.json"}
    return Traces(records, found == job.expected, effort(run))


def of_part(contents: dict[str, bytes], part: str) -> dict[str, bytes]:
    return {name: data for name, data in contents.items() if name.startswith(part)}


def effort(run: Any) -> int:
    """Tensors worked on: blocks that merge writes, files of factors that extract brings to its journal."""
    factors = [path for what, path in run.steps if what == "os.rename" and path.endswith(".safetensors")]
    blocks = [what for what, _ in run.steps if what == "pwrite"]
    return len(blocks) + sum(Path(path).parent.name == ".journal" for path in factors)


def finish(scenario: Any, job: Any, out: Path, scene: Traces, whole: int) -> None:
    """The same command again: the same bytes, nothing next to them, at most one tensor worked on twice."""
    again = scenario.run(job, out)
    if again.status != 0:
        assert scene.complete, again.stderr
        assert "already exists" in again.error_line()
    assert scenario.contents(out) == job.expected
    assert list(out.parent.iterdir()) == [out], "something is left next to the output"
    assert not again.written & scene.records, "a finished tensor was taken again"
    twice = scene.effort + effort(again) - whole
    assert twice <= 1, f"{twice} tensors of {whole} were worked on again"


def kill(scenario: Any, job: Any, place: Path, whole: int, **request: Any) -> bool:
    """Kill one run and finish it; whether it was still alive then."""
    place.mkdir()
    run = scenario.run(job, place / "out", **request)
    try:
        finish(scenario, job, place / "out", look(scenario, run, job, place / "out"), whole)
    except AssertionError as error:
        raise AssertionError(f"killed at {request}: {error}") from error
    return bool(run.killed)


def undisturbed(scenario: Any, job: Any, place: Path) -> Any:
    """A run from beginning to end."""
    (place / "undisturbed").mkdir()
    run = scenario.run(job, place / "undisturbed" / "out")
    assert run.status == 0, run.stderr
    assert effort(run) >= 14, "the work on tensors is not seen any more"
    return run


@pytest.mark.parametrize("name", JOBS)
def test_killed_at_a_step(scenario: Any, tmp_path: Path, name: str) -> None:
    job = scenario.jobs[name]
    run = undisturbed(scenario, job, tmp_path)
    last = len(run.steps)
    early = random.Random(name).sample(range(1, last - TAIL), SPREAD)
    for at in (*early, *range(last - TAIL, last, 3)):
        assert kill(scenario, job, tmp_path / str(at), effort(run), at=at)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", JOBS)
def test_killed_at_every_step(scenario: Any, tmp_path: Path, name: str) -> None:
    job = scenario.jobs[name]
    run = undisturbed(scenario, job, tmp_path)
    for at in range(1, len(run.steps)):
        assert kill(scenario, job, tmp_path / str(at), effort(run), at=at)


@pytest.mark.parametrize("times", [3, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", JOBS)
def test_killed_at_any_time(scenario: Any, tmp_path: Path, name: str, times: int) -> None:
    job, draw = scenario.jobs[name], random.Random(name)
    run = undisturbed(scenario, job, tmp_path)
    kills = 0
    for number in range(4 * times):
        after = draw.uniform(0, run.seconds)
        kills += kill(scenario, job, tmp_path / str(number), effort(run), after=after)
        if kills == times:
            return
    pytest.fail(f"{kills} of {4 * times} runs were alive when their time came")


@pytest.mark.parametrize("name", JOBS)
def test_killed_again_and_again(scenario: Any, tmp_path: Path, name: str) -> None:
    """Runs of a few steps each add up: what is done stays done."""
    job, out = scenario.jobs[name], tmp_path / "place" / "out"
    whole = undisturbed(scenario, job, tmp_path)
    out.parent.mkdir()
    done, efforts = [0], 0
    for _ in range(AGAIN):
        run = scenario.run(job, out, at=len(whole.steps) // 6)
        assert run.killed
        scene = look(scenario, run, job, out)
        assert len(scene.records) >= done[-1]
        done.append(len(scene.records))
        efforts += scene.effort
    assert done[-1] > 2 * done[1], f"no progress: {done}"
    each_kill_costs_one = Traces(scene.records, scene.complete, efforts - AGAIN)
    finish(scenario, job, out, each_kill_costs_one, effort(whole))


@pytest.mark.parametrize("distance", [12, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("when", ["half way", "built"])
def test_another_job_in_between(scenario: Any, tmp_path: Path, when: str, distance: int) -> None:
    """Killed, then another job killed while it clears the place, then the first again."""
    job = scenario.jobs["extract"]
    other = replace(job, args=(*job.args, "--rank", "3"))
    steps = undisturbed(scenario, job, tmp_path).steps
    built = max(at for at, (_, path) in enumerate(steps, start=1) if Path(path).parent.name == ".journal")
    until = len(steps) // 2 if when == "half way" else built + 1
    for at in range(2, 30, distance):
        out = tmp_path / str(at) / "out"
        assert scenario.run(job, out, at=until).killed
        assert scenario.run(other, out, at=at).killed
        done = scenario.run(job, out)
        assert done.status == 0, f"cleared until step {at}: {done.stderr}"
        assert scenario.contents(out) == job.expected
        assert list(out.parent.iterdir()) == [out]
