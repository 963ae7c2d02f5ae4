import json
import re
import shlex
import subprocess
from typing import Any

from ..command_server import command_server
from .conftest import STUDY


def only_line(done: Any) -> str:
    """The one line a mistake gives."""
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    assert 'File "' not in done.stdout  # lines of our own rules
    lines: list[str] = [line for line in done.stdout.splitlines() if "contextgraft: error" in line]
    assert len(lines) == 1, done.stdout
    return lines[0]


def test_an_unknown_key(fresh: Any) -> None:
    fresh.config(rnaks=[1])
    line = only_line(fresh.snakemake())
    assert "config/config.yaml" in line
    assert "unknown key 'rnaks'" in line


def test_a_key_twice(fresh: Any) -> None:
    path = fresh.folder / "config/config.yaml"
    path.write_text(path.read_text() + "\nranks: [2]\n")
    line = only_line(fresh.snakemake())
    assert "config/config.yaml: not valid YAML; received the key 'ranks' twice" in line


def test_no_key_of_the_default_configuration_slips_in(fresh: Any) -> None:
    fresh.config("study.yaml")
    (fresh.folder / "config/config.yaml").write_text("rnaks: [1]")
    assert fresh.snakemake("--dry-run", configfile="study.yaml").returncode == 0


def test_a_bad_line_of_the_sheet(fresh: Any) -> None:
    fresh.sheet("tune\tmodels/tune", "other")
    assert "config/fine_tunes.tsv:3: source: Field required" in only_line(fresh.snakemake())


def test_a_base_that_is_not_there_is_reported_before_the_first_job(fresh: Any) -> None:
    fresh.config(base="models/nowhere")
    done = fresh.snakemake("--show-failed-logs", "--retries", "0", "data/tiny/models/base/contextgraft.json")
    assert done.returncode != 0
    assert "base: models/nowhere: no such file or folder" in only_line(done)
    assert not (fresh.folder / "data/tiny/models/base/config.json").exists()


def test_mistakes_of_every_file_are_reported_before_the_first_job(fresh: Any) -> None:
    fresh.config(donor={"source": "models/long", "theta": 5})
    (fresh.folder / "config/tiny/skill.jsonl").write_text("")
    done = fresh.snakemake()
    assert only_line(done).endswith("contextgraft: error: 2 mistakes")
    assert "  config/tiny/skill.jsonl: the skill file is empty" in done.stdout
    assert "donor.theta: the donor's config has another value; expected 5; received 10000" in done.stdout
    assert not (fresh.folder / "data").exists()


def test_a_disk_that_is_too_small_stops_the_study_before_its_first_job(fresh: Any) -> None:
    big = {
        "model_type": "llama",
        "num_hidden_layers": 200,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_attention_heads": 64,
        "vocab_size": 128256,
    }
    (fresh.folder / "big.json").write_text(json.dumps(big))
    cluster = {"node_memory": 1e9, "longest": 10**9}
    fresh.config(shape="big.json", cluster=cluster, donor={"source": "models/long"})
    done = fresh.snakemake()
    assert "the disk is too small" in only_line(done)
    assert done.returncode == 2
    assert not (fresh.folder / "data").exists()
    assert fresh.snakemake("--dry-run").returncode == 0


def test_a_dry_run_names_the_command_that_makes_the_checks_of_a_run(fresh: Any) -> None:
    needle = {**STUDY["evaluation"]["needle"], "lengths": [8]}
    fresh.config("my study.yaml", evaluation={"needle": needle})
    dry = fresh.snakemake("--dry-run", configfile="my study.yaml")
    assert dry.returncode == 0
    last = dry.stdout.splitlines()[-1]
    assert "not checked in a dry run: models, skills and lengths of prompts" in last
    command = shlex.split(re.findall("`(.*?)`", last)[0])
    checked = subprocess.run(
        [command_server("contextgraft").command, *command[1:]],
        cwd=fresh.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 2
    reason = checked.stderr.splitlines()[-1]
    assert "the prompt does not fit the length" in reason
    assert reason in fresh.snakemake(configfile="my study.yaml").stdout
    assert not (fresh.folder / "data").exists()


def test_a_dry_run_without_jobs_names_no_command(finished: Any) -> None:
    assert "Nothing to be done" in (done := finished.snakemake("--dry-run").stdout)
    assert "contextgraft:" not in done
