"""Numbers that no run can have, and recipes that do not fit their base: one line before any work."""

from pathlib import Path
from typing import Any

import pytest

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.cli.main import main
from contextgraft.config.training import load_recipe
from contextgraft.errors import ConfigError, InputError
from contextgraft.rope import settings
from contextgraft.training.engine import SingleProcessEngine
from contextgraft.training.fits import check_fits
from contextgraft.training.trainer import train

from .conftest import RECIPE, write_recipe

STAGE = {"length": 32, "steps": 3, "tokens": 64}
INFINITE = float("inf")


def stage(**changes: Any) -> dict[str, Any]:
    return {"stages": [{**STAGE, **changes}]}


def optimiser(**changes: Any) -> dict[str, Any]:
    return {"optimiser": {**RECIPE["optimiser"], **changes}}


@pytest.mark.parametrize("value", [INFINITE, -INFINITE, float("nan")])
@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("optimiser.learning_rate", lambda value: optimiser(learning_rate=value)),
        ("optimiser.clip", lambda value: optimiser(clip=value)),
        ("optimiser.weight_decay", lambda value: optimiser(weight_decay=value)),
        ("stages.0.theta", lambda value: stage(theta=value)),
        ("stages.0.learning_rate", lambda value: stage(learning_rate=value)),
        ("margin", lambda value: {"margin": value}),
        ("data.0.repeat.weight", lambda value: {"data": [{"kind": "repeat", "weight": value}]}),
        ("data.0.needle.queries", lambda value: {"data": [{**RECIPE["data"][0], "queries": value}]}),
        ("lora.alpha", lambda value: {"lora": {"rank": 2, "alpha": value}}),
    ],
)
def test_numbers_are_finite(recipe_folder: Path, key: str, change: Any, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: Input should be") as error:
        load_recipe(write_recipe(recipe_folder, **change(value)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("huge", [10**12, 2**63, 10**30])
@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("stages.0.length", lambda huge: stage(length=huge, tokens=huge)),
        ("stages.0.steps", lambda huge: stage(steps=huge)),
        ("stages.0.tokens", lambda huge: stage(tokens=32 * huge)),
        ("replay.lengths.0", lambda huge: {"replay": {"share": 0.1, "lengths": [huge], "tokens": huge}}),
        ("max_positions", lambda huge: {"max_positions": huge}),
        ("lora.rank", lambda huge: {"lora": {"rank": huge, "alpha": 1}}),
        ("data.0.needle.most", lambda huge: {"data": [{**RECIPE["data"][0], "most": huge}]}),
    ],
)
def test_lengths_and_counts_are_bounded(recipe_folder: Path, key: str, change: Any, huge: int) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: Input should be less than or equal to"):
        load_recipe(write_recipe(recipe_folder, **change(huge)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"recipe\.yaml: \(top level\): should be a section with keys; received nothing$"),
        ("- 1\n", r"\(top level\): should be a section with keys; received \[1\]$"),
        ("optimiser: 3\n", "optimiser: should be a section with keys; received 3"),
        ("data: [{weight: 2}]\n", r"data\.0: lacks the key 'kind'"),
        ("data: [{kind: neddle}]\n", r"data\.0: 'kind' is none of 'needle', .*; did you mean needle"),
    ],
)
def test_what_is_not_a_recipe_is_named_in_plain_words(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_a_rule_of_the_recipe_has_no_prefix(recipe_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"stages\.0: tokens \(100\) must be a multiple of length \(32\)"):
        load_recipe(write_recipe(recipe_folder, **stage(tokens=100)))


@pytest.mark.parametrize("rows", [33, 10**6])
def test_frozen_rows_leave_some(base: Path, recipe_folder: Path, rows: int) -> None:
    model = open_model(base)
    rope = settings.read(model.config, base)
    vocabulary = model["model.embed_tokens.weight"].rows
    recipe = load_recipe(write_recipe(recipe_folder, frozen_rows=rows))
    assert rows >= vocabulary
    with pytest.raises(InputError, match=rf"frozen_rows.*expected less than {vocabulary}.*received {rows}"):
        check_fits(recipe, model, rope)
    check_fits(recipe.model_copy(update={"frozen_rows": vocabulary - 1}), model, rope)
    check_fits(recipe.model_copy(update={"trainable": ("linear",)}), model, rope)


def test_a_context_never_shrinks(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    """The base has 16 positions and is trained on sequences of 8."""
    short = {**stage(length=8, steps=1, tokens=8), "replay": {}, "theta": "keep"}
    data = [{"kind": "repeat", "first": 2}]
    train(write_recipe(recipe_folder, data=data, **short), base, tmp_path / "out")
    assert settings.read(open_model(tmp_path / "out").config).max_positions == 16
    with pytest.raises(InputError, match="never shrinks; expected at least 16; received 8"):
        train(write_recipe(recipe_folder, data=data, max_positions=8, **short), base, tmp_path / "less")


def test_a_lack_of_memory_names_only_what_is_not_done(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python and numpy have errors of their own."""

    def no_memory(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("contextgraft.training.data.batches.BatchSampler.batch", no_memory)
    done = {"activation_checkpointing": True, "activation_offloading": True, "mlp_tiles": 2}
    recipe = write_recipe(recipe_folder, optimiser={"learning_rate": 0.01, "offload": True}, **done)
    with pytest.raises(InputError, match=r"out of memory; fewer tokens in a batch, more processes"):
        train(recipe, base, tmp_path / "out", engine=SingleProcessEngine(rows_at_once=1))
    with pytest.raises(InputError, match=r"out of memory; --rows-at-once 1, fewer tokens in a batch"):
        train(recipe, base, tmp_path / "out")


def test_the_command_ends_with_2_and_one_line(
    base: Path,
    recipe_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_recipe(recipe_folder, **optimiser(learning_rate=INFINITE))
    options = ["train", "--config", str(config), "--base", str(base), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["contextgraft", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "optimiser.learning_rate: Input should be a finite number" in line
    assert not (tmp_path / "out").exists()
