"""`contextgraft merge` and `verify`: results on stdout, plans and warnings on stderr, exit codes."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from contextgraft.cli import extract, merge, verify
from contextgraft.errors import MismatchError


@pytest.fixture(scope="module")
def root(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, donor, target with another theta, an adapter of rank 4, and a graft."""
    path: Path = tmp_path_factory.mktemp("cli")
    config = toy.config()
    base = toy.weights(config)
    toy.write(path / "base", base, config)
    toy.write(
        path / "donor", toy.moved(base, 1), {**config, "rope_theta": 4e4, "max_position_embeddings": 1024}
    )
    toy.write(path / "target", toy.moved(base, 2), {**config, "rope_theta": 2e4})
    models = ["--base", str(path / "base"), "--donor", str(path / "donor"), "--rank", "4"]
    CliRunner().invoke(extract.command, [*models, "--out", str(path / "ad")], catch_exceptions=False)
    CliRunner().invoke(merge.command, [*words(path), "--out", str(path / "graft")], catch_exceptions=False)
    return path


def words(root: Path) -> list[str]:
    return ["--adapter", str(root / "ad" / "r4"), "--target", str(root / "target")]


def test_merge_says_what_it_did(root: Path) -> None:
    result = CliRunner().invoke(merge.command, [*words(root), "--out", str(root / "second")])
    assert "rope theta   20000 -> 40000" in result.stdout
    assert "tensors      19 of 20 changed" in result.stdout
    assert "19 of 20 tensors change" in result.stderr
    assert "warning" in result.stderr


def test_a_scale_that_is_no_number(root: Path) -> None:
    result = CliRunner().invoke(merge.command, [*words(root), "--out", str(root / "x"), "--scale", "nan"])
    assert (result.exit_code, (root / "x").exists()) == (2, False)


def test_a_target_that_does_not_fit(root: Path, toy: SimpleNamespace) -> None:
    config = toy.config(num_hidden_layers=1)
    toy.write(root / "small", toy.weights(config), config)
    small = ["--adapter", str(root / "ad" / "r4"), "--target", str(root / "small"), "--out", str(root / "x")]
    result = CliRunner().invoke(merge.command, small)
    assert isinstance(result.exception, MismatchError)
    assert not (root / "x").exists()


def test_verify_exits_1_when_it_does_not_verify(root: Path) -> None:
    good = CliRunner().invoke(verify.command, [str(root / "graft"), *words(root), "--json"])
    assert (good.exit_code, json.loads(good.stdout)["holds"]) == (0, True)
    bad = CliRunner().invoke(verify.command, [str(root / "graft"), "--target", str(root / "base")])
    assert bad.exit_code == 1
    assert "DIFFERS  target" in bad.stdout
    assert "does not verify" in bad.stdout
