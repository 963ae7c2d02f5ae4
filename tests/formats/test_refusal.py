from pathlib import Path

import pytest
from click.testing import CliRunner

from contextgraft.checkpoint.model_folder import SIDECAR, open_model
from contextgraft.cli.main import cli
from contextgraft.errors import (
    CheckpointError,
    ConfigError,
    ContextgraftError,
    InputError,
    MismatchError,
    OutputBusy,
    OutputError,
    PickleRefused,
    Refused,
    VerificationError,
)
from contextgraft.formats.refusal import is_final, record_refusal
from contextgraft.formats.sidecar import read_sidecar


@pytest.mark.parametrize("kind", [InputError, CheckpointError, PickleRefused, MismatchError])
def test_what_is_wrong_with_a_model_is_final(kind: type[ContextgraftError]) -> None:
    assert is_final(kind("wrong"))


@pytest.mark.parametrize("kind", [OutputError, OutputBusy, ConfigError, VerificationError])
def test_a_disk_a_command_line_and_a_false_graft_are_not(kind: type[ContextgraftError]) -> None:
    assert not is_final(kind("wrong"))


def test_a_refusal_is_passed_on_with_its_first_verb_and_reason(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    record_refusal(first, "fetch", InputError("is gone"))
    with pytest.raises(Refused, match="was refused by fetch: is gone") as refused:
        open_model(first)
    (second / "model.safetensors").parent.mkdir()
    (second / "model.safetensors").touch()
    record_refusal(second, "merge", refused.value, replace=True)
    assert [path.name for path in second.iterdir()] == ["contextgraft.json"]
    record = read_sidecar(second, "refused")
    assert (record["verb"], record["reason"], record["name"]) == ("fetch", "is gone", "second")


@pytest.mark.parametrize("name", ["model.safetensors", "notes.txt", "adapter_config.json"])
def test_a_refusal_replaces_no_manifest_of_what_is_there(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "graft"
    folder.mkdir()
    manifest = '{"kind": "graft", "format": 2}'
    (folder / SIDECAR).write_text(manifest)
    (folder / name).touch()
    with pytest.raises(OutputError, match=r"is gone; this is not recorded: .*graft: holds other files"):
        record_refusal(folder, "merge", InputError("is gone"))
    assert (folder / SIDECAR).read_text() == manifest
    (folder / name).unlink()
    record_refusal(folder, "merge", InputError("is gone"))  # over a record without a graft
    assert read_sidecar(folder)["kind"] == "refused"


def test_a_refusal_removes_only_the_output_of_its_own_command(tmp_path: Path) -> None:
    other = tmp_path / "model"
    other.mkdir()
    (other / "config.json").write_text("{}")
    words = ["--refusal", str(other), "fetch", str(tmp_path / "nowhere"), "--force", "--out"]
    done = CliRunner().invoke(cli, [*words, str(tmp_path / "out")])
    assert isinstance(done.exception, OutputError)
    assert [path.name for path in other.iterdir()] == ["config.json"]
    assert CliRunner().invoke(cli, [*words, f"{tmp_path}/x/../model"]).exit_code == 0
    assert [path.name for path in other.iterdir()] == [SIDECAR]
