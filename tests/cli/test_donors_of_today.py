"""The studies of donors that people use now: valid, and planned offline from the shipped configs."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from contextgraft.cli.commands import inspect_sheet
from contextgraft.cli.commands.plan import command
from contextgraft.planning.study import read_study

ROOT = Path(__file__).parents[2]
ULTRALONG, PROLONG = "Llama-3.1-Nemotron-8B-UltraLong-{}-Instruct", "Llama-3-8B-ProLong-512k-{}"
LLAMA_8B = 176_242_688  # bytes of 7 matrices a layer and lm_head at rank 32
# study: donor, theta and positions that it must have where they are known, bytes at rank 32
STUDIES: dict[str, tuple[str, float | None, int | None, int | None]] = {
    "ultralong-8b-1m": (f"nvidia/{ULTRALONG.format('1M')}", None, None, LLAMA_8B),
    "ultralong-8b-2m": (f"nvidia/{ULTRALONG.format('2M')}", None, None, LLAMA_8B),
    "ultralong-8b-4m": (f"nvidia/{ULTRALONG.format('4M')}", None, None, LLAMA_8B),
    "prolong-8b-512k-base": (f"princeton-nlp/{PROLONG.format('Base')}", 1.28e8, 524288, LLAMA_8B),
    "prolong-8b-512k-instruct": (f"princeton-nlp/{PROLONG.format('Instruct')}", 1.28e8, 524288, LLAMA_8B),
    "qwen2.5-7b-1m": ("Qwen/Qwen2.5-7B-Instruct-1M", 1e7, 1010000, None),
    "qwen2.5-14b-1m": ("Qwen/Qwen2.5-14B-Instruct-1M", 1e7, None, None),
}
PARAMETERS = {
    "qwen2.5-7b-1m": 7_615_616_512,
    "qwen2.5-14b-1m": 14_770_033_664,
}  # of the model cards: 7.61B, 14.7B


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_planned_offline(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = ROOT / f"config/studies/{name}.yaml"
    donor, theta, positions, size = STUDIES[name]
    settings = read_study(path).settings
    assert (settings.study, settings.donor.source) == (name, f"hf:{donor}")
    assert (settings.donor.theta, settings.donor.max_positions) == (theta, positions)
    done = CliRunner().invoke(command, ["study", str(path), "--json"], catch_exceptions=False)
    facts = json.loads(done.stdout)
    assert facts["too_long"] == []
    assert size is None or facts["adapters"]["32"] == size
    assert facts["model"]["parameters"] == PARAMETERS.get(name, 8_030_261_248)


@pytest.mark.parametrize("name", STUDIES)
def test_a_sheet_is_compared_offline_with_the_shipped_config(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with the base's config fits; one with another width differs."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    base = read_study(ROOT / f"config/studies/{name}.yaml").settings.shape
    config = json.loads(Path(str(base)).read_text())
    lines = ["name\tsource"]
    for target, width in (("tune", config["intermediate_size"]), ("wide", 2 * config["intermediate_size"])):
        (tmp_path / target).mkdir()
        (tmp_path / target / "config.json").write_text(json.dumps({**config, "intermediate_size": width}))
        lines.append(f"{target}\t{tmp_path / target}")
    (tmp_path / "sheet.tsv").write_text("\n".join(lines) + "\n")
    words = [str(tmp_path / "sheet.tsv"), "--base", str(base), "--json"]
    done = CliRunner().invoke(inspect_sheet.command, words, catch_exceptions=False)
    verdicts = {row["name"]: row["verdict"] for row in json.loads(done.stdout)["targets"]}
    assert verdicts == {"tune": "fits", "wide": "differs"}
