"""Finished tables of older versions are recognised and get the columns of today; nothing is computed."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contextgraft.checkpoint.digest import json_digest
from contextgraft.evaluation import model_run
from contextgraft.evaluation.backends.registry import BackendConfig
from contextgraft.evaluation.model_run import ModelRun
from contextgraft.evaluation.models import open_eval_model
from contextgraft.evaluation.run import evaluate_models
from contextgraft.evaluation.spec import EvalSpec
from contextgraft.evaluation.suites.skill_file import read_skill_file
from contextgraft.formats.samples import RUN, SCHEMA

GRAFT = {  # the columns as they were called when the run's digest was first computed
    "target_name": "t",
    "target_digest": "t digest",
    "base_digest": "b digest",
    "donor_digest": "d digest",
    "donor_name": "d",
    "adapter_digest": "adapter digest",
    "adapter_rank": 8,
    "adapter_scale": 1.0,
    "control": None,
}


class Kept:
    """A progress reporter that remembers the models that were complete."""

    def __init__(self) -> None:
        self.labels: list[str] = []

    def model(self, label: str, units: Mapping[str, int], known: int) -> None: ...

    def advance(self, count: int) -> None: ...

    def prefilled(self, prompt: int, computed: int) -> None: ...

    def kept(self, label: str) -> None:
        self.labels.append(label)


def as_graft(folder: Path) -> Path:
    """The folder with the record of a graft."""
    identity = {
        name: {"name": name, "digest": f"{name} digest", "source": None, "revision": None} for name in "bdt"
    }
    adapter = {
        "digest": "adapter digest", "rank": 8, "scale": 1, "base": identity["b"], "donor": identity["d"],
    }  # fmt: skip
    record = {"kind": "graft", "format": 2, "contextgraft": "0.1.0"}
    record |= {"adapters": [adapter], "target": identity["t"]}
    (folder / "contextgraft.json").write_text(json.dumps(record))
    return folder


def older_key(folder: Path, spec: EvalSpec) -> str:
    """The digest of a run of one graft, as older versions computed it."""
    model = open_eval_model("graft", folder)
    run = ModelRun(model, spec, BackendConfig(), model)
    content = {"identity": run.identity, "label": "graft", "graft": GRAFT, "exam": spec.questions_digest()}
    return json_digest([[json_digest(content), []]])


def as_older_version(table: pa.Table, key: str) -> pa.Table:
    """The same table with the columns of an older version."""
    names = {"sample_index": "index", "rank": "adapter_rank", "scale": "adapter_scale"}
    table = table.drop_columns(["role", "split", "chat"])
    table = table.rename_columns([names.get(name, name) for name in table.column_names])
    return table.replace_schema_metadata({RUN: key.encode()})


def test_a_finished_table_of_an_older_version_is_kept_and_gets_the_columns_of_today(
    make_model: Callable[..., Path], skill_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = as_graft(make_model("graft"))
    spec = EvalSpec((read_skill_file(skill_file, 5),), seed=7)
    out = tmp_path / "samples.parquet"
    made = evaluate_models([("graft", folder)], spec, BackendConfig(), out, Kept())
    key = older_key(folder, spec)
    pq.write_table(as_older_version(made, key), out)

    def no_model(*_: Any) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(model_run, "make_backend", no_model)
    for _ in range(2):
        progress = Kept()
        kept = evaluate_models([("graft", folder)], spec, BackendConfig(), out, progress)
        assert progress.labels == ["graft"]
        unknown = [None] * made.num_rows  # older versions did not record the template
        expected = made.set_column(SCHEMA.get_field_index("chat"), "chat", pa.array(unknown, pa.int32()))
        assert kept.equals(expected)
        written = pq.read_table(out)
        assert written.schema.metadata[RUN] == key.encode()
        assert written.replace_schema_metadata(None).equals(expected)
