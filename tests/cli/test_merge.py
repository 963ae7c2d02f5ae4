"""`contextgraft merge` and `verify`: results on stdout, plans and warnings on stderr, exit codes."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from contextgraft.cli.commands import extract, inspect, merge, verify
from contextgraft.errors import InputError, MismatchError, OutputError
from contextgraft.formats.sidecar import FORMAT
from contextgraft.sources.known_adapters import known_adapters


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


SMALL = ("config.json", "tokenizer_config.json")


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


def published(folder: Path, root: Path, name: str) -> Path:
    """The adapter without a record, as if it was fetched from the repository of a known one."""
    shutil.copytree(root / "ad" / "r4", folder, ignore=shutil.ignore_patterns("contextgraft.*"))
    source = {"source": f"{known_adapters()[name].source}@main"}
    (folder / "contextgraft.source.json").write_text(json.dumps(source))
    return folder


def test_published_and_recorded_rope_must_agree_in_any_order(root: Path, tmp_path: Path) -> None:
    long = published(tmp_path / "long", root, "llama3-70b-1048k")
    other = published(tmp_path / "other", root, "llama3-70b-524k")
    again = published(tmp_path / "again", root, "llama3-70b-1048k")
    target = ["--target", str(root / "target")]

    def merged(*adapters: Path, out: str) -> Any:
        words = [word for adapter in adapters for word in ("--adapter", str(adapter))]
        return CliRunner().invoke(merge.command, [*words, *target, "--out", str(tmp_path / out)])

    for pair in ((long, root / "ad/r4"), (root / "ad/r4", long), (long, other)):
        error = merged(*pair, out="refused").exception
        assert isinstance(error, MismatchError)
        assert "different RoPE settings" in str(error)
    assert not (tmp_path / "refused").exists()
    for number, adapters in enumerate(((long,), (again, long))):
        assert merged(*adapters, out=f"graft{number}").exit_code == 0
        config = json.loads((tmp_path / f"graft{number}/config.json").read_text())
        assert config["max_position_embeddings"] == 1048576


def test_verify_exits_1_when_it_does_not_verify(root: Path) -> None:
    good = CliRunner().invoke(verify.command, [str(root / "graft"), *words(root), "--json"])
    assert (good.exit_code, json.loads(good.stdout)["holds"]) == (0, True)
    bad = CliRunner().invoke(verify.command, [str(root / "graft"), "--target", str(root / "base")])
    assert bad.exit_code == 1
    assert "DIFFERS  target" in bad.stdout
    assert "does not verify" in bad.stdout


@pytest.mark.parametrize("option", ["--target", "--adapter"])
def test_verify_of_a_path_that_is_no_folder_is_a_wrong_option(root: Path, option: str) -> None:
    """The exit code 1 is for a graft that differs."""
    result = CliRunner().invoke(verify.command, [str(root / "graft"), option, "nowhere"])
    assert isinstance(result.exception, InputError)
    assert "nowhere: no such folder" in str(result.exception)
    assert result.stdout == ""


def test_verify_of_what_is_no_graft_is_one_line(root: Path) -> None:
    fetched = root / "fetched"
    shutil.copytree(root / "target", fetched)
    record = {"format": FORMAT, "kind": "source"}
    (fetched / "contextgraft.json").write_text(json.dumps(record))
    result = CliRunner().invoke(verify.command, [str(fetched)])
    assert "expected graft; received source" in str(result.exception)
    assert result.output == ""


def test_a_donor_that_is_the_base(root: Path, tmp_path: Path) -> None:
    pair = ["--base", str(root / "base"), "--donor", str(root / "base"), "--rank", "4"]
    result = CliRunner().invoke(extract.command, [*pair, "--out", str(tmp_path / "out")])
    assert "is the base itself" in str(result.exception)
    assert result.output == ""


def test_nearly_the_name_of_a_known_adapter(root: Path, tmp_path: Path) -> None:
    target = ["--target", str(root / "target"), "--out", str(tmp_path / "graft")]
    result = CliRunner().invoke(merge.command, ["--adapter", "llama3-70b-1024k", *target])
    assert isinstance(result.exception, InputError)
    assert "did you mean llama3-70b-1048k?" in str(result.exception)


def test_a_folder_of_adapters_names_them(root: Path) -> None:
    for command in (inspect.command, verify.command):
        result = CliRunner().invoke(command, [str(root / "ad")])
        assert "choose one of its folders: r4" in str(result.exception)


def test_many_targets_in_one_command_as_one_by_one(root: Path, toy: SimpleNamespace, tmp_path: Path) -> None:
    names = ["target", "base"]
    targets = [word for name in names for word in ("--target", str(root / name))]
    adapter = ["--adapter", str(root / "ad" / "r4")]
    result = CliRunner().invoke(merge.command, [*adapter, *targets, "--out", str(tmp_path / "all"), "--json"])
    assert result.exit_code == 0, result.output
    assert [row["path"] for row in json.loads(result.stdout)] == [
        str(tmp_path / "all" / name) for name in names
    ]
    again = CliRunner().invoke(merge.command, [*adapter, *targets, "--out", str(tmp_path / "all"), "--json"])
    assert (again.exit_code, json.loads(again.stdout)) == (0, json.loads(result.stdout))
    assert again.stderr.count("exists already") == 2
    other = [*adapter, *targets, "--out", str(tmp_path / "all"), "--scale", "0.5"]
    assert CliRunner().invoke(merge.command, other).exit_code == 2
    for name in names:
        alone = ["--target", str(root / name), "--out", str(tmp_path / name)]
        assert CliRunner().invoke(merge.command, [*adapter, *alone]).exit_code == 0
        assert toy.contents(tmp_path / name) == toy.contents(tmp_path / "all" / name)


def test_a_graft_of_a_target_whose_config_has_changed_since_is_not_taken_for_finished(
    root: Path, tmp_path: Path
) -> None:
    names = ["target", "base"]
    for name in names:
        shutil.copytree(root / name, tmp_path / name)
    targets = [word for name in names for word in ("--target", str(tmp_path / name))]
    words = ["--adapter", str(root / "ad" / "r4"), *targets, "--out", str(tmp_path / "all")]
    assert CliRunner().invoke(merge.command, words).exit_code == 0
    config = tmp_path / "base" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 9.0}))
    again = CliRunner().invoke(merge.command, words)
    assert again.exit_code == 2
    assert again.stderr.count("exists already") == 1
    assert f"{tmp_path / 'all/base'}: already exists" in again.stderr


def test_a_target_that_proves_bad_does_not_keep_the_others(
    root: Path, toy: SimpleNamespace, tmp_path: Path
) -> None:
    weights = toy.weights(toy.config())
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    toy.write(tmp_path / "bad", weights, toy.config())
    targets = ["--target", str(tmp_path / "bad"), "--target", str(root / "target")]
    out = tmp_path / "out"
    result = CliRunner().invoke(merge.command, [*words(root)[:2], *targets, "--out", str(out)])
    assert result.exit_code == 2
    assert "1 of 2 grafts failed" in result.stderr
    assert "not finite" in result.stderr
    assert [path.name for path in out.iterdir()] == ["target"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--scale", "1", "--scale", "2"], "expected one --scale"),
        (["--scale", "nan"], "expected a number; received 'nan'"),
        (["--keep-rope", "--rope-from", "x"], "cannot be combined"),
        (["--target", "elsewhere/target"], "two targets are named 'target'"),
        (["--device", "no-such"], "cannot be used"),
    ],
)
def test_options_that_contradict(root: Path, tmp_path: Path, more: list[str], reason: str) -> None:
    result = CliRunner().invoke(merge.command, [*words(root), *more, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert reason in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_rope_may_be_kept_or_given(root: Path, tmp_path: Path) -> None:
    for name, more, theta in (
        ("kept", ["--keep-rope"], 2e4),
        ("model", ["--rope-from", str(root / "base")], 1e4),
        ("adapter", ["--rope-from", str(root / "ad" / "r4")], 4e4),
    ):
        out = tmp_path / name
        result = CliRunner().invoke(merge.command, [*words(root), *more, "--out", str(out)])
        assert result.exit_code == 0, result.output
        written = json.loads((out / "config.json").read_text())
        assert written.get("rope_parameters", written)["rope_theta"] == theta
        same = [(out / file).read_bytes() == (root / "target" / file).read_bytes() for file in SMALL]
        assert all(same) == (name == "kept")
        again = ["--target", str(root / "target"), "--adapter", str(root / "ad" / "r4")]
        assert CliRunner().invoke(verify.command, [str(out), *again]).exit_code == 0


def test_a_finished_graft_is_said_and_not_made_again(root: Path, tmp_path: Path) -> None:
    words = [
        "--adapter",
        str(root / "ad" / "r4"),
        "--target",
        str(root / "base"),
        "--out",
        str(tmp_path / "g"),
    ]
    first = CliRunner().invoke(merge.command, words)
    again = CliRunner().invoke(merge.command, words)
    assert (first.exit_code, again.exit_code, again.stdout) == (0, 0, first.stdout)
    assert "exists already, with the same adapters and target" in again.stderr
    with pytest.raises(OutputError, match="already exists"):
        CliRunner().invoke(merge.command, [*words, "--scale", "2"], catch_exceptions=False)
    skipped = CliRunner().invoke(merge.command, [*words, "--scale", "2", "--skip-existing"])
    assert (skipped.exit_code, skipped.stdout) == (0, "")
    assert skipped.stderr == f"contextgraft: {tmp_path / 'g'} exists already; skipped\n"
    assert CliRunner().invoke(merge.command, [*words, "--scale", "2", "--force"]).exit_code == 0


def test_finished_adapters_are_said_and_not_made_again(root: Path, tmp_path: Path) -> None:
    pair = ["--base", str(root / "base"), "--donor", str(root / "donor"), "--out", str(tmp_path / "ad")]
    first = CliRunner().invoke(extract.command, [*pair, "--rank", "2", "--rank", "3"])
    assert first.exit_code == 0, first.stderr
    again = CliRunner().invoke(extract.command, [*pair, "--rank", "2", "--rank", "3"])
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert "has these adapters already, of the same models" in again.stderr
    for other in (["--rank", "2", "--include", "mlp"], ["--rank", "2", "--gguf"]):
        with pytest.raises(OutputError, match="already exists"):
            CliRunner().invoke(extract.command, [*pair, *other], catch_exceptions=False)
        assert CliRunner().invoke(extract.command, [*pair, *other, "--skip-existing"]).exit_code == 0


@pytest.mark.parametrize("more", [[], ["--skip-existing"], ["--replace"]])
def test_a_record_without_a_graft_is_replaced(
    root: Path, toy: SimpleNamespace, tmp_path: Path, more: list[str]
) -> None:
    """`evaluate --record` writes the manifest of the graft, byte for byte."""
    (tmp_path / "g").mkdir()
    shutil.copy(root / "graft/contextgraft.json", tmp_path / "g")
    result = CliRunner().invoke(merge.command, [*words(root), "--out", str(tmp_path / "g"), *more])
    assert (result.exit_code, "exists already" in result.stderr) == (0, False)
    assert toy.contents(tmp_path / "g") == toy.contents(root / "graft")


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_graft_that_lost_weights_is_not_taken_for_finished(root: Path, tmp_path: Path, damage: str) -> None:
    graft = shutil.copytree(root / "graft", tmp_path / "g")
    weights = graft / "model.safetensors"
    content = weights.read_bytes()[:-1]
    weights.unlink()
    if damage == "short":
        weights.write_bytes(content)
    result = CliRunner().invoke(merge.command, [*words(root), "--out", str(graft)])
    assert isinstance(result.exception, OutputError)
    assert "already exists" in str(result.exception)


def test_an_existing_graft_is_not_skipped_without_its_verdict(root: Path, tmp_path: Path) -> None:
    verdict = tmp_path / "v/verdict.json"
    command = [*words(root), "--out", str(root / "graft"), "--skip-existing", "--verify", str(verdict)]
    for skipped in (False, True):
        result = CliRunner().invoke(merge.command, command)
        assert (result.exit_code, "; skipped" in result.stderr) == (0, skipped)
        assert json.loads(verdict.read_text())["holds"]
    below = [*command[:-1], str(verdict / "verdict.json")]
    assert isinstance(CliRunner().invoke(merge.command, below).exception, OutputError)
