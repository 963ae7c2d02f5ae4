from pathlib import Path

import pytest

from contextgraft.checkpoint.model_folder import open_model
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
