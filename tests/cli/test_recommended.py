"""`merge --recommended` and `evaluate --recommendation`: it is for one fine-tune and its adapters."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from contextgraft.cli.commands import extract
from contextgraft.cli.evaluate.outputs import (
    GraftOutputs,
    missing_recommendation,
    write_alignments,
)
from contextgraft.cli.evaluate.records import GraftRecords
from contextgraft.cli.graft_options import GraftOptions
from contextgraft.cli.main import cli
from contextgraft.errors import ConfigError, InputError, OtherRecommendation
from contextgraft.formats import samples


@pytest.fixture(scope="module")
def root(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two fine-tunes, the adapters r2 and r4 of one donor and of another, and the graft target + r4."""
    path: Path = tmp_path_factory.mktemp("recommended")
    config = toy.config()
    base = toy.weights(config)
    toy.write(path / "base", base, config)
    for seed, donor in enumerate(("a", "b"), 1):
        toy.write(path / donor, toy.moved(base, seed), {**config, "rope_theta": 4e4})
        words = ["--base", str(path / "base"), "--donor", str(path / donor), "--rank", "2", "--rank", "4"]
        CliRunner().invoke(
            extract.command, [*words, "--out", str(path / f"from-{donor}")], catch_exceptions=False
        )
    for seed, target in enumerate(("target", "other"), 3):
        toy.write(path / target, toy.moved(base, seed), config)
    merged(path, path / "graft", "--adapter", str(path / "from-a/r4"))
    return path


def merged(
    root: Path, out: Path, *words: str, target: str = "target", root_words: tuple[str, ...] = ()
) -> Result:
    """The result of `contextgraft merge`."""
    command = [*root_words, "merge", "--target", str(root / target), "--out", str(out), *words]
    return CliRunner().invoke(cli, command)


def recommendation(root: Path, file: Path, **changes: Any) -> list[str]:
    """The options for a recommendation of rank 4 of donor a for `target`."""
    manifest = json.loads((root / "graft/contextgraft.json").read_text())
    content = {
        "rank": 4,
        "reason": None,
        "target": manifest["target"]["digest"],
        "adapters": {"4": [manifest["adapters"][0]["digest"]]},
        **changes,
    }
    file.write_text(json.dumps(content))
    return ["--recommended", str(file)]


def adapters(root: Path, donor: str = "a") -> list[str]:
    return [f"--adapter={root}/from-{donor}/r{rank}" for rank in (2, 4)]


def test_the_evaluated_adapter_is_merged(root: Path, tmp_path: Path) -> None:
    verdict = tmp_path / "verdict.json"
    words = [*adapters(root), *recommendation(root, tmp_path / "r.json"), "--verify", str(verdict)]
    done = merged(root, tmp_path / "out", *words)
    assert done.exit_code == 0, done.output
    assert json.loads(verdict.read_text())["holds"]
    assert (tmp_path / "out/contextgraft.json").read_bytes() == (
        root / "graft/contextgraft.json"
    ).read_bytes()


def test_another_fine_tune_is_not_published_nor_refused(root: Path, tmp_path: Path) -> None:
    words = [*adapters(root), *recommendation(root, tmp_path / "r.json")]
    done = merged(
        root, tmp_path / "out", *words, target="other", root_words=("--refusal", str(tmp_path / "out"))
    )
    assert isinstance(done.exception, OtherRecommendation)
    assert f"is for another fine-tune than {root}/other; expected the digest" in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_finished_graft_of_another_fine_tune_is_not_taken(root: Path, tmp_path: Path) -> None:
    words = [*adapters(root), *recommendation(root, tmp_path / "r.json", target="another")]
    assert isinstance(merged(root, root / "graft", *words).exception, OtherRecommendation)


def test_an_adapter_of_the_same_rank_that_was_not_evaluated(root: Path, tmp_path: Path) -> None:
    words = [*adapters(root, "b"), *recommendation(root, tmp_path / "r.json")]
    error = merged(root, tmp_path / "out", *words).exception
    assert isinstance(error, OtherRecommendation)
    assert f"is for another adapter of rank 4 than {root}/from-b/r4" in str(error)
    assert "evaluate this fine-tune with these adapters again" in str(error)
    assert not (tmp_path / "out").exists()


def test_a_rank_that_no_adapter_has(root: Path, tmp_path: Path) -> None:
    words = [*adapters(root), *recommendation(root, tmp_path / "r.json", rank=8)]
    error = merged(root, tmp_path / "out", *words).exception
    assert isinstance(error, OtherRecommendation)
    assert "expected 2, 4; received 8" in str(error)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"rank": 4},
        {"rank": "4"},
        {"rank": 4, "adapters": [], "target": None},
        {"rank": 4, "reason": "", "target": "t", "adapters": {"4": 5}},
        {"rank": 4, "reason": "", "target": "t", "adapters": {"4": "the digests"}},
    ],
)
def test_a_file_that_is_not_a_recommendation(root: Path, tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "r.json").write_text(json.dumps(content))
    words = [*adapters(root), "--recommended", str(tmp_path / "r.json")]
    error = merged(root, tmp_path / "out", *words).exception
    assert isinstance(error, ConfigError)
    assert "is not a recommendation; expected the keys rank, reason, target, adapters" in str(error)


