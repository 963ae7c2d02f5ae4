"""`evaluate TARGET --adapter ...`: rows of grafts in memory are those of the folders that `merge` writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result
from tests.evaluation.moved_model import moved

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.checkpoint.atomic import work_directory
from contextgraft.cli.commands import evaluate
from contextgraft.cli.evaluate.grafts import graft_variants
from contextgraft.cli.evaluate.records import GraftRecords
from contextgraft.errors import (
    ContextgraftError,
    InputChanged,
    InputError,
    MismatchError,
    OutputBusy,
    OutputError,
)
from contextgraft.evaluation.backends import loading, registry
from contextgraft.evaluation.backends import transformers as token_lm_module
from contextgraft.evaluation.models import open_eval_model, open_variants
from contextgraft.formats.refusal import record_refusal

Rows = list[dict[str, Any]]
SUITES = ("--suite", "needle", "--lengths", "40", "--samples", "1", "--suite", "perplexity",
          "--perplexity-lengths", "64", "--documents", "1", "--suite", "divergence",
          "--divergence-prompts", "2", "--divergence-length", "32")  # fmt: skip


@pytest.fixture
def root(make_model: Callable[..., Path], format_file: Path, tmp_path: Path) -> Path:
    """A target, and the adapters r2 and r4 of a donor with a longer context."""
    base = make_model("base")
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 4e5}}
    donor = moved(base, tmp_path / "donor", 1, max_position_embeddings=512, **rope)
    moved(base, tmp_path / "target", 2)
    extract(open_pair(base, donor), [RankSpec(2), RankSpec(4)], tmp_path / "adapters")
    return tmp_path


def run(root: Path, *words: object, out: str = "out.parquet") -> Result:
    command = [str(root / "target"), *words, *SUITES, "--format", root / "code.yaml", "--out", root / out]
    return CliRunner().invoke(evaluate.command, [str(word) for word in command])


def adapters(root: Path, *names: str) -> list[object]:
    return [word for name in names for word in ("--adapter", root / "adapters" / name)]


def rows(path: Path) -> Rows:
    table: Rows = pq.read_table(path).to_pylist()
    return table


def written(root: Path, rank: str, scale: float, name: str) -> Path:
    plan = plan_merge([ScaledAdapter(open_adapter(root / "adapters" / rank), scale)], root / "target")
    merge(plan, root / name)
    return root / name


def test_rows_are_those_of_the_written_grafts(root: Path) -> None:
    words = [*adapters(root, "r4"), "--scale", 1, "--scale", 0.5, "--control", "theta_only"]
    done = run(root, *words)
    assert done.exit_code == 0, done.output
    grafts = {
        "r4": written(root, "r4", 1, "c"),
        "r4@0.5": written(root, "r4", 0.5, "d"),
        "theta_only": written(root, "r4", 0, "t"),
    }
    again = run(root, *(f"{label}={folder}" for label, folder in grafts.items()), out="written.parquet")
    assert again.exit_code == 0, again.output
    ours = rows(root / "out.parquet")
    assert {row["model"]: row["control"] for row in ours if row["control"]} == {"theta_only": "theta_only"}
    assert [{**row, "control": None} for row in ours] == rows(root / "written.parquet")
    assert list(dict.fromkeys(row["model"] for row in ours)) == ["target", *grafts]
    assert len({row["model_digest"] for row in ours}) == 4
    assert {row["scale"] for row in ours if row["model"] == "theta_only"} == {0.0}
    assert {row["status"] for row in ours} == {"ok"}
    assert done.stdout == again.stdout
    resumed = run(root, *words)
    assert resumed.stderr.count("complete already") == 4
    assert not list(Path(root).glob(".*partial"))


def test_a_written_graft_continues_the_run_of_one_in_memory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Response caches are those of the weights: a run may change from one to the other."""
    loads: list[Path] = []

    def stop(model: Any, path: Path) -> Any:
        if len(loads) == 2:
            raise KeyboardInterrupt
        loads.append(path)
        return model

    with monkeypatch.context() as patch:
        patch.setattr(loading, "try_model", stop)
        assert run(root, *adapters(root, "r2", "r4")).exit_code == 1
    graft = written(root, "r2", 1, "a")
    done = run(root, f"r2={graft}")
    assert done.stderr.count("complete already") == 2


