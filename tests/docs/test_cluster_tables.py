"""docs/cluster.md: the requests of single jobs are those that `plan study` computes."""

import re
from typing import Any

import pytest

from .plans import study_plan
from .tables import page, table

ROWS = table(page("cluster"), "job", "8B, 1048k", "70B, 524k")
NAMES = ("llama3-8b-1048k", "llama3-70b-524k")


def request(step: dict[str, Any], longest: int) -> str:
    """GPUs, memory and time of one job, as the page writes them."""
    asked = step["request"]
    memory = f"{asked['mem_mb'] / 1000:.0f} GB"
    if not asked["gpus"]:
        return f"{memory}, {asked['minutes']} min"
    limit = ": the limit" if asked["minutes"] == longest else ""
    return f"{asked['gpus']} GPUs, {memory}, {asked['minutes'] / 60:.0f} h{limit}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_of_the_requests(row: list[str]) -> None:
    job, *shown = row
    (name,) = re.findall(r"`(\w+)`", job)
    plans = [study_plan(each) for each in NAMES]
    assert shown == [request(known["steps"][name], known["cluster"]["longest"]) for known in plans]


def test_only_the_report_has_no_row() -> None:
    named = {name for job, *_ in ROWS for name in re.findall(r"`(\w+)`", job)}
    assert {name for each in NAMES for name in study_plan(each)["steps"]} - named == {"report"}


def test_the_study_with_a_server_has_all_gpus_at_work() -> None:
    shown = page("cluster").replace("\n", " ")
    for name, text in (
        ("served-70b-1048k", "is {hours} hours on {gpus} GPUs, {busy} busy"),
        ("llama3-70b-1048k", "in the {hours} hours on {gpus}, one busy"),
    ):
        step = study_plan(name)["steps"]["evaluate"]
        hours, gpus = f"{step['seconds'] / 3600:.1f}", step["request"]["gpus"]
        assert text.format(hours=hours, gpus=gpus, busy=step["busy"]) in shown
