"""A run with LoRA publishes the adapter that it trained, readable by PEFT and by this package."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.adapter.verify.adapter import verify_adapter
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import load_recipe
from contextgraft.rope import settings
from contextgraft.sources.hub.package import build_package
from contextgraft.training.lora import factor_names
from contextgraft.training.result.adapter_folder import ADAPTER_FOLDER
from contextgraft.training.result.export import write_folder
from contextgraft.training.trainer import train

from .conftest import write_recipe, write_recipe_folder

RUN: dict[str, Any] = {
    "stages": [{"length": 32, "steps": 4, "tokens": 64}],
    "replay": {},
    "data": [{"kind": "repeat", "first": 2}],
    "lora": {"rank": 2, "alpha": 3},
    "optimiser": {"learning_rate": 0.05},
}


@pytest.fixture(scope="module", params=["linear", "all"])
def trained(
    request: pytest.FixtureRequest, sharded: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A float32 base trained with LoRA: linear layers only, or norms and embeddings too."""
    folder = tmp_path_factory.mktemp("lora")
    groups = ["linear"] if request.param == "linear" else ["linear", "norms", "embeddings"]
    train(
        write_recipe(write_recipe_folder(folder / "recipes"), trainable=groups, **RUN),
        sharded,
        folder / "out",
    )
    return folder / "out", str(request.param)


def test_its_sidecar_is_true(trained: tuple[Path, str], sharded: Path) -> None:
    out, _ = trained
    checks = verify_adapter(out / ADAPTER_FOLDER, sharded, out)
    assert all(check.holds for check in checks), [check for check in checks if not check.holds]
    record = json.loads((out / ADAPTER_FOLDER / "contextgraft.json").read_text(encoding="utf-8"))
    assert (record["rank"], record["trained"]) == (2, True)
    assert record["energy"] > 1 - 1e-9, "float32 hardly rounds"
    assert record["rope"]["donor"]["theta"] > record["rope"]["base"]["theta"]
    model = json.loads((out / "contextgraft.json").read_text(encoding="utf-8"))
    assert record["donor"]["digest"] == model["digest"]


def test_peft_gives_the_logits_of_the_merged_model(trained: tuple[Path, str], sharded: Path) -> None:
    """The reference is PEFT at run time; theta is that of the merged model."""
    out, _ = trained
    ids = torch.randint(2, 20, (2, 24), generator=torch.Generator().manual_seed(0))
    merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(sharded, config=merged.config, dtype=torch.float32)
    others = {name: value for name, value in merged.state_dict().items() if "proj" not in name}
    base.load_state_dict(others, strict=False)  # norms and embeddings, which PEFT does not read
    adapted = PeftModel.from_pretrained(base, str(out / ADAPTER_FOLDER))
    torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-5)


def test_merged_into_the_base_it_is_the_model(
    trained: tuple[Path, str], sharded: Path, tmp_path: Path
) -> None:
    out, _ = trained
    adapter = open_adapter(out / ADAPTER_FOLDER)
    merge(plan_merge([ScaledAdapter(adapter)], sharded), tmp_path / "graft")
    ours = {
        name: value
        for shard in (tmp_path / "graft").glob("*.safetensors")
        for name, value in load_file(shard).items()
    }
    for name, value in load_file(out / "model.safetensors").items():
        if "embed" not in name and "lm_head" not in name:
            torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-7)


def test_the_record_names_what_is_not_carried(trained: tuple[Path, str]) -> None:
    out, trains = trained
    record = json.loads((out / ADAPTER_FOLDER / "contextgraft.json").read_text(encoding="utf-8"))
    embeddings = {"model.embed_tokens.weight", "lm_head.weight"} if trains == "all" else set()
    assert set(record["ignored"]) == embeddings
    assert bool(record["dense"]) == (trains == "all")
    assert (out / ADAPTER_FOLDER / "contextgraft.safetensors").exists() == (trains == "all")


def test_a_model_that_is_trained_on_has_its_own_adapter_only(
    trained: tuple[Path, str], recipe_folder: Path, tmp_path: Path
) -> None:
    """A base's adapter is not copied."""
    out, _ = trained
    plain = {key: value for key, value in RUN.items() if key != "lora"}
    train(write_recipe(recipe_folder, **plain), out, tmp_path / "next")
    assert not (tmp_path / "next" / ADAPTER_FOLDER).exists()


def write_result(base: Path, recipe: Path, out: Path, size: float) -> None:
    """The folder of a model whose factors B are of this size, as `train` writes it, without training."""
    model, gen = open_model(base), torch.Generator().manual_seed(0)
    modules = [name.removesuffix(".weight") for name in model.tensors if "_proj" in name]
    trained = {}
    for module in modules:
        rows, columns = model[f"{module}.weight"].shape
        first, second = factor_names(module)
        trained[first] = torch.randn(2, columns, generator=gen)
        trained[second] = size * torch.randn(rows, 2, generator=gen)
    out.mkdir()
    rope = replace(settings.read(model.config), theta=4e4)
    write_folder(
        out, base=model, trained=trained, rope=rope, recipe=load_recipe(recipe), dtype="float32", datasets=[]
    )


