import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import load_recipe
from contextgraft.errors import ConfigError, InputError, OutputError
from contextgraft.rope import settings
from contextgraft.training.data.batches import BatchSampler
from contextgraft.training.engine import SingleProcessEngine
from contextgraft.training.trainer import TrainingOptions, train

from .conftest import Recorder, interrupt, write_recipe
from .parallel.conftest import COMMAND, finish, start, wait_until, work_folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def test_result_is_a_model_with_new_rotary_settings(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    last = train(recipe_folder / "recipe.yaml", base, tmp_path / "out")
    out = tmp_path / "out"
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == last["theta"] > 10000
    assert config["max_position_embeddings"] == 64
    assert AutoTokenizer.from_pretrained(out).model_max_length == 64
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    assert model.config.rope_parameters["rope_theta"] == last["theta"]
    before, after = tensors(base), tensors(out)
    assert before.keys() == after.keys()
    assert all(before[name].dtype == after[name].dtype for name in before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in before if "proj" in name} <= changed
    manifest = json.loads((out / "contextgraft.json").read_text(encoding="utf-8"))
    assert manifest["kind"] == "trained"
    assert manifest["seed"] == 1
    assert manifest["steps"] == 7
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 8))
    assert not (tmp_path / ".out.partial").exists()
    assert not (out / "state.safetensors").exists()


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_interrupted_run_ends_in_the_same_bytes(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    config = recipe_folder / "recipe.yaml"
    train(config, base, tmp_path / "whole")
    interrupt(
        monkeypatch,
        stop,
        lambda: train(config, base, tmp_path / "stopped", TrainingOptions(checkpoint_seconds=0)),
    )
    assert not (tmp_path / "stopped").exists()
    said: list[str] = []
    train(config, base, tmp_path / "stopped", reporter=Recorder(said))
    assert said[0] == f"resuming after step {stop} of 7"
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_killed_command_ends_in_the_same_bytes(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    stages = [{"length": 32, "steps": 8, "tokens": 64}, {"length": 64, "steps": 4, "tokens": 64}]
    config = write_recipe(recipe_folder, stages=stages)

    def command(out: str) -> list[str]:
        options = ["--config", str(config), "--base", str(base), "--out", str(tmp_path / out)]
        return [*COMMAND, *options, "--checkpoint-seconds", "0"]

    work = work_folder(tmp_path / "killed")
    state = work / "state.safetensors"
    killed = start(command("killed"), pause=work)
    wait_until(state.exists, [killed])
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert state.exists()
    assert not (tmp_path / "killed").exists()
    resumed, _ = finish([start(command("killed"))]), finish([start(command("whole"))])
    assert "resuming after step" in resumed[0].err
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_another_recipe_begins_anew_where_nothing_was_learnt(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(BatchSampler, "batch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(recipe_folder / "recipe.yaml", base, tmp_path / "out", TrainingOptions(seed=9))
    said: list[str] = []
    train(recipe_folder / "recipe.yaml", base, tmp_path / "out", reporter=Recorder(said))
    assert said[0] == "starting again: an unfinished run with another seed had not done any step"
    train(recipe_folder / "recipe.yaml", base, tmp_path / "whole")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_another_recipe_does_not_resume_a_partial_run(
    base: Path, recipe_folder: Path, tmp_path: Path
) -> None:
    config = recipe_folder / "recipe.yaml"
    with pytest.raises(KeyboardInterrupt):
        train(config, base, tmp_path / "out", reporter=Recorder(stop=lambda: True))
    with pytest.raises(OutputError, match="another seed"):
        train(recipe_folder / "recipe.yaml", base, tmp_path / "out", TrainingOptions(seed=9))
    haystack = recipe_folder / "haystack.txt"
    haystack.write_text(haystack.read_text(encoding="utf-8") + " sea", encoding="utf-8")
    with pytest.raises(OutputError, match="another data"):
        train(recipe_folder / "recipe.yaml", base, tmp_path / "out")
    config = write_recipe(recipe_folder, optimiser={"learning_rate": 0.5})
    with pytest.raises(OutputError, match="another data and recipe"):
        train(config, base, tmp_path / "out")


@pytest.mark.parametrize("journal", [True, False])
def test_killed_at_the_very_end_nothing_is_trained_again(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, journal: bool
) -> None:
    """All is written and what only the run needed is put away, but the model is not in its place yet."""
    config = recipe_folder / "recipe.yaml"
    train(config, base, tmp_path / "whole")
    with monkeypatch.context() as patch:
        late = (
            "contextgraft.checkpoint.atomic.move_into_place"
            if journal
            else "contextgraft.training.trainer.detach_log"
        )
        patch.setattr(late, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(config, base, tmp_path / "killed", TrainingOptions(checkpoint_seconds=0))
    monkeypatch.setattr(
        BatchSampler, "batch", lambda *_: (_ for _ in ()).throw(AssertionError("trained again"))
    )
    said: list[str] = []
    train(config, base, tmp_path / "killed", reporter=Recorder(said))
    assert said[0] == "resuming after step 7 of 7"
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "recipes", "whole"]


SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "zeros": lambda raw: bytes(len(raw)),
    "zeros at the end": lambda raw: raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2),
    "cut": lambda raw: raw[: len(raw) // 3],
    "empty": lambda _: b"",
    "one byte": lambda raw: raw[:-20] + bytes([raw[-20] ^ 1]) + raw[-19:],
    "other": lambda _: b"{",
}


@pytest.mark.parametrize(
    "name",
    [
        "state.safetensors",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("order.json", "metrics.jsonl")),
    ],
)
def test_spoiled_partial_results_are_not_believed(
    base: Path, recipe_folder: Path, tmp_path: Path, name: str
) -> None:
    config = recipe_folder / "recipe.yaml"
    train(config, base, tmp_path / "whole")
    steps = iter(range(100))
    with pytest.raises(KeyboardInterrupt):
        train(config, base, tmp_path / "half", reporter=Recorder(stop=lambda: next(steps) == 3))
    assert (tmp_path / ".half.partial" / "state.safetensors").exists()
    for what, spoil in SPOILS.items():
        if (name, what) in {("order.json", "one byte"), ("metrics.jsonl", "one byte")}:
            continue  # another identity, which is refused; a number that is not checked
        shutil.copytree(tmp_path / ".half.partial", tmp_path / ".out.partial")
        path = tmp_path / ".out.partial" / name
        path.write_bytes(spoil(path.read_bytes()))
        train(config, base, tmp_path / "out")
        assert files(tmp_path / "out") == files(tmp_path / "whole"), what
        assert not (tmp_path / ".out.partial").exists()
        shutil.rmtree(tmp_path / "out")


def test_seeds_differ_and_repeat(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(recipe_folder / "recipe.yaml", base, tmp_path / name, TrainingOptions(seed=seed))
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a")["model.safetensors"] != files(tmp_path / "c")["model.safetensors"]


def test_the_seed_draws_factors_too(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    config = write_recipe(recipe_folder, lora={"rank": 2, "alpha": 2}, trainable=["linear"])
    drawn = []
    for seed in (1, 2):
        recipe = load_recipe(config).model_copy(update={"seed": seed})
        model = (
            SingleProcessEngine()
            .build(recipe, open_model(base), settings.read(open_model(base).config))
            .model.causal_lm
        )
        drawn.append(next(value for name, value in model.named_parameters() if "lora_A" in name))
    assert not torch.equal(*drawn)
    train(config, base, tmp_path / "out", TrainingOptions(seed=2))
    record = json.loads((tmp_path / "out/contextgraft.json").read_text(encoding="utf-8"))
    assert (record["seed"], record["recipe"]["seed"]) == (2, 2)


def test_refused_memory_is_one_line(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    def unexpected_batch(*_: Any) -> Any:
        return torch.empty(2**60, dtype=torch.uint8)  # what no machine has: torch's own refusal

    monkeypatch.setattr(BatchSampler, "batch", unexpected_batch)
    with pytest.raises(InputError, match="out of memory; activation_checkpointing"):
        train(recipe_folder / "recipe.yaml", base, tmp_path / "out")


@pytest.mark.parametrize("key", ["attention_dropout", "hidden_dropout"])
def test_dropout_is_refused(base: Path, recipe_folder: Path, tmp_path: Path, key: str) -> None:
    folder = tmp_path / "dropping"
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {key: 0.1}), encoding="utf-8")
    with pytest.raises(InputError, match=f"{key} is not supported; expected 0; received 0.1"):
        train(recipe_folder / "recipe.yaml", folder, tmp_path / "out")


def test_only_linear_layers_move(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    train(write_recipe(recipe_folder, trainable=["linear"]), base, tmp_path / "out")
    before, after = tensors(base), tensors(tmp_path / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "proj" in name}


def test_frozen_rows_stay_bit_for_bit(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    train(write_recipe(recipe_folder, frozen_rows=20), base, tmp_path / "out")
    before, after = (tensors(folder)["model.embed_tokens.weight"] for folder in (base, tmp_path / "out"))
    assert torch.equal(before[:20], after[:20])
    assert not torch.equal(before[20:], after[20:])


def test_untied_float32_shards(sharded: Path, recipe_folder: Path, tmp_path: Path) -> None:
    train(write_recipe(recipe_folder, activation_checkpointing=True), sharded, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_activation_checkpointing_changes_nothing(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    train(write_recipe(recipe_folder), base, tmp_path / "plain")
    train(write_recipe(recipe_folder, activation_checkpointing=True), base, tmp_path / "saving")
    plain, saving = tensors(tmp_path / "plain"), tensors(tmp_path / "saving")
    assert all(torch.equal(plain[name], saving[name]) for name in plain)


def test_training_teaches(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    stages: list[dict[str, Any]] = [{"length": 24, "steps": 60, "tokens": 96}]
    data = [{"kind": "pairs", "file": "pairs.jsonl", "ending": "."}]
    config = write_recipe(recipe_folder, stages=stages, data=data, replay={}, theta="keep")
    last = train(config, base, tmp_path / "out")
    lines = (tmp_path / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert last["loss"] < 0.3 * json.loads(lines[0])["loss"]


def test_mistakes_are_one_line(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_folder / "recipe.yaml"
    with pytest.raises(InputError, match="no such model folder"):
        train(recipe, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ConfigError, match="unknown key 'stagess'"):
        train(write_recipe(recipe_folder, stagess=[]), base, tmp_path / "out")
    no_tokenizer = tmp_path / "bare"
    shutil.copytree(base, no_tokenizer)
    for path in no_tokenizer.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        train(write_recipe(recipe_folder), no_tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()
