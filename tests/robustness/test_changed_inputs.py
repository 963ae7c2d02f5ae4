"""Files that are replaced while a command reads them: every verb notices, and publishes nothing."""

import os
import pkgutil
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.robustness.in_process import flaw, run


def replace(path: Path) -> None:
    """Another file of the same size, and of the same time."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    other = path.with_name(".other")
    other.write_bytes(path.read_bytes()[:-8] + b"\x11" * 8)
    os.utime(other, ns=times)
    other.replace(path)


def overwrite(path: Path) -> None:
    """Other bytes in the same file."""
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"\x11" * 8)


CHANGES: dict[str, Callable[[Path], object]] = {
    "replaced": replace,
    "overwritten": overwrite,
    "removed": Path.unlink,
    "renamed": lambda path: path.rename(path.with_name("elsewhere")),
}


EVALUATE = "evaluate style --suite skill --skill k.jsonl --out out.parquet"
WITH_ADAPTER = f"{EVALUATE} --adapter adapters/r2"
ALIGNED = f"{WITH_ADAPTER} --base base --alignment r2=alignment.parquet --record r2=out-record"
VERIFY_GRAFT = "verify graft --target style --adapter adapters/r2"
TRAIN = "train --config recipe.yaml --base base --out out"
# command, the function during which the file changes, the file
CASES = (
    (EVALUATE, "contextgraft.evaluation.models.load_tokenizer", "style/model.safetensors"),
    (EVALUATE, "contextgraft.evaluation.models.load_tokenizer", "style/tokenizer.json"),
    (EVALUATE, "contextgraft.evaluation.model_run.make_backend", "style/model.safetensors"),
    (EVALUATE, "contextgraft.evaluation.model_run.make_backend", "style/tokenizer.json"),
    (EVALUATE, "contextgraft.evaluation.model_run.respond_to", "style/model.safetensors"),
    (EVALUATE, "contextgraft.evaluation.model_run.respond_to", "style/config.json"),
    (WITH_ADAPTER, "contextgraft.evaluation.models.load_tokenizer", "adapters/r2/adapter_model.safetensors"),
    (WITH_ADAPTER, "contextgraft.evaluation.model_run.make_backend", "adapters/r2/adapter_model.safetensors"),
    (WITH_ADAPTER, "contextgraft.evaluation.model_run.make_backend", "adapters/r2/contextgraft.json"),
    (WITH_ADAPTER, "contextgraft.evaluation.models.open_variants", "style/model.safetensors"),
    (ALIGNED, "contextgraft.adapter.analysis.adapter_alignment._compare", "base/model.safetensors"),
    (ALIGNED, "contextgraft.adapter.analysis.adapter_alignment._compare",
     "adapters/r2/adapter_model.safetensors"),
    ("replay results/samples.parquet 0 style --skill k.jsonl",
     "contextgraft.evaluation.replay.make_backend", "style/model.safetensors"),
    ("align --base base --donor facts --target style --threads 1 --out out.parquet",
     "contextgraft.adapter.analysis.alignment.inner_product", "style/model.safetensors"),
    ("align --base base --donor facts --target style --threads 1 --out out.parquet",
     "contextgraft.adapter.analysis.alignment.inner_product", "base/config.json"),
    ("compare adapters/r2 adapters/r2", "contextgraft.adapter.analysis.compare._distance",
     "adapters/r2/adapter_model.safetensors"),
    ("compare adapters/r2 adapters/r2", "contextgraft.adapter.analysis.compare._distance",
     "adapters/r2/adapter_config.json"),
    (VERIFY_GRAFT, "contextgraft.adapter.verify.graft._rope", "graft/model.safetensors"),
    (VERIFY_GRAFT, "contextgraft.adapter.verify.graft._rope", "style/model.safetensors"),
    (VERIFY_GRAFT, "contextgraft.adapter.verify.graft._rope", "adapters/r2/adapter_model.safetensors"),
    ("verify adapters/r2 --base base --donor facts", "contextgraft.adapter.verify.adapter._rope",
     "facts/model.safetensors"),
    ("inspect style --base base", "contextgraft.adapter.analysis.distance.kind_distance",
     "base/model.safetensors"),
    ("report results --out out", "contextgraft.report.build.read_samples", "results/samples.parquet"),
    ("report results --adapter adapters --out out", "contextgraft.report.build.read_samples",
     "adapters/r2/contextgraft.json"),
    (TRAIN, "contextgraft.training.trainer.Trainer._train_step", "base/model.safetensors"),
    (TRAIN, "contextgraft.training.trainer.Trainer._build_stage", "base/model.safetensors"),
    (TRAIN, "contextgraft.training.trainer.Trainer._train_step", "recipe.yaml"),
    (TRAIN, "contextgraft.training.trainer.Trainer._train_step", "haystack_train.txt"),
)  # fmt: skip


def changing(
    function: Callable[..., Any], change: Callable[[], object], *, before: bool
) -> Callable[..., Any]:
    """The function, around whose first call a file changes."""
    changed: list[bool] = []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before and not changed:
            changed.append(True)
            change()
        try:
            return function(*args, **kwargs)
        finally:
            if not changed:
                changed.append(True)
                change()

    return wrapped


def variants() -> list[Any]:
    """Cases and changes of their files; all four changes of weights are fast in one case, slow in others."""
    weights = [
        (case, what)
        for case in CASES
        for what in (CHANGES if case[2] == "style/model.safetensors" else ("replaced",))
    ]
    with_adapter = [case for case in CASES if case[0] in (WITH_ADAPTER, ALIGNED)]
    fast = {(case, "replaced") for case in CASES if case not in with_adapter[1:-1]} | {
        (CASES[0], what) for what in CHANGES
    }
    return [
        pytest.param(
            case, what, id=f"{case[0].split()[0]}-{case[1].split('.')[-1]}-{case[2]}-{what}",
            marks=[] if (case, what) in fast else pytest.mark.slow,
        )
        for case, what in weights
    ]  # fmt: skip


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(("case", "what"), variants())
def test_a_changed_input_is_noticed(
    *, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[str, str, str], what: str,
    before: bool,
) -> None:  # fmt: skip
    command, during, name = case
    root = tmp_path / "made"
    shutil.copytree(made, root)
    monkeypatch.chdir(root)
    changes_now = partial(CHANGES[what], root / name)
    monkeypatch.setattr(during, changing(pkgutil.resolve_name(during), changes_now, before=before))
    outcome = run(command.split())
    assert flaw(outcome, ()) is None, flaw(outcome, ())
    assert f"{name}: was changed while it was read" in outcome.stderr, outcome.stderr
    assert not list(root.glob("out*"))