def test_an_adapter_that_does_not_fit_is_one_row(root: Path, make_model: Callable[..., Path]) -> None:
    small = make_model("small", hidden_size=8)
    extract(open_pair(small, moved(small, root / "wide", 3)), [RankSpec(2)], root / "other")
    words = [*adapters(root, "r2"), "--adapter", f"small={root}/other/r2"]
    done = run(root, *words)
    assert (done.exit_code, done.stderr.count("error: ")) == (2, 1)
    assert "1 of 2 grafts were refused" in done.stderr
    with pytest.raises(MismatchError) as caught:
        plan_merge([ScaledAdapter(open_adapter(root / "other/r2"))], root / "target")
    table = rows(root / "out.parquet")
    assert {row["model"]: (row["task"], row["reason"]) for row in table if row["suite"] == "refused"} == {
        "small": ("merge", str(caught.value))
    }
    assert {row["model"] for row in table} == {"target", "r2", "small"}
    assert run(root, *words, "--allow-refused").exit_code == 0
    assert rows(root / "out.parquet") == table


def test_a_target_that_was_refused_refuses_its_grafts(root: Path) -> None:
    for path in (root / "target").iterdir():
        path.unlink()
    record_refusal(root / "target", "fetch", InputError("is not a model"))
    done = run(root, *adapters(root, "r2"), "--allow-refused")
    assert done.exit_code == 0
    assert [(row["model"], row["task"], row["reason"]) for row in rows(root / "out.parquet")] == [
        ("target", "fetch", "is not a model"),
        ("r2", "fetch", "is not a model"),
    ]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--scale", "1"], "--adapter"),
        (["--adapter", "adapters/r2", "--control", "nothing"], "theta_only"),
        (["--adapter", "nowhere"], "no such adapter folder"),
        (["--adapter", "=adapters/r2"], "label is empty"),
        (["--adapter", "adapters/r2", "--scale", "nan"], "nan"),
        (["--adapter", "adapters/r2", "--adapter", "adapters/r2"], "labelled 'r2'"),
        (["--adapter", "adapters/r2", "--backend", "openai", "--url", "x"], "in memory"),
    ],
)
def test_options_that_cannot_be_used(
    root: Path, words: list[str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    done = run(root, *words)
    text = str(done.exception) if isinstance(done.exception, ContextgraftError) else done.stderr
    assert done.exit_code != 0
    assert reason in text
    assert not (root / "out.parquet").exists()


def test_a_dry_run_lists_the_grafts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BACKENDS, "hf", None)
    done = run(root, *adapters(root, "r2"), "--control", "theta_only", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    plans = json.loads(done.stdout)
    assert list(dict.fromkeys(plan["model"] for plan in plans)) == ["target", "r2", "theta_only"]
    assert not (root / "out.parquet").exists()


def test_outputs_that_cannot_be_written_cost_no_evaluation(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alignment is written before the evaluation; the responses stay until the recommendation is, too."""
    (root / "rank.json").mkdir()
    outputs = ["--base", root / "base", "--alignment", f"r2={root}/aligned/r2.parquet",
               "--record", f"r2={root}/records/r2", "--recommendation", root / "rank.json"]  # fmt: skip
    words = [*adapters(root, "r2"), *outputs]
    for unusable in ("rank.json", "aligned"):
        early = run(root, *words)
        assert isinstance(early.exception, OutputError)
        assert unusable in str(early.exception)
        assert "1/2" not in early.stderr
        if unusable == "rank.json":
            (root / "rank.json").rmdir()
            (root / "aligned").write_text("")
    (root / "aligned").unlink()

    def full(*_: object) -> None:
        raise OutputError("cannot be written", path=root / "rank.json")

    for function, placed in (
        ("report.recommendation.recommend", False), ("cli.evaluate.outputs.write_json", True)
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(f"contextgraft.{function}", full)
            failed = run(root, *words)
        assert isinstance(failed.exception, OutputError)
        assert "rank.json" in str(failed.exception)
        assert (root / "out.parquet").exists() == placed
        for file in (
            root / "aligned/r2.parquet",
            root / "records/r2/contextgraft.json",
            root / "out.parquet",
        ):
            file.unlink(missing_ok=True)  # as Snakemake does with the outputs of a failed job
    done = run(root, *words)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("complete already") == 2
    assert json.loads((root / "rank.json").read_text())["rank"] is None
    assert {row["adapter_rank"] for row in rows(root / "aligned/r2.parquet")} == {2}
    assert (root / "records/r2/contextgraft.json").exists()
    assert not list(root.glob(".*partial"))


def test_a_target_that_changes_during_the_run_ends_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Path] = []

    def change(model: Any, path: Path) -> Any:
        loaded.append(path)
        if len(loaded) == 2:
            (root / "target/generation_config.json").write_text("{}")
        return model

    monkeypatch.setattr(loading, "try_model", change)
    done = run(root, *adapters(root, "r2", "r4"))
    assert isinstance(done.exception, InputChanged)
    assert not (root / "out.parquet").exists()


def test_labels_of_adapters_scales_and_controls(root: Path) -> None:
    named: list[tuple[str | None, Path]] = [(None, root / "adapters/r2"), ("four", root / "adapters/r4")]
    made = graft_variants(named, (1.0, 0.5), ("theta_only",), root / "x", 1)
    assert [item.label for item in made] == ["r2", "r2@0.5", "four", "four@0.5", "theta_only"]
    other = moved(root / "base", root / "other", 5, max_position_embeddings=512)
    extract(open_pair(root / "base", other), [RankSpec(2)], root / "more")
    named.append(("other", root / "more/r2"))
    made = graft_variants(named, (1.0,), ("theta_only",), root / "x", 1)
    assert [item.label for item in made] == [
        "r2", "four", "theta_only r2", "other", "theta_only other"
    ]  # fmt: skip


def test_failed_prompts_leave_no_recommendation_and_are_repeated(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = root / "recommended.json"
    file.write_text('{"rank": 2, "reason": null}')

    def no_memory(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("tried to allocate 3 GiB")

    words = [*adapters(root, "r2"), "--recommendation", file]
    with monkeypatch.context() as patch:
        patch.setattr(token_lm_module, "prefill", no_memory)
        failed = run(root, *words)
    assert failed.exit_code == 1
    assert f"error: {file}: not written, because " in failed.stderr
    assert (failed.stderr.count("error: "), file.exists()) == (1, False)
    done = run(root, *words)
    assert done.exit_code == 0, done.output
    content, row = json.loads(file.read_text()), rows(root / "out.parquet")[-1]
    assert (content["target"], content["adapters"]) == (row["target_digest"], {"2": [row["adapter_digest"]]})
    assert content["adapters"] == {"2": [open_adapter(root / "adapters/r2").digest]}
    manifest = json.loads((written(root, "r2", 1, "graft") / "contextgraft.json").read_text())
    assert content["target"] == manifest["target"]["digest"]


def test_records_are_those_of_merge_and_come_with_the_table(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = root / "records/r4/contextgraft.json"
    words = [*adapters(root, "r4"), "--record", f"r4={record.parent}"]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loading, "try_model", stop)
        assert run(root, *words).exit_code == 1
    assert not record.exists()
    assert run(root, *words).exit_code == 0
    content = record.read_bytes()
    assert content == (written(root, "r4", 1.0, "c") / record.name).read_bytes()
    with work_directory(root / "out.parquet"):  # another run
        other = [*adapters(root, "r4"), "--scale", "0.5", "--record", f"r4@0.5={record.parent}"]
        for command in (words, other):
            assert isinstance(run(root, *command).exception, OutputBusy)
            assert record.read_bytes() == content
    record.unlink()
    again = run(root, *words)
    assert (again.exit_code, again.stderr.count("complete already")) == (0, 2)
    assert record.read_bytes() == content


def test_the_refused_target_of_an_interrupted_run_has_a_table(root: Path) -> None:
    with work_directory(root / "out.parquet") as work:
        (work / "response").write_text("")
    (root / "target/config.json").unlink()
    record = root / "record/contextgraft.json"
    words = [*adapters(root, "r2"), "--record", f"r2={record.parent}", "--allow-refused"]
    assert run(root, *words).exit_code == 0
    assert {row["model"] for row in rows(root / "out.parquet")} == {"target", "r2"}
    assert json.loads(record.read_text())["kind"] == "refused"
    assert (work / "response").exists()


def test_a_control_of_an_adapter_that_cannot_be_read_is_refused_alone(root: Path, tmp_path: Path) -> None:
    for name in ("bad", "worse"):
        (tmp_path / name).mkdir()
    named: list[tuple[str | None, Path]] = [
        ("good", root / "adapters/r4"), ("worse", tmp_path / "worse"), ("bad", tmp_path / "bad"),
    ]  # fmt: skip
    controls = ("L=theta_only:bad", "theta_only")
    records = GraftRecords({"L": tmp_path / "record"})
    made = {item.label: item for item in graft_variants(named, (1,), controls, tmp_path, 1, records=records)}
    assert list(made) == ["good", "theta_only", "worse", "bad", "L"]
    with pytest.raises(ContextgraftError, match=str(tmp_path / "bad")):
        made["L"].plan(root / "target")
    opened, skipped = open_variants([made["L"]], open_eval_model(None, root / "target"))
    assert (opened, [model.label for model in skipped]) == ([], ["L"])
    assert records.contents["L"]["kind"] == "refused"
