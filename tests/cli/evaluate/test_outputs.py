"""What `evaluate --adapter` writes next to its table: only where nothing else is, and only with the table."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from contextgraft.cli.commands import evaluate
from contextgraft.cli.evaluate.outputs import GraftOutputs
from contextgraft.cli.evaluate.records import GraftRecords
from contextgraft.errors import InputError, OutputError, Refused
from contextgraft.formats.samples import SCHEMA
from contextgraft.formats.sidecar import SIDECAR, is_record, sidecar

GRAFT = json.dumps(sidecar("graft", files={}))
REFUSAL = json.dumps(sidecar("refused", verb="merge", reason="does not fit"))
NO_ROWS = SCHEMA.empty_table()


def filled(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("_json", ".json")).write_text(text)
    return folder


def outputs(records: dict[str, Path], **changes: Any) -> GraftOutputs:
    plain: dict[str, Any] = {"alignments": {}, "base": None, "recommendation": None}
    return GraftOutputs(GraftRecords(records), **(plain | changes))


@pytest.mark.parametrize("content", [GRAFT, REFUSAL])
def test_a_record_may_be_replaced(tmp_path: Path, content: str) -> None:
    folder = filled(tmp_path / "r8", contextgraft_json=content)
    (folder / f".{SIDECAR}.partial").write_text("")  # what a killed process leaves
    assert is_record(folder)
    for record in (folder, filled(tmp_path / "empty"), tmp_path / "new/r8"):
        GraftRecords({"r8": record}).check()


@pytest.mark.parametrize(
    "files",
    [
        {"contextgraft_json": GRAFT, "config_json": "{}"},
        {"contextgraft_json": json.dumps(sidecar("adapter"))},
        {"contextgraft_json": json.dumps(sidecar("model"))},
        {"contextgraft_json": "not JSON"},
        {"notes": ""},
    ],
)
def test_a_folder_with_anything_else_is_not(tmp_path: Path, files: dict[str, str]) -> None:
    folder = filled(tmp_path / "r8", **files)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    records = GraftRecords({"r8": folder}, {"r8": {}})
    for act in (records.check, records.remove):
        with pytest.raises(OutputError, match=f"{folder}: holds other files"):
            act()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_the_command_ends_before_it_changes_a_graft(tmp_path: Path) -> None:
    graft = filled(tmp_path / "graft", contextgraft_json=GRAFT, config_json="{}")
    for name in ("target", "r8"):
        (tmp_path / name).mkdir()
    words = [tmp_path / "target", "--adapter", tmp_path / "r8", "--record", f"r8={graft}", "--out",
             tmp_path / "out.parquet", "--suite", "perplexity", "--lengths", 32]  # fmt: skip
    done = CliRunner().invoke(evaluate.command, [str(word) for word in words])
    assert isinstance(done.exception, OutputError)
    assert (graft / SIDECAR).read_text() == GRAFT


def test_outputs_that_cannot_be_written_are_errors_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for changes in (
        {"recommendation": file / "r.json"},
        {"recommendation": tmp_path},
        {"alignments": {"r8": file / "deep/er/a.parquet"}, "base": tmp_path},
    ):
        with pytest.raises(OutputError):
            outputs({}, **changes).check()
    with pytest.raises(OutputError, match="is not a folder"):
        outputs({"r8": file}).check()
    with pytest.raises(InputError, match="no such model folder"):
        outputs({}, alignments={"r8": tmp_path / "a.parquet"}, base=tmp_path / "nowhere").check()
    outputs({"r8": tmp_path / "a/b"}, recommendation=tmp_path / "c/d.json").check()
    assert list(tmp_path.iterdir()) == [file]


def test_files_of_another_kind_and_two_outputs_of_one_name(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    for changes in (
        {"recommendation": weights},
        {"alignments": {"r8": weights}, "base": tmp_path},
        {"recommendation": tmp_path / "same", "alignments": {"r8": tmp_path / "same"}, "base": tmp_path},
        {"recommendation": tmp_path / "x/../out.parquet"},
    ):
        with pytest.raises(OutputError, match=r"would replace it|the same file"):
            outputs({}, **changes).check(tmp_path / "out.parquet")
    assert weights.read_bytes() == b"weights"
    (tmp_path / "r.json").write_text('{"rank": null, "reason": "x"}')
    outputs({}, recommendation=tmp_path / "r.json").check(tmp_path / "out.parquet")


@pytest.mark.parametrize("missing", [None, "record", "recommendation"])
def test_skip_existing_skips_only_if_all_outputs_exist(tmp_path: Path, missing: str | None) -> None:
    for name in ("target", "r8"):
        (tmp_path / name).mkdir()
    files = {
        "out": tmp_path / "out.parquet",
        "record": tmp_path / "rec" / SIDECAR,
        "recommendation": tmp_path / "r.json",
    }
    (tmp_path / "rec").mkdir()
    for name, file in files.items():
        if name != missing:
            file.write_text(REFUSAL)
    words = [tmp_path / "target", "--adapter", tmp_path / "r8", "--record", f"r8={tmp_path}/rec",
             "--skip-existing", "--recommendation", files["recommendation"],
             "--out", files["out"]]  # fmt: skip
    done = CliRunner().invoke(evaluate.command, [str(word) for word in words])
    assert ("skipped" in done.stderr) == (missing is None)
    assert (done.exit_code == 0) == (missing is None)  # the folders are not models


def test_records_of_an_earlier_run_go_when_the_table_comes(tmp_path: Path) -> None:
    folder = filled(tmp_path / "r8", contextgraft_json=GRAFT)
    written = outputs({"r8": folder, "r4": tmp_path / "r4"})
    written.records.contents["r8"] = {"new": True}
    written.records.refuse("r4", "merge", Refused(folder, "fetch", "is not a model"))
    written.records.refuse("other", "merge", InputError("has no record"))
    with written.written_with(NO_ROWS, tmp_path / "out.parquet"):
        assert not (folder / SIDECAR).exists()
    assert json.loads((folder / SIDECAR).read_text()) == {"new": True}
    refusal = json.loads((tmp_path / "r4" / SIDECAR).read_text())
    assert (refusal["kind"], refusal["verb"], refusal["reason"]) == ("refused", "fetch", "is not a model")


def test_no_record_is_written_of_a_table_that_was_not(tmp_path: Path) -> None:
    written = outputs({"r8": tmp_path / "r8"})
    written.records.contents["r8"] = {"new": True}
    with pytest.raises(KeyboardInterrupt), written.written_with(NO_ROWS, tmp_path / "out.parquet"):
        raise KeyboardInterrupt
    assert not (tmp_path / "r8").exists()


def test_a_graft_of_a_refused_target_has_its_reason(tmp_path: Path) -> None:
    row = {"model": "r8", "suite": "refused", "task": "fetch", "reason": "is not a model"}
    records = GraftRecords({"r8": tmp_path / "r8"})
    records.write(pa.Table.from_pylist([row], schema=SCHEMA))
    content = json.loads((tmp_path / "r8" / SIDECAR).read_text())
    assert (content["name"], content["verb"], content["reason"]) == ("r8", "fetch", "is not a model")
