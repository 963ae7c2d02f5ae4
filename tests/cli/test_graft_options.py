"""The options that `merge` and `evaluate --adapter` share: a graft in memory is the written one with each."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.in_memory.graft import prepare_graft
from contextgraft.checkpoint.atomic import json_text
from contextgraft.checkpoint.digest import tensor_digests
from contextgraft.cli.commands import evaluate, merge
from contextgraft.cli.evaluate.grafts import GraftVariant
from contextgraft.cli.evaluate.outputs import graft_outputs
from contextgraft.errors import CheckpointError, ContextgraftError, InputError, MismatchError

Q = "base_model.model.model.layers.0.self_attn.q_proj"
OPTIONS = {
    "none": [],
    "kept": ["--keep-rope"],
    "stochastic": ["--rounding", "stochastic"],
    "of a model": ["--rope-from", "other"],
    "of an adapter": ["--rope-from", "from-other/r2"],
    "all": ["--rope-from", "other", "--rounding", "stochastic", "--replace-modules"],
}


@pytest.fixture(scope="module")
def root(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target, adapters of two donors, and `saved`: an adapter of PEFT that replaces a norm."""
    path: Path = tmp_path_factory.mktemp("options")
    config = toy.config(model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=16)
    base = toy.weights(config)
    toy.write(path / "base", base, config)
    toy.write(path / "target", toy.moved(base, 9), config)
    for seed, (donor, window) in enumerate({"donor": 16, "other": None}.items(), 1):
        longer = {**config, "rope_theta": seed * 4e4, "sliding_window": window}
        toy.write(path / donor, toy.moved(base, seed), {**longer, "max_position_embeddings": 256})
        extract(open_pair(path / "base", path / donor), [RankSpec(2)], path / f"from-{donor}")
    (path / "saved").mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"],
                "modules_to_save": ["norm"]}  # fmt: skip
    (path / "saved/adapter_config.json").write_text(json.dumps(settings))
    tensors = {
        f"{Q}.lora_A.weight": torch.ones(2, 64), f"{Q}.lora_B.weight": torch.full((64, 2), 0.01),
        "base_model.model.model.norm.weight": torch.full((64,), 1.5),
    }  # fmt: skip
    save_file(tensors, path / "saved/adapter_model.safetensors")
    return path


def variants(root: Path, words: list[str], folder: Path) -> list[GraftVariant]:
    """The grafts in memory that `evaluate` makes with these words."""
    context = evaluate.command.make_context("evaluate", [str(root / "target"), *words])
    outputs = graft_outputs(context.params)
    with evaluate.grafts_of(context.params, evaluate.adapter_folders(context.params), outputs) as made:
        return list(made)


def in_root(root: Path, words: list[str]) -> list[str]:
    return [str(root / word) if (root / word).exists() else word for word in words]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("adapter", ["from-donor/r2", "saved"])
def test_a_graft_in_memory_is_the_written_one(name: str, adapter: str, root: Path, tmp_path: Path) -> None:
    words = ["--adapter", str(root / adapter), *in_root(root, OPTIONS[name])]
    out = tmp_path / "graft"
    done = CliRunner().invoke(merge.command, [*words, "--target", str(root / "target"), "--out", str(out)])
    (variant,) = variants(root, words, tmp_path)
    if done.exit_code != 0:  # without a record of RoPE, or without permission to replace
        assert isinstance(done.exception, ContextgraftError)
        with pytest.raises(type(done.exception)) as caught:
            variant.plan(root / "target")
        assert str(caught.value) == str(done.exception)
        return
    plan = variant.plan(root / "target")
    graft = prepare_graft(plan, tmp_path / "memory", tensor_digests(plan.target), 1)
    assert json_text(graft.manifest) == (out / "contextgraft.json").read_text()
    for file in graft.folder.iterdir():
        assert file.read_bytes() == (out / file.name).read_bytes(), file.name


def test_what_the_options_change(root: Path, tmp_path: Path) -> None:
    def plan(*words: str, of: int = 0) -> Any:
        given = ["--adapter", str(root / "from-donor/r2"), *in_root(root, list(words))]
        return variants(root, given, tmp_path)[of].plan(root / "target")

    assert plan().rope.theta == 4e4
    assert plan("--keep-rope").config == plan().target.config
    other = plan("--rope-from", "other")
    assert (other.rope.theta, other.config["sliding_window"]) == (8e4, None)
    for control in ("theta_only", "random"):
        made = plan("--rope-from", "other", "--rounding", "stochastic", "--control", control, of=1)
        assert (made.config, made.rounding) == (other.config, "stochastic")
    old = plan("--rope-from", "other", "--control", "old_theta", of=1)
    assert (old.rope.theta, old.config["sliding_window"]) == (1e4, None)


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        (["--keep-rope", "--control", "theta_only"], click.UsageError, "--control and --keep-rope"),
        (["--keep-rope", "--rope-from", "other"], click.UsageError, "--keep-rope and --rope-from"),
        (["--rope-from", "nowhere"], CheckpointError, "nowhere"),
        (["--rope-from", "saved"], InputError, "has no record of the RoPE settings"),
    ],
)
def test_options_that_cannot_be_used(
    words: list[str], error: type[Exception], text: str, root: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=text):
        variants(root, ["--adapter", str(root / "from-donor/r2"), *in_root(root, words)], tmp_path)


def test_options_of_grafts_need_an_adapter(root: Path, tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="need an --adapter"):
        variants(root, ["--keep-rope"], tmp_path)


def test_replacing_needs_permission(root: Path, tmp_path: Path) -> None:
    (variant,) = variants(root, ["--adapter", str(root / "saved"), "--keep-rope"], tmp_path)
    with pytest.raises(MismatchError, match=r"would overwrite model\.norm\.weight"):
        variant.plan(root / "target")
