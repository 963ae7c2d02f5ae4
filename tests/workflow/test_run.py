import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

Copy = Callable[[Any], Any]


def test_dry_run_plans_every_step_and_control_row(fresh: Any) -> None:
    assert fresh.planned() == {
        "fetch": 2,
        "train": 1,
        "extract": 1,
        "evaluate_base": 1,
        "evaluate": 1,
        "merge": 3,
        "report": 1,
    }


def test_run_ends_in_the_page_with_every_control_row(finished: Any) -> None:
    results = finished.folder / "results" / "tiny"
    page = (results / "report" / "index.html").read_text()
    assert "Tiny &#39;n&#39; random." in page
    labels = set(pq.read_table(results / "samples" / "tune.parquet")["model"].to_pylist())
    assert labels == {"tune", "tune-s1-r1", "tune-s1-r4", "tune-s1-theta-only"}
    assert set(pq.read_table(results / "samples" / "base.parquet")["model"].to_pylist()) == {
        "base",
        "donor-s1",
    }
    for kind in ("r1", "r4", "theta-only"):
        assert json.loads((results / f"verified/s1/tune/{kind}.json").read_text())["holds"]
        written = finished.folder / f"data/tiny/grafts/s1/tune/{kind}/contextgraft.json"
        assert (results / f"grafts/s1/tune/{kind}/contextgraft.json").read_bytes() == written.read_bytes()
    assert json.loads((results / "recommended/tune.json").read_text())["rank"] is None
    aligned = pq.read_table(results / "alignment/s1/tune.parquet")
    assert set(aligned["donor_name"].to_pylist()) == {"tiny-donor"}  # as the adapter records it
    assert "model.layers.0.mlp.down_proj.weight" in aligned["tensor"].to_pylist()


def test_every_job_leaves_its_log_and_its_times(finished: Any) -> None:
    results = finished.folder / "results" / "tiny"
    logs = {path.relative_to(results / "logs").with_suffix("") for path in (results / "logs").rglob("*.log")}
    times = {
        path.relative_to(results / "benchmarks").with_suffix("")
        for path in (results / "benchmarks").rglob("*.tsv")
    }
    assert logs == times
    assert len(logs) == 10


def test_second_run_has_nothing_to_do(finished: Any) -> None:
    assert "Nothing to be done" in finished.snakemake().stdout


def test_a_new_line_in_the_sheet_is_the_only_new_work(finished: Any, copy_of: Copy) -> None:
    place = copy_of(finished)
    place.sheet(
        "tune\tmodels/tune\t\tconfig/tiny/skill.jsonl",
        "other\ttrain:config/tiny/tune.yaml\t\tconfig/tiny/skill.jsonl",
    )
    plan = {"train": 1, "merge": 3, "evaluate": 1, "report": 1}
    assert place.planned() == plan
    done = place.snakemake()
    assert done.returncode == 0, done.stdout[-6000:]
    page = (place.folder / "results/tiny/report/index.html").read_text()
    assert "other" in page


@pytest.mark.slow
def test_a_fetched_donor_takes_one_line_of_the_configuration(fresh: Any) -> None:
    fresh.config(donor={"source": "models/long"})
    assert fresh.planned("adapters") == {"adapters": 1, "fetch": 2, "extract": 1}
    done = fresh.snakemake("adapters")
    assert done.returncode == 0, done.stdout[-6000:]
    sidecar = json.loads((fresh.folder / "data/tiny/adapters/s1/r4/contextgraft.json").read_text())
    assert (sidecar["donor"]["source"], sidecar["rank"]) == ("models/long", 4)


CHANGES = {
    "a training recipe": ("config/tiny/donor.yaml", "rate: 0.01", "rate: 0.02", "train", "fetch"),
    "a text that a format names": ("config/tiny/haystack.txt", "a b c", "a c b", "evaluate", "fetch"),
    "a rank": ("config/config.yaml", "- 4", "- 2", "extract", "train"),
    "a source": ("config/fine_tunes.tsv", "models/tune", "models/other", "fetch", "extract"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_reruns_what_depends_on_it_and_nothing_else(
    finished: Any, copy_of: Copy, change: str
) -> None:
    file, old, new, rule, left_alone = CHANGES[change]
    place = copy_of(finished)
    path: Path = place.folder / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    plan = place.planned()
    assert rule in plan
    assert left_alone not in plan


def test_an_adapter_that_is_gone_is_missed_though_the_page_is_there(finished: Any, copy_of: Copy) -> None:
    place = copy_of(finished)
    (place.folder / "data/tiny/adapters/s1/r4/contextgraft.json").unlink()
    assert "extract" in place.planned()


def test_a_rerun_of_a_step_replaces_what_it_made(finished: Any, copy_of: Copy) -> None:
    place = copy_of(finished)
    left = (
        place.folder / "data/tiny/adapters/s1/r2/contextgraft.json"
    )  # of a rank that is no longer requested
    left.parent.mkdir()
    left.write_text("{}")
    done = place.snakemake("--forcerun", "extract", "--until", "extract")
    assert done.returncode == 0, done.stdout[-6000:]
    assert not left.exists()
