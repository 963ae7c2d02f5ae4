"""Targets whose output layer is not that of base and donor: untied ones, and classes without any."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec, TensorSelection
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.adapter.verify.graft import verify
from contextgraft.errors import MismatchError
from contextgraft.formats.tensor_names import TensorRole

EMBEDDING, HEAD, SCORE = "model.embed_tokens.weight", "lm_head.weight", "score.weight"
IDS = torch.randint(3, 50, (1, 40), generator=torch.Generator().manual_seed(5))


def written(toy: SimpleNamespace, folder: Path, weights: dict[str, Any], config: dict[str, Any]) -> Path:
    """A model without a tokenizer."""
    out = Path(toy.write(folder, weights, config))
    (out / "tokenizer.json").unlink()
    return out


def donor_of(toy: SimpleNamespace, folder: Path, *, tied: bool) -> tuple[Path, Path]:
    """A base and a donor whose embeddings moved, and an adapter of full rank with the input embeddings."""
    config = toy.config(tie_word_embeddings=tied)
    sides = [toy.weights(config, seed=seed, dtype=torch.float32) for seed in (0, 1)]
    for weights in sides if not tied else ():
        weights[HEAD] = sides[0][EMBEDDING] + 1
    base, donor = (written(toy, folder / n, w, config) for n, w in zip(("base", "donor"), sides, strict=True))
    chosen = TensorSelection(embeddings=(TensorRole.INPUT,))
    extract(open_pair(base, donor, chosen), [RankSpec(64)], folder / "a")
    return base, donor


def planned(adapter: Path, target: Path) -> Any:
    return plan_merge([ScaledAdapter(open_adapter(adapter))], target)


def verified(plan: Any, target: Path, adapter: Path, out: Path) -> dict[str, torch.Tensor]:
    """The tensors of the graft."""
    merge(plan, out)
    assert all(check.holds for check in verify(out, target=target, adapters=[adapter]))
    tensors: dict[str, torch.Tensor] = load_file(out / "model.safetensors")
    return tensors


def test_a_change_of_tied_embeddings_moves_both_ends_of_an_untied_target(
    toy: SimpleNamespace, tmp_path: Path
) -> None:
    base, donor = (load_file(p / "model.safetensors") for p in donor_of(toy, tmp_path, tied=True))
    config = toy.config(tie_word_embeddings=False)
    own = toy.weights(config, seed=2, dtype=torch.float32)
    own[HEAD] = own[EMBEDDING] + torch.randn(own[EMBEDDING].shape)
    target = written(toy, tmp_path / "tune", own, config)
    plan = planned(tmp_path / "a/r64", target)
    assert any("its output layer is its own" in line for line in plan.warnings)
    graft = verified(plan, target, tmp_path / "a/r64", tmp_path / "graft")
    moved = donor[EMBEDDING] - base[EMBEDDING]
    for name in (EMBEDDING, HEAD):
        torch.testing.assert_close(graft[name], own[name] + moved, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", ["LlamaForSequenceClassification", "LlamaForRewardModel"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_classifier_gains_no_output_layer(
    toy: SimpleNamespace, tmp_path: Path, architecture: str, tied: bool
) -> None:
    base, donor = donor_of(toy, tmp_path, tied=tied)
    config = {**toy.config(tie_word_embeddings=tied), "architectures": [architecture]}
    score = {SCORE: torch.randn(2, config["hidden_size"])}
    body = {name: tensor for name, tensor in load_file(base / "model.safetensors").items() if name != HEAD}
    target = written(toy, tmp_path / "classifier", {**body, **score}, config)
    plan = planned(tmp_path / "a/r64", target)
    assert not plan.warnings
    graft = verified(plan, target, tmp_path / "a/r64", tmp_path / "graft")
    assert set(graft) == {*body, *score}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "graft", pad_token_id=0)
    hidden = AutoModelForCausalLM.from_pretrained(donor).model.eval()(IDS).last_hidden_state
    expected = (hidden @ score[SCORE].T)[:, -1]
    torch.testing.assert_close(model.eval()(IDS).logits, expected, rtol=1e-2, atol=1e-2)


def test_a_bare_model_gains_no_output_layer(toy: SimpleNamespace, tmp_path: Path) -> None:
    base, _ = donor_of(toy, tmp_path, tied=False)
    body = {name: tensor for name, tensor in load_file(base / "model.safetensors").items() if name != HEAD}
    config = {**toy.config(tie_word_embeddings=False), "architectures": ["LlamaModel"]}
    target = written(toy, tmp_path / "bare", body, config)
    graft = verified(planned(tmp_path / "a/r64", target), target, tmp_path / "a/r64", tmp_path / "graft")
    assert set(graft) == set(body)


@pytest.mark.parametrize("tied", [True, False])
def test_models_without_a_head_say_nothing_of_untied_output_layers(
    toy: SimpleNamespace, tmp_path: Path, tied: bool
) -> None:
    config = {**toy.config(tie_word_embeddings=tied), "architectures": ["LlamaModel"]}
    sides = [toy.weights(config, seed=seed, dtype=torch.float32) for seed in (0, 1)]
    base, donor = (written(toy, tmp_path / n, w, config) for n, w in zip("bd", sides, strict=True))
    chosen = TensorSelection(embeddings=(TensorRole.INPUT,))
    extract(open_pair(base, donor, chosen), [RankSpec(64)], tmp_path / "a")
    own = {**sides[0], HEAD: sides[0][EMBEDDING] + 1}
    target = written(toy, tmp_path / "tune", own, toy.config(tie_word_embeddings=False))
    graft = verified(planned(tmp_path / "a/r64", target), target, tmp_path / "a/r64", tmp_path / "graft")
    moved = sides[1][EMBEDDING] - sides[0][EMBEDDING]
    torch.testing.assert_close(graft[EMBEDDING], own[EMBEDDING] + moved, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(graft[HEAD], own[HEAD] + (moved if tied else 0), rtol=1e-3, atol=1e-3)


def test_a_class_without_an_output_layer_gains_none(toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config(tie_word_embeddings=False)
    weights = toy.weights(config, dtype=torch.float32)
    complete = written(toy, tmp_path / "tune", {**weights, HEAD: weights[EMBEDDING] + 1}, config)
    config_of_adapter = LoraConfig(target_modules=["q_proj", "lm_head"])
    get_peft_model(AutoModelForCausalLM.from_pretrained(complete), config_of_adapter).save_pretrained(
        str(tmp_path / "adapter")
    )
    classifier = {**config, "architectures": ["LlamaForSequenceClassification"]}
    written(toy, tmp_path / "classifier", {**weights, "score.weight": torch.ones(2, 32)}, classifier)
    with pytest.raises(
        MismatchError, match=r"no output layer \(its class is LlamaForSequenceClassification\)"
    ):
        plan_merge(
            [ScaledAdapter(open_adapter(tmp_path / "adapter"))], tmp_path / "classifier", keep_rope=True
        )
