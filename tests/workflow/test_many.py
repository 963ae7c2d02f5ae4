"""Many fine-tunes: bad ones stop no other and are reported; only grafts that are kept are written."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

REFUSED = 2  # of the models below


def misshapen(folder: Path) -> None:
    """A fine-tune one of whose matrices has lost half of its rows."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = torch.zeros(tensors[name].shape[0] // 2, tensors[name].shape[1], dtype=torch.bfloat16)
    save_file(tensors, file, metadata={"format": "pt"})


def sibling(tune: Path, number: int) -> None:
    """A second fine-tune: one weight differs, so that the report does not take it for the same."""
    folder = tune.with_name(f"tune{number}")
    shutil.copytree(tune, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"][0, 0] = number / 64
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def study(place: Any, good: int) -> None:
    """So many fine-tunes, one that is misshapen, one that is not there; nothing is trained."""
    models = place.folder / "models"
    misshapen(models / "other")
    for number in range(good):
        sibling(models / "tune", number)
    lines = [f"tune{number}\tmodels/tune{number}\t\tconfig/tiny/skill.jsonl" for number in range(good)]
    place.sheet(*lines, "bad\tmodels/other\t\tconfig/tiny/skill.jsonl", "gone\tmodels/nowhere")
    place.config(donor={"source": "models/long"}, ranks=[2])


def check(place: Any, good: int) -> None:
    """What the study must leave behind."""
    results, data = place.folder / "results/tiny", place.folder / "data/tiny"
    summary = json.loads((results / "report/summary.json").read_text())
    assert set(summary["fine_tunes"]) == {f"tune{index}" for index in range(good)}
    assert summary["refused"]["gone"]["verb"] == "fetch"
    assert "no such file" in summary["refused"]["gone"]["reason"]
    assert summary["refused"]["bad-s1-r2"]["verb"] == "merge"
    assert "expected shape [16, 16]; received shape [8, 16]" in summary["refused"]["bad-s1-r2"]["reason"]
    page = (results / "report/index.html").read_text()
    assert "refused by merge: data/tiny/models/bad: does not fit the adapter" in page
    assert len(list(data.glob("grafts/s1/*/r2/model.safetensors"))) == good
    assert (data / "adapters/s1/r2/adapter_model.safetensors").is_file()
    assert len(list(results.glob("grafts/s1/*/r2/contextgraft.json"))) == good + REFUSED
    assert json.loads((results / "verified/s1/tune0/r2.json").read_text())["holds"]
    assert json.loads((results / "verified/s1/gone/r2.json").read_text())["holds"] is None


def run(place: Any) -> None:
    done = place.snakemake()
    assert done.returncode == 0, done.stdout[-6000:]


def test_bad_fine_tunes_stop_no_other(fresh: Any) -> None:
    study(fresh, good=1)
    run(fresh)
    check(fresh, good=1)
    assert "Nothing to be done" in fresh.snakemake().stdout


def test_only_grafts_that_are_kept_are_written(fresh: Any) -> None:
    study(fresh, good=1)
    for keep, merged in {"all": 2 * 3, "recommended": 3, "none": 0}.items():
        fresh.config(donor={"source": "models/long"}, ranks=[2], keep_grafts=keep)
        assert fresh.planned().get("merge", 0) == merged


@pytest.mark.slow
def test_twenty_fine_tunes_two_of_them_bad(fresh: Any) -> None:
    study(fresh, good=18)
    run(fresh)
    check(fresh, good=18)


@pytest.mark.parametrize(
    ("count", "ranks"),
    [
        (60, [2]),
        pytest.param(500, [2], marks=pytest.mark.slow),
        pytest.param(500, [1, 2, 3, 4], marks=pytest.mark.slow),
    ],
)
def test_a_study_of_many_is_planned_in_one_go(fresh: Any, count: int, ranks: list[int]) -> None:
    fresh.sheet(*(f"tune{index}\tmodels/tune" for index in range(count)))
    fresh.config(ranks=ranks, keep_grafts="recommended")
    plan = fresh.planned("--quiet", "host", "reason")
    assert (plan["fetch"], plan["evaluate"], plan["merge"]) == (count + 1, count, count)