def test_no_rank_is_refused_with_the_reason_of_the_file(root: Path, tmp_path: Path) -> None:
    nothing: dict[str, Any] = {
        "rank": None,
        "target": None,
        "adapters": {},
        "reason": "no adapter is needed: the reason",
    }
    words = [*adapters(root), *recommendation(root, tmp_path / "r.json", **nothing)]
    error = merged(root, tmp_path / "out", *words).exception
    assert isinstance(error, InputError)
    assert "recommends no rank; received no adapter is needed: the reason" in str(error)
    done = merged(root, tmp_path / "out", *words, root_words=("--refusal", str(tmp_path / "out")))
    assert done.exit_code == 0
    assert json.loads((tmp_path / "out/contextgraft.json").read_text())["kind"] == "refused"


def test_an_old_verdict_does_not_outlive_a_merge_that_fails(root: Path, tmp_path: Path) -> None:
    verdict = tmp_path / "verdict.json"
    verdict.write_text('{"holds": true}')
    words = [*adapters(root, "b"), *recommendation(root, tmp_path / "r.json"), "--verify", str(verdict)]
    assert merged(root, tmp_path / "out", *words).exit_code == 1
    assert not verdict.exists()


def test_outputs_of_an_earlier_evaluation_are_removed(tmp_path: Path) -> None:
    files = [
        tmp_path / name for name in ("record/contextgraft.json", "alignment.parquet", "recommended.json")
    ]
    records = GraftRecords({"g": files[0].parent})
    outputs = GraftOutputs(records, {"g": files[1]}, tmp_path / "base", files[2])
    failed = samples.table({}, [{"model": "g", "status": "failed"}])
    for _ in range(2):
        with pytest.raises(InputError):
            write_alignments(outputs, {"g": tmp_path / "none"}, tmp_path / "base", 1, allow_refused=False)
        with outputs.written_with(failed, tmp_path / "samples.parquet"):
            assert not any(file.exists() for file in files)
        for file in files:
            assert not file.exists()
            file.parent.mkdir(exist_ok=True)
            file.write_text('{"kind": "graft"}')


def test_failed_prompts_leave_no_recommendation(tmp_path: Path) -> None:
    rows = [{"model": f"m{n}", "status": "failed", "reason": "memory"} for n in range(5)]
    table = samples.table({}, [{"model": "m", "status": "ok"}, *rows])
    out = tmp_path / "recommended.json"
    outputs = GraftOutputs(GraftRecords({}), {}, None, out)
    with outputs.written_with(table, tmp_path / "samples.parquet"):
        pass
    assert not out.exists()
    assert missing_recommendation(outputs, table) == (
        f"{out}: not written, because 5 of 6 prompts failed "
        "(m0, m1, m2 and 2 more: memory); the same command repeats only these"
    )
    assert not missing_recommendation(GraftOutputs(GraftRecords({}), {}, None, None), table)


OTHER_OPTIONS: dict[str, list[str]] = {
    "kept": ["--keep-rope"], "rounding": ["--rounding", "stochastic"], "rope": ["--rope-from", "other"]
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_OPTIONS)
def test_options_that_were_not_evaluated(name: str, root: Path, tmp_path: Path) -> None:
    """They are accepted where the evaluation had them, too."""
    words = [str(root / word) if word == "other" else word for word in OTHER_OPTIONS[name]]
    named = [*adapters(root), *recommendation(root, tmp_path / "r.json")]
    error = merged(root, tmp_path / "out", *named, *words).exception
    assert isinstance(error, OtherRecommendation)
    assert "is for a graft with other options; expected what was evaluated: --rounding nearest" in str(error)
    assert not (tmp_path / "out").exists()
    options = {
        "kept": GraftOptions(keep_rope=True),
        "rounding": GraftOptions(rounding="stochastic"),
        "rope": GraftOptions(root / "other"),
    }[name]
    named = [
        *adapters(root),
        *recommendation(root, tmp_path / "r.json", options=options.record(root / "target")),
    ]
    assert isinstance(merged(root, tmp_path / "no", *named).exception, OtherRecommendation)
    done = merged(root, tmp_path / "out", *named, *words)
    assert done.exit_code == 0, done.output


def test_the_donors_own_settings_are_no_other_options(root: Path, tmp_path: Path) -> None:
    words = [*adapters(root), *recommendation(root, tmp_path / "r.json"), "--rope-from", str(root / "a")]
    done = merged(root, tmp_path / "out", *words, "--scale", "1")
    assert done.exit_code == 0, done.output


def test_another_scale_is_refused(root: Path, tmp_path: Path) -> None:
    words = [*adapters(root), *recommendation(root, tmp_path / "r.json")]
    done = merged(root, tmp_path / "out", *words, "--scale", "0.5")
    assert (done.exit_code, (tmp_path / "out").exists()) == (2, False)
    assert "grafts are recommended at scale 1" in done.output


def test_the_options_are_in_the_recommendation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contextgraft.report.recommendation.recommend", lambda _: {"rank": 4})
    for name, options in {"plain": GraftOptions(), "kept": GraftOptions(keep_rope=True)}.items():
        out = tmp_path / name
        table = samples.table({}, [{"model": "m", "status": "ok"}])
        made = GraftOutputs(GraftRecords({}), {}, None, out, options)
        with made.written_with(table, tmp_path / "samples.parquet", target=tmp_path):
            pass
        expected: dict[str, Any] = {"rank": 4} | ({"options": {"keep_rope": True}} if name == "kept" else {})
        assert json.loads(out.read_text()) == expected
