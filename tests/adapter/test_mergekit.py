"""Extraction by mergekit's command: its arguments, what we make of its output, and how it may fail.

The command here is a stand-in that copies an adapter of ours; tests/parity/test_mergekit_backend.py runs the
real one.
"""

import json
import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.mergekit import COMMAND, arguments, find_command
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec, TensorSelection
from contextgraft.adapter.verify.adapter import verify_adapter
from contextgraft.cli.commands.extract import command
from contextgraft.errors import CheckpointError, ContextgraftError, InputError, MismatchError, OutputError
from contextgraft.formats.tensor_names import TensorRole

STAND_IN = """#!/bin/sh
echo "$@" >> {log}
while [ $# -gt 0 ]; do
  case $1 in --out-path) out=$2;; --max-rank) rank=$2;; esac
  shift
done
if [ -e {root}/broken-$rank ]; then echo "first line" >&2; echo "no memory left" >&2; exit 3; fi
mkdir -p $out && cp {root}/made/r$rank/adapter_* $out/ && echo card > $out/README.md
"""


@pytest.fixture
def root(toy: SimpleNamespace, tmp_path: Path) -> Path:
    """An untied base and donor, our adapters of them for the stand-in to give out, and the stand-in."""
    config = toy.config(tie_word_embeddings=False)
    head = torch.randn(50, 64, generator=torch.Generator().manual_seed(3))
    base = toy.weights(config) | {"lm_head.weight": head.bfloat16()}
    donor = toy.moved(base, 1)
    donor["lm_head.weight"] = (head * 1.1).bfloat16()
    longer = {**config, "rope_theta": 4e4, "max_position_embeddings": 1024}
    for name, weights, settings in (("base", base, config), ("donor", donor, longer)):
        folder = toy.write(tmp_path / name, weights, settings)
        (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    models = open_pair(
        tmp_path / "base", tmp_path / "donor", TensorSelection(embeddings=(TensorRole.OUTPUT,))
    )
    extract(models, [RankSpec(4), RankSpec(8)], tmp_path / "made")
    script = tmp_path / COMMAND
    script.write_text(STAND_IN.format(log=tmp_path / "log", root=tmp_path))
    script.chmod(0o755)
    return tmp_path


def run(root: Path, *words: object, ranks: tuple[int, ...] = (8,)) -> Result:
    models = ["--base", root / "base", "--donor", root / "donor", "--out", root / "out", "--threads", 1]
    rank_options = [word for rank in ranks for word in ("--rank", rank)]
    line = [*models, *rank_options, "--backend", "mergekit", "--mergekit", root / COMMAND, *words]
    return CliRunner().invoke(command, [str(word) for word in line], catch_exceptions=False)


def test_its_output_becomes_an_adapter_that_verifies(root: Path) -> None:
    done = run(root, "--embeddings", "output", "--json", ranks=(8, 4))
    rows = {row["rank"]: row for row in json.loads(done.stdout)}
    assert sorted(rows) == [4, 8]
    assert rows[8]["excess"] is None
    assert sorted(path.name for path in (root / "out").iterdir()) == ["r4", "r8"]
    for rank in (4, 8):
        folder, made = root / "out" / f"r{rank}", root / "made" / f"r{rank}"
        sidecar, ours = (json.loads((each / "contextgraft.json").read_text()) for each in (folder, made))
        assert all(check.holds for check in verify_adapter(folder, root / "base", root / "donor"))
        assert (folder / "adapter_model.safetensors").read_bytes() == (
            made / "adapter_model.safetensors"
        ).read_bytes()
        assert sidecar["backend"] == {"name": "mergekit", "version": None}
        assert sidecar["dense"] == {}
        assert set(ours["dense"]) <= set(sidecar["ignored"])
        for key in ("base", "donor", "architecture", "selection", "rope", "max_length", "rank"):
            assert sidecar[key] == ours[key], key
        assert sidecar["energy"] == pytest.approx(ours["energy"], abs=1e-4)
        for module, facts in ours["modules"].items():
            assert sidecar["modules"][module]["delta_norm"] == pytest.approx(facts["delta_norm"], rel=1e-6)
            assert sidecar["modules"][module]["rank"] == facts["rank"]
        assert "Card by contextgraft" in (folder / "README.md").read_text()  # not mergekit's
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "base"


@pytest.mark.parametrize(
    ("selection", "taken", "left"),
    [
        (TensorSelection(), "model.layers.1.mlp.up_proj", ("lm_head", "model.embed_tokens")),
        (TensorSelection(embeddings=(TensorRole.OUTPUT,)), "lm_head", ("model.embed_tokens",)),
        (TensorSelection(embeddings=(TensorRole.INPUT,), exclude="mlp"), "model.embed_tokens", ("lm_head",)),
    ],
)
def test_what_it_is_told(root: Path, selection: TensorSelection, taken: str, left: tuple[str, ...]) -> None:
    models = open_pair(root / "base", root / "donor", selection)
    words = arguments(models, 8, root / "out", 2, "cuda")
    given = dict(pairwise(words))
    assert (given["--max-rank"], given["--num-threads"], given["--device"]) == ("8", "2", "cuda")
    assert Path(given["--model"]).is_absolute()
    assert ("--embed-lora" in words) == bool(selection.embeddings)
    patterns = {
        option: [value for name, value in pairwise(words) if name == option]
        for option in ("--include-regex", "--exclude-regex")
    }

    def chosen(name: str) -> bool:
        found = {option: any(re.search(each, name) for each in known) for option, known in patterns.items()}
        return found["--include-regex"] and not found["--exclude-regex"]

    assert chosen(taken)
    assert not any(chosen(name) for name in left)
    assert all(any(re.search(each, name) for each in patterns["--exclude-regex"]) for name in left)
    modules = {name.removesuffix(".weight") for name in models.base.tensors}
    assert {name for name in modules if chosen(name)} == {
        name.removesuffix(".weight") for name in models.factorised
    }


def test_a_rerun_goes_on_with_the_rank_that_failed(root: Path) -> None:
    (root / "broken-8").touch()
    with pytest.raises(InputError, match=r"failed at rank 8 with exit code 3; received no memory left"):
        run(root, "--embeddings", "output", ranks=(4, 8))
    assert not (root / "out").exists()
    (root / "broken-8").unlink()
    assert run(root, "--embeddings", "output", ranks=(4, 8)).exit_code == 0
    ranks = re.findall(r"--max-rank (\d+)", (root / "log").read_text())
    assert ranks == ["4", "8", "8"]
    with pytest.raises(OutputError, match="already exists"):
        run(root, "--embeddings", "output", ranks=(4, 8))


def test_more_than_was_asked_for_is_refused(root: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has tensors that were not selected.*lm_head"):
        run(root)
    assert not (root / "out").exists()


def refusal(root: Path, *words: object) -> ContextgraftError:
    with pytest.raises(ContextgraftError) as caught:
        run(root, *words)
    return caught.value


def test_models_that_it_does_not_suit(root: Path, toy: SimpleNamespace) -> None:
    settings = json.loads((root / "donor/config.json").read_text())
    (root / "donor/tokenizer.json").write_text('{"model": {"vocab": {"b": 0}}}')
    assert "by row, not by token" in str(refusal(root, "--embeddings", "output"))
    biased: dict[str, Any] = toy.weights(settings)
    biased["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(64)
    for name, shift in (("base", 0.0), ("donor", 0.5)):
        toy.write(root / name, {key: tensor + shift for key, tensor in biased.items()}, settings)
    assert "has biases" in str(refusal(root))


def test_a_command_that_is_not_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"mergekit-extract-lora was not found.*pip install mergekit==0\.1\.5"
    ):
        find_command(root / "nothing")
    monkeypatch.setenv("PATH", str(root))
    monkeypatch.setattr("sys.executable", str(root / "python"))
    assert find_command(None) == root / COMMAND
    (root / COMMAND).unlink()
    with pytest.raises(InputError, match="was not found"):
        find_command(None)


@pytest.mark.parametrize("words", [["--energy", "0.5"], ["--serve-ranks"], ["--gguf"]])
def test_what_only_our_own_backend_does(root: Path, words: list[str]) -> None:
    done = run(root, *words)
    assert done.exit_code == 2
    assert "--backend mergekit cannot be combined" in done.output


def test_the_donor_that_is_expected(root: Path) -> None:
    words = ("--embeddings", "output", "--expect-theta", "4e4", "--expect-positions")
    with pytest.raises(MismatchError, match=r"another maximum position.*expected 2048; received 1024"):
        run(root, *words, 2048)
    with pytest.raises(MismatchError, match=r"another RoPE theta.*expected 50000; received 40000"):
        run(root, "--expect-theta", "5e4")
    assert not (root / "log").exists()
    assert run(root, *words, 1024).exit_code == 0
