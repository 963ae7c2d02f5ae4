"""The tiny study by `snakemake --profile slurm`: its jobs request from Slurm what their rules say."""

import json
import re
from typing import Any


def planned(said: str) -> dict[str, dict[str, str]]:
    """Resources by rule, as a dry run prints them."""
    blocks = re.split(r"^(?:local)?rule (?=\w+:$)", said, flags=re.MULTILINE)[1:]
    rules = {}
    for block in blocks:
        name = block.split(":", 1)[0]
        listed = re.search(r"^ +resources: (.*)$", block, re.MULTILINE)
        pairs = (word.split("=", 1) for word in listed[1].split(", ")) if listed else ()
        rules[name] = dict(pairs)
    return rules


def test_the_study_runs_through_the_profile_and_asks_for_what_its_rules_say(quick: Any) -> None:
    rules = planned(quick.run("--dry-run"))
    quick.run()
    assert (quick.folder / "results/tiny/report/index.html").is_file()
    assert json.loads((quick.folder / "results/tiny/verified/s1/tune/r4.json").read_text())["holds"]
    for rule in ("train", "extract", "merge", "evaluate", "evaluate_base"):
        jobs = quick.jobs(rule)
        assert jobs, rule
        for job in jobs:
            check(quick.slurm.shown(job), rules[rule])
    assert "gpu" in rules["evaluate"]


def check(job: dict[str, str], expected: dict[str, str]) -> None:
    """One job of Slurm against its rule's resources."""
    given = dict(pair.split("=", 1) for pair in job["TRES"].split(","))
    assert job["JobState"] == "COMPLETED"
    assert (job["Account"], job["Partition"], job["Requeue"]) == ("graft", "gpu", "1")
    assert megabytes(given["mem"]) == int(expected["mem_mb"])
    assert given.get("gres/gpu") == expected.get("gpu")
    assert given["node"] == expected.get("nodes", "1")
    days, _, clock = job["TimeLimit"].rpartition("-")
    hours, minutes, _ = map(int, clock.split(":"))
    assert (int(days or 0) * 24 + hours) * 60 + minutes == int(expected["runtime"])


def megabytes(text: str) -> int:
    """Slurm's memory as whole megabytes."""
    return round(float(text[:-1]) * {"M": 1, "G": 1024, "T": 1024**2}[text[-1]])
