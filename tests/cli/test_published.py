"""The recipes of the published adapters: valid, planned to the byte, and said to the workflow."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from contextgraft.cli.commands.plan import command
from contextgraft.planning.slurm import study_requests
from contextgraft.planning.study import read_study, study_shape
from contextgraft.workflow import StudyWorkflow

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "config/studies").glob("llama3-*.yaml"))
DONORS = {"llama3-70b-1048k": 3580165449, "llama3-70b-524k": 1062356830, "llama3-8b-1048k": 3580165449}
SMALLER = 176_242_688  # of 8B: 7 matrices a layer and lm_head at rank 32


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def facts(path: Path) -> dict[str, Any]:
    done = CliRunner().invoke(command, ["study", str(path), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_three_studies_are_shipped() -> None:
    assert [path.stem for path in STUDIES] == list(DONORS)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_has_the_published_settings(path: Path) -> None:
    study = read_study(path)
    settings, cluster = study.settings, study.settings.cluster
    length = 2**20 if "1048k" in path.stem else 2**19
    assert settings.study == path.stem
    assert 32 in settings.ranks
    assert (settings.donor.theta, settings.donor.max_positions) == (DONORS[path.stem], length)
    assert max(settings.evaluation.needle.lengths) == length
    assert settings.evaluation.needle.distractors >= len(settings.evaluation.needle.depths) - 1
    requests = study_requests(study, study_shape(study))
    assert requests.rules["evaluate"].gpus <= cluster.gpus_per_node
    assert StudyWorkflow(study).extract_arguments()[len(settings.ranks) :] == [
        "--embeddings=output", f"--expect-theta={DONORS[path.stem]}", f"--expect-positions={length}"
    ]  # fmt: skip


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_published_adapter_to_the_byte(path: Path) -> None:
    found = facts(path)
    assert found["adapters"]["32"] == (837_107_712 if "70b" in path.stem else SMALLER)
    assert found["too_long"] == []
    text = CliRunner().invoke(command, ["study", str(path)], catch_exceptions=False).stdout
    assert f"r32: {found['adapters']['32']:,} bytes of tensors, and" in text
    assert f"theta {DONORS[path.stem]}, " in text


def test_mergekit_costs_a_decomposition_a_rank(tmp_path: Path) -> None:
    recipe = yaml.safe_load(STUDIES[1].read_text())
    path = tmp_path / "theirs.yaml"
    path.write_text(yaml.safe_dump(recipe | {"extraction": {"embeddings": "output", "backend": "mergekit"}}))
    ours, theirs = facts(STUDIES[1]), facts(path)
    steps = [{step["name"]: step for step in found["steps"]}["extract"] for found in (ours, theirs)]
    assert theirs["adapters"] == ours["adapters"]
    assert theirs["adapter_dense_bytes"] == 0
    assert steps[1]["seconds"] > 5 * steps[0]["seconds"]
    assert steps[1]["request"]["minutes"] > 3 * steps[1]["seconds"] / 60
    assert steps[1]["request"]["mem_mb"] > steps[0]["request"]["mem_mb"]
    words = StudyWorkflow(read_study(path)).extract_arguments()
    assert "--backend=mergekit" in words
