"""The public functions: the same bytes as the commands, errors of the package's own, lazy and typed names."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import contextgraft
from contextgraft import (
    ContextgraftError,
    InputError,
    extract,
    fetch,
    merge,
    open_model,
    plan_merge,
    read_rope,
    verify,
)

from ..command_server import command_server


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, check=False)


def test_functions_write_the_same_bytes_as_the_commands(models: Path, toy: SimpleNamespace) -> None:
    extract("base", models / "donor", "by-api", ranks=[4, 16], energies=[0.9], threads=1)
    merge("by-api/r4", "fine-tune", "graft-by-api", threads=1)
    cli = [str(command_server("contextgraft").command)]
    ranks = ("--rank", "4", "--rank", "16", "--energy", "0.9")
    words = [*cli, "extract", "--base", "base", "--donor", "donor", *ranks, "--out", "by-cli"]
    done = subprocess.run(words, cwd=models, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    adapter = ("--adapter", "by-cli/r4", "--target", "fine-tune")
    words = [*cli, "merge", *adapter, "--out", "graft-by-cli"]
    done = subprocess.run(words, cwd=models, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert toy.contents(models / "by-api") == toy.contents(models / "by-cli")
    assert toy.contents(models / "graft-by-api") == toy.contents(models / "graft-by-cli")


def test_a_result_says_what_was_written(models: Path) -> None:
    (adapter,) = extract("base", "donor", "adapters", energies=[0.5])
    assert adapter.path == Path("adapters/e0.5")
    assert 0.5 <= adapter.energy < 1
    assert adapter.error == pytest.approx((1 - adapter.energy) ** 0.5)
    result = merge(adapter.path, "fine-tune", "graft")
    assert result.changed == plan_merge(adapter.path, "fine-tune").changed
    assert result.survived_norm == pytest.approx(result.requested_norm, rel=0.05)
    assert result.rope == read_rope("donor") == read_rope(result.path) == read_rope(adapter.path)


def test_progress_reaches_the_planned_bytes(models: Path) -> None:
    extract("base", "donor", "adapters", ranks=[2])
    steps: list[int] = []
    merge("adapters/r2", "fine-tune", "graft", progress=steps.append)
    assert sum(steps) == plan_merge("adapters/r2", "fine-tune").bytes_to_read


def test_adapters_add_up_at_their_scales(models: Path, toy: SimpleNamespace) -> None:
    extract("base", "donor", "adapters", ranks=[2, 8])
    both = merge(["adapters/r2", "adapters/r8"], "fine-tune", "sum", scale=[0.0, 1.0])
    one = merge("adapters/r8", "fine-tune", "one")
    weights = "model.safetensors"
    assert (both.path / weights).read_bytes() == (one.path / weights).read_bytes()
    with pytest.raises(InputError, match="2"):
        plan_merge(["adapters/r2", "adapters/r8"], "fine-tune", scale=[1.0])
    with pytest.raises(InputError, match="finite"):
        plan_merge("adapters/r2", "fine-tune", scale=float("nan"))


def test_a_changed_graft_does_not_verify(models: Path) -> None:
    extract("base", "donor", "adapters", ranks=[2])
    merge("adapters/r2", "fine-tune", "graft")
    assert verify("graft")
    (models / "graft/tokenizer.json").write_text('{"changed": 1}')
    result = verify("graft")
    assert not result
    assert [check.name for check in result.checks if not check.holds] == ["files"]


@pytest.mark.parametrize(
    "wrong",
    [{}, {"ranks": [0]}, {"energies": [0.0]}, {"energies": [1.5]}, {"energies": [0.9], "max_rank": 0}],
)
def test_ranks_and_energies_are_checked(wrong: dict[str, list[float]], models: Path) -> None:
    with pytest.raises(InputError, match="ranks of at least 1"):
        extract("base", "donor", "adapters", **wrong)  # type: ignore[arg-type]
    assert not (models / "adapters").exists()


def test_patterns_are_checked(models: Path) -> None:
    with pytest.raises(InputError, match="not a regular expression"):
        extract("base", "donor", "adapters", ranks=[2], exclude="[")


def test_an_existing_output_is_replaced_only_on_request(models: Path) -> None:
    extract("base", "donor", "adapters", ranks=[2], include="layers.0.")
    with pytest.raises(ContextgraftError, match="adapters/r2"):
        extract("base", "donor", "adapters", ranks=[2])
    extract("base", "donor", "adapters", ranks=[2], replace=True)
    few = merge("adapters/r2", "fine-tune", "graft", scale=0)
    many = merge("adapters/r2", "fine-tune", "graft", replace=True)
    assert len(few.changed) < len(many.changed)


def test_verify_says_what_it_needs(models: Path) -> None:
    (adapter,) = extract("base", "donor", "adapters", ranks=[2])
    with pytest.raises(InputError, match="base= and donor="):
        verify(adapter.path)
    merge(adapter.path, "fine-tune", "graft")
    with pytest.raises(InputError, match="target= and adapters="):
        verify("graft", base="base", donor="donor")


def test_an_adapter_without_a_record_has_no_rope(models: Path) -> None:
    (adapter,) = extract("base", "donor", "adapters", ranks=[2])
    for name in ("contextgraft.json", "contextgraft.safetensors"):
        (adapter.path / name).unlink()
    with pytest.raises(ContextgraftError, match="RoPE"):
        read_rope(adapter.path)


def test_settings_come_from_one_origin(models: Path) -> None:
    """A donor without the base's sliding window: the graft of an adapter without a record takes it over."""
    for name, window in (("base", 16), ("fine-tune", 16), ("donor", None)):
        path = models / name / "config.json"
        config = json.loads(path.read_text())
        config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": window}
        path.write_text(json.dumps(config))
    (adapter,) = extract("base", "donor", "adapters", ranks=[2])
    own = plan_merge(adapter.path, "fine-tune")
    for name in ("contextgraft.json", "contextgraft.safetensors"):
        (adapter.path / name).unlink(missing_ok=True)
    given = plan_merge(adapter.path, "fine-tune", rope_from="donor")
    assert given.rope == own.rope == read_rope("donor")
    assert given.config["sliding_window"] is own.config["sliding_window"] is None
    assert plan_merge(adapter.path, "fine-tune", rope=read_rope("donor")).config["sliding_window"] == 16
    result = merge(adapter.path, "fine-tune", "graft", rope_from="donor")
    assert verify(result.path, target="fine-tune", adapters=[adapter.path]).holds
    with pytest.raises(InputError, match="one of rope, rope_from and keep_rope"):
        plan_merge(adapter.path, "fine-tune", rope_from="donor", keep_rope=True)


def test_fetch_gives_a_model(models: Path) -> None:
    assert open_model(fetch("demo:zh", models / "zh")).path == models / "zh"


def test_every_public_name_is_there() -> None:
    assert contextgraft.__all__ == sorted(contextgraft.__all__)
    assert dir(contextgraft) == contextgraft.__all__
    assert all(hasattr(contextgraft, name) for name in contextgraft.__all__)
    assert not hasattr(contextgraft, "no_such_name")
    page = (Path(__file__).parents[2] / "docs/api.md").read_text()
    functions = [n for n in contextgraft.__all__ if n[0].islower()]
    assert all(f"`{name}(" in page for name in functions)


def test_importing_the_package_imports_nothing_else(tmp_path: Path) -> None:
    heavy = {"torch", "numpy", "pyarrow", "click", "pydantic"}
    code = f"import sys, contextgraft; sys.exit(' '.join({heavy} & set(sys.modules)) or 0)"
    done = run("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_types_are_for_importers_too() -> None:
    """`importers_code.py` is checked by mypy with the other tests."""
    assert (Path(contextgraft.__file__).parent / "py.typed").exists()
