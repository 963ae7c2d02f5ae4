"""The tiny study versioned for real: run, commit, push, clone elsewhere, pull, sync, change."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

WHOLE = {
    "fetch": 2,
    "train": 1,
    "extract": 1,
    "merge": 3,
    "evaluate_base": 1,
    "evaluate": 1,
    "report": 1,
}


def without(*rules: str) -> dict[str, int]:
    """The whole study's jobs but those of some rules."""
    return {rule: count for rule, count in WHOLE.items() if rule not in rules}


CHANGES = {
    "the donor's seed": ("config/config.yaml", "ranks:\n", "donor_seeds: [2]\nranks:\n", without("fetch")),
    "the seed of the questions": (
        "config/config.yaml",
        "seed: 7",
        "seed: 8",
        {"evaluate_base": 1, "evaluate": 1, "report": 1},
    ),
    "a line more in the sheet": (
        "config/fine_tunes.tsv",
        "tune\tmodels/tune\t\tconfig/tiny/skill.jsonl\n",
        "tune\tmodels/tune\t\tconfig/tiny/skill.jsonl\nother\tmodels/other\t\t\n",
        without("train", "extract", "evaluate_base") | {"fetch": 1},
    ),
    "the version of the package": (
        "workflow/rules/common.smk",
        "VERSION = __version__",
        'VERSION = "another"',
        WHOLE,
    ),
    "the code of a rule": (
        "workflow/rules/merge.smk",
        '"contextgraft --refusal',
        '"time contextgraft --refusal',
        {"merge": 3},
    ),
}


def intact(cache: Path) -> bool:
    """Whether every object of a cache has the content that its name says."""
    objects = [path for path in cache.rglob("*") if path.is_file()]
    assert objects
    return all(
        hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        == path.parent.name + path.name.removesuffix(".dir")
        for path in objects
    )


def test_a_clone_elsewhere_has_nothing_to_do(clone: Any) -> None:
    assert "Nothing to be done" in clone.snakemake("--dry-run")
    assert "up to date" in clone.run("dvc", "status")
    made = [path for path in (clone.folder / "data").rglob("*") if not path.is_dir()]
    assert made
    assert all(path.is_symlink() for path in made)  # a link, no second copy


def test_a_change_in_a_clone_reruns_exactly_what_depends_on_it(clone: Any) -> None:
    for file, old, new, plan in CHANGES.values():
        path = clone.folder / file
        text, times = path.read_text(), path.stat()
        clone.edit(file, old, new)
        assert clone.planned() == plan, file
        path.write_text(text)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    clone.edit(file, old, new)
    clone.run("git", "checkout", "--quiet", file)
    clone.run("scripts/sync.sh")
    assert "Nothing to be done" in clone.snakemake("--dry-run")


def test_sync_touches_nothing_where_something_differs(clone: Any) -> None:
    sample = clone.folder / "results/tiny/samples/tune.parquet"
    before = sample.lstat().st_mtime_ns
    clone.edit("config/tiny/needle.yaml", "name: tiny", "name: other")
    said = clone.refused("scripts/sync.sh")
    assert "sync: expected the files that dvc.lock names" in said
    assert "config" in said
    assert sample.lstat().st_mtime_ns == before


def test_sync_says_what_a_revision_lacks(clone: Any) -> None:
    clone.run("rm", "-r", ".snakemake")
    assert "expected .snakemake/metadata" in clone.refused("scripts/sync.sh")
    clone.run("rm", "dvc.lock")
    assert "expected dvc.lock" in clone.refused("scripts/sync.sh")


@pytest.mark.slow
def test_two_versions_can_be_compared_and_taken_out_again(clone: Any) -> None:
    clone.edit("config/config.yaml", "samples: 1", "samples: 3")
    clone.snakemake()
    assert intact(clone.folder / ".dvc/cache/files")  # the new results replaced links, and wrote through none
    clone.version("More samples")

    changed = json.loads(clone.run("dvc", "metrics", "diff", "HEAD~1", "--json"))
    report = changed["results/tiny/report/summary.json"]
    assert report["fine_tunes.tune.rows.alone.needle_longest.n"] == {"old": 1, "new": 3, "diff": 2}
    changed = json.loads(clone.run("dvc", "params", "diff", "HEAD~1", "--json"))
    assert changed["config/config.yaml"] == {"evaluation.needle.samples": {"old": 1, "new": 3, "diff": 2}}
    check_plots(clone)

    clone.run("git", "checkout", "--quiet", "HEAD~1")
    clone.run("dvc", "checkout")
    clone.run("scripts/sync.sh")
    assert "Nothing to be done" in clone.snakemake("--dry-run")


def check_plots(clone: Any) -> None:
    """Each chart that was measured has a panel of our own template for both versions."""
    clone.run("dvc", "plots", "diff", "HEAD~1", "HEAD", "--out", "plots")
    assert (clone.folder / "plots/index.html").is_file()
    said = clone.run("dvc", "plots", "diff", "HEAD~1", "HEAD", "--json")
    found = json.JSONDecoder().raw_decode(said[said.index("{") :])[0]
    charts = {name.split("/")[-1]: charts[0] for name, charts in found["data"].items() if charts}
    assert set(charts) == {"rank.csv", "heatmap.csv"}  # perplexity was not evaluated
    for chart in charts.values():
        assert chart["revisions"] == ["HEAD~1", "HEAD"]
        assert chart["content"]["facet"]["field"] == "panel"
        assert {row["n"] for row in chart["content"]["data"]["values"]} == {"1", "3"}


@pytest.mark.slow
def test_dvc_may_run_the_stages_itself(clone: Any) -> None:
    clone.run("dvc", "config", "--local", "core.autostage", "false")
    clone.edit("config/config.yaml", "samples: 1", "samples: 2")
    said = clone.home.run("env", "SNAKEMAKE_PROFILE=local", "dvc", "repro", cwd=clone.folder)
    assert said.returncode == 0, said.stdout[-6000:]
    assert clone.summary()["fine_tunes"]["tune"]["rows"]["alone"]["needle_longest"]["n"] == 2
    clone.run("scripts/version.sh")
    assert "Nothing to be done" in clone.snakemake("--dry-run")


@pytest.mark.slow
def test_hardlinks_are_what_snakemake_takes_for_protected(clone: Any) -> None:
    clone.run("dvc", "config", "--local", "cache.type", "hardlink")
    clone.run("dvc", "checkout", "--relink")
    clone.run("scripts/sync.sh")
    assert "Nothing to be done" in clone.snakemake("--dry-run")
    clone.edit("config/config.yaml", "samples: 1", "samples: 3")
    done = clone.home.run("snakemake", "--dry-run", cwd=clone.folder)
    assert done.returncode != 0
    assert "Write-protected output files" in done.stdout