@pytest.mark.parametrize("size", [1e-9, 1e-5])
def test_energy_is_a_share_whatever_the_rounding_of_the_weights(
    base: Path, recipe_folder: Path, tmp_path: Path, size: float
) -> None:
    """In bfloat16 small changes are lost in the merged weights, wholly or to a large part."""
    write_result(base, write_recipe(recipe_folder, **RUN), tmp_path / "out", size)
    adapter = tmp_path / "out" / ADAPTER_FOLDER
    record = json.loads((adapter / "contextgraft.json").read_text(encoding="utf-8"))
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out"))
    factors, squares = load_file(adapter / "adapter_model.safetensors"), []
    for module, entry in record["modules"].items():
        assert (entry["energy"], entry["error"]) == (1, 0), "the factors are all that was trained"
        a, b = (factors[f"base_model.model.{module}.lora_{side}.weight"].double() for side in "AB")
        stored = after[f"{module}.weight"].double() - before[f"{module}.weight"].double()
        squares.append(float((stored - 1.5 * b @ a).square().sum()))
        assert entry["rounding"] == pytest.approx(squares[-1] ** 0.5, rel=1e-6)
        assert entry["delta_norm"] == pytest.approx(float(stored.norm()))
    assert (record["energy"], record["error"]) == (1, 0)
    assert record["rounding"] == pytest.approx(sum(squares) ** 0.5, rel=1e-6)
    assert (record["delta_norm"] == 0) == (size == 1e-9)
    assert record["rounding"] > record["delta_norm"] / 2
    checks = verify_adapter(adapter, base, tmp_path / "out")
    assert all(check.holds for check in checks), [check for check in checks if not check.holds]
    first = min(record["modules"])
    record["modules"][first]["rounding"] *= 1.01
    (adapter / "contextgraft.json").write_text(json.dumps(record), encoding="utf-8")
    wrong = [check.detail for check in verify_adapter(adapter, base, tmp_path / "out") if not check.holds]
    assert len(wrong) == 1
    assert f"the rounding of {first}" in wrong[0]


def test_a_trained_model_and_its_adapter_have_cards_of_their_own(
    sharded: Path, recipe_folder: Path, tmp_path: Path
) -> None:
    """The base's card describes another model; its licence is stated."""
    base = shutil.copytree(sharded, tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: llama3.1\n---\n# The base\n", encoding="utf-8")
    write_result(base, write_recipe(recipe_folder, **RUN), tmp_path / "out", 0.01)
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "# The base" not in card
    assert "license: llama3.1" in card
    assert "trained to a longer context in 4 steps" in card
    assert "in 4 steps" in build_package(tmp_path / "out", "owner/longer").card
    card = (tmp_path / "out/adapter/README.md").read_text(encoding="utf-8")
    assert "license: llama3.1" in card
    assert "as a LoRA adapter of rank 2" in card
    assert "Its factors are those that were trained" in card
    assert "energy" not in card


def test_what_is_published_names_no_folder_of_the_machine(trained: tuple[Path, str], tmp_path: Path) -> None:
    """A base that was fetched from a folder: the adapter's files are rewritten as those of the model are."""
    out = shutil.copytree(trained[0], tmp_path / "out")
    local = str(tmp_path / "models/sharded")
    for name in ("contextgraft.json", "adapter/contextgraft.json"):
        record = json.loads((out / name).read_text(encoding="utf-8"))
        record["base"]["source"] = local
        record["recipe"] = {"data": [{"kind": "pairs", "file": f"{local}/pairs.jsonl"}], "seed": 1}
        (out / name).write_text(json.dumps(record), encoding="utf-8")
    config = json.loads((out / "adapter/adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = local
    (out / "adapter/adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    package = build_package(out, "owner/longer")
    texts = {
        name: package.rewritten.get(name) or (out / name).read_bytes()
        for name in package.files
        if name.endswith((".json", ".jsonl"))
    }
    assert {"contextgraft.json", "adapter/contextgraft.json", "adapter/adapter_config.json"} <= set(texts)
    for name, text in texts.items():
        assert str(tmp_path).encode() not in text, name
        assert package.files[name] == len(text)
    record = json.loads(texts["adapter/contextgraft.json"])
    assert (record["base"]["name"], record["base"]["source"]) == ("sharded", None)
    recipe = json.loads(texts["contextgraft.json"])["recipe"]
    assert recipe == {"data": [{"kind": "pairs", "file": "pairs.jsonl"}], "seed": 1}
    assert json.loads(texts["adapter/adapter_config.json"])["base_model_name_or_path"] == "sharded"
