"""Tied, untied and stored output layers, and adapters that bring tokens: the graft has PeftModel's logits."""

import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec, TensorSelection
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.adapter.verify.graft import verify
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.cli.merge.outcome import recommended_adapter
from contextgraft.errors import CheckpointError, MismatchError, OtherRecommendation
from contextgraft.formats.model.tied_head import HeadState, head_state
from contextgraft.formats.tensor_names import TensorRole

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
IDS = torch.randint(3, 50, (1, 40), generator=torch.Generator().manual_seed(5))


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model.eval()(ids).logits.float()
    return out


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def vocabulary(folder: Path, tokens: list[str]) -> None:
    content = {"model": {"vocab": {token: row for row, token in enumerate(tokens)}}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 128}))


@pytest.fixture(scope="module", params=["tied", "copy", "untied"])
def target(request: pytest.FixtureRequest, toy: SimpleNamespace, tmp_path_factory: Any) -> Path:
    config = toy.config(tie_word_embeddings=request.param != "untied")
    weights = toy.weights(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(4)
    if request.param == "untied":
        weights[HEAD] = torch.randn(weights[EMBEDDING].shape, generator=generator)
    if request.param == "copy":
        weights[HEAD] = weights[EMBEDDING].clone()
    folder = Path(toy.write(tmp_path_factory.mktemp("heads") / request.param, weights, config, 2))
    vocabulary(folder, [f"t{row}" for row in range(50)])
    return folder


def trained(target: Path, out: Path, resized: int | None = None, *, auto: bool = True, **config: Any) -> Any:
    """An adapter as PEFT saves it, and the model that it was saved from."""
    torch.manual_seed(0)
    model = loaded(target)
    if resized:
        model.resize_token_embeddings(resized)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, LoraConfig(r=4, **{"target_modules": ["q_proj"], **config}))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        adapted.save_pretrained(str(out), **({} if auto else {"save_embedding_layers": False}))
    if resized:
        vocabulary(out, [f"t{row}" for row in range(resized)])
    return adapted


def grafted(target: Path, adapter: Path, out: Path) -> Path:
    """The graft at `out`, verified."""
    merge(
        plan_merge([ScaledAdapter(open_adapter(adapter))], target, keep_rope=True, replace_modules=True), out
    )
    failed = [check for check in verify(out, target=target, adapters=[adapter]) if not check.holds]
    assert not failed
    return out


KINDS: dict[str, dict[str, Any]] = {
    "input": {"target_modules": ["q_proj", "embed_tokens"]},
    "input alone": {"target_modules": ["q_proj", "embed_tokens"], "auto": False},
    "output": {"target_modules": ["q_proj", "lm_head"]},
    "both": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "saved input": {"modules_to_save": ["embed_tokens"]},
    "saved output": {"modules_to_save": ["lm_head"]},
    "tokens": {"trainable_token_indices": {"embed_tokens": [7, 9]}},
    "tokens, output": {
        "target_modules": ["q_proj", "lm_head"], "trainable_token_indices": {"embed_tokens": [7, 9]},
    },
    "dora output": {"target_modules": ["q_proj", "lm_head"], "use_dora": True},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_as_peft_has_them(target: Path, tmp_path: Path, kind: str) -> None:
    adapted = trained(target, tmp_path / "adapter", **KINDS[kind])
    graft = grafted(target, tmp_path / "adapter", tmp_path / "graft")
    torch.testing.assert_close(logits(loaded(graft)), logits(adapted), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["input", "output", "both"])
def test_stored_weights_that_are_the_targets_need_no_permission(
    target: Path, tmp_path: Path, kind: str
) -> None:
    adapted = trained(target, tmp_path / "adapter", **KINDS[kind])
    adapter = ScaledAdapter(open_adapter(tmp_path / "adapter"))
    merge(plan_merge([adapter], target, keep_rope=True), tmp_path / "graft")
    torch.testing.assert_close(logits(loaded(tmp_path / "graft")), logits(adapted), rtol=1e-5, atol=1e-4)
    allowed = grafted(target, tmp_path / "adapter", tmp_path / "allowed")
    for file in open_model(allowed).shards:
        assert (tmp_path / "graft" / file).read_bytes() == (allowed / file).read_bytes()
    other = shutil.copytree(target, tmp_path / "other")
    for file in open_model(other).shards:
        weights = {name: weight + (name == EMBEDDING) for name, weight in load_file(other / file).items()}
        save_file(weights, other / file, metadata={"format": "pt"})
    if kind != "output":
        with pytest.raises(MismatchError, match="would overwrite"):
            plan_merge([adapter], other, keep_rope=True)


@pytest.mark.parametrize(
    "pattern", [{"alpha_pattern": {"lm_head": 16}}, {"rank_pattern": {"embed_tokens": 6}}], ids=str
)
def test_tied_factors_have_the_scaling_of_each_end(
    target: Path, tmp_path: Path, pattern: dict[str, Any]
) -> None:
    if target.name == "untied":
        pytest.skip("nothing to tie")
    adapted = trained(target, tmp_path / "adapter", **KINDS["input"], ensure_weight_tying=True, **pattern)
    graft = grafted(target, tmp_path / "adapter", tmp_path / "graft")
    torch.testing.assert_close(logits(loaded(graft)), logits(adapted), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["input", "saved input"])
def test_adapters_that_tie_keep_the_graft_tied(target: Path, tmp_path: Path, kind: str) -> None:
    if target.name == "untied":
        pytest.skip("nothing to tie")
    adapted = trained(target, tmp_path / "adapter", **KINDS[kind], ensure_weight_tying=True)
    graft = grafted(target, tmp_path / "adapter", tmp_path / "graft")
    assert head_state(open_model(graft)) is head_state(open_model(target))
    torch.testing.assert_close(logits(loaded(graft)), logits(adapted), rtol=1e-5, atol=1e-4)


@pytest.fixture(scope="module")
def two_targets(toy: SimpleNamespace, tmp_path_factory: Any) -> dict[str, Path]:
    """The same model with tied embeddings, and with an output layer of its own."""
    root, config = tmp_path_factory.mktemp("two"), toy.config()
    weights = toy.weights(config, dtype=torch.float32)
    own = weights | {HEAD: weights[EMBEDDING].flip(0)}
    folders = {
        "tied": toy.write(root / "tied", weights, config),
        "untied": toy.write(root / "untied", own, {**config, "tie_word_embeddings": False}),
    }
    for folder in folders.values():
        vocabulary(folder, [f"t{row}" for row in range(50)])
    return folders


TIED_IN_PEFT: dict[str, dict[str, Any]] = {
    "input": {"target_modules": ["q_proj", "embed_tokens"]},
    "input of another rank": {
        "target_modules": ["q_proj", "embed_tokens"], "rank_pattern": {"embed_tokens": 6}
    },
    "output of another alpha": {
        "target_modules": ["q_proj", "embed_tokens"], "alpha_pattern": {"lm_head": 16}
    },
    "output": {"target_modules": ["q_proj", "lm_head"]},
    "saved": {"modules_to_save": ["embed_tokens"]},
}  # fmt: skip


@pytest.mark.parametrize("kind", TIED_IN_PEFT)
def test_ends_that_peft_ties_are_loaded_into_untied_ones_as_by_peft(
    two_targets: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    trained(two_targets["tied"], tmp_path / "adapter", **TIED_IN_PEFT[kind], ensure_weight_tying=True)
    adapted = PeftModel.from_pretrained(loaded(two_targets["untied"]), str(tmp_path / "adapter"))
    graft = grafted(two_targets["untied"], tmp_path / "adapter", tmp_path / "graft")
    torch.testing.assert_close(logits(loaded(graft)), logits(adapted), rtol=1e-5, atol=1e-4)


def test_an_ignored_end_is_named(two_targets: dict[str, Path], tmp_path: Path) -> None:
    trained(two_targets["tied"], tmp_path / "adapter", **TIED_IN_PEFT["input"], ensure_weight_tying=True)
    plan = plan_merge(
        [ScaledAdapter(open_adapter(tmp_path / "adapter"))], two_targets["untied"], keep_rope=True,
        replace_modules=True,
    )  # fmt: skip
    assert any("lm_head.weight are a copy" in line for line in plan.warnings)


def test_factors_of_the_output_become_those_of_tied_embeddings(
    two_targets: dict[str, Path], tmp_path: Path
) -> None:
    """Trained on untied embeddings with the request to tie: PEFT loads them into both ends."""
    trained(two_targets["untied"], tmp_path / "adapter", **TIED_IN_PEFT["output"], ensure_weight_tying=True)
    adapted = PeftModel.from_pretrained(loaded(two_targets["tied"]), str(tmp_path / "adapter"))
    graft = grafted(two_targets["tied"], tmp_path / "adapter", tmp_path / "graft")
    assert head_state(open_model(graft)).is_tied
    torch.testing.assert_close(logits(loaded(graft)), logits(adapted), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "received"),
    [
        ({"target_modules": ["embed_tokens", "lm_head"]}, "other values for 'lm_head.weight'"),
        (
            {"target_modules": ["embed_tokens", "lm_head"], "rank_pattern": {"embed_tokens": 6}},
            "other values for 'lm_head.weight'",
        ),
        (
            {"target_modules": ["q_proj", "lm_head"], "rank_pattern": {"embed_tokens": 6}},
            "rank 4, where its config gives 'model.embed_tokens.weight' rank 6",
        ),
        ({"target_modules": ["q_proj", "lm_head"], "use_dora": True}, "DoRA on the output layer alone"),
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, "other values for 'lm_head.weight'"),
    ],
    ids=["factors", "ranks of factors", "ranks", "DoRA", "saved"],
)
def test_different_ends_are_not_tied(
    two_targets: dict[str, Path], tmp_path: Path, changed: dict[str, Any], received: str
) -> None:
    """PEFT fails with other shapes, or loads one end's factors over the other's."""
    trained(two_targets["untied"], tmp_path / "adapter", **changed, ensure_weight_tying=True)
    refused(tmp_path / "adapter", two_targets["tied"], received)


def test_digests_of_earlier_versions_are_accepted_and_said_so(
    target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They do not cover how embeddings are merged."""
    if target.name == "untied":
        pytest.skip("nothing to tie")
    folder = tmp_path / "adapter"
    trained(target, folder, **KINDS["input"], ensure_weight_tying=True)
    adapter, graft = open_adapter(folder), grafted(target, folder, tmp_path / "graft")
    assert adapter.earlier_digest not in {None, adapter.digest}
    manifest = json.loads((graft / "contextgraft.json").read_text())
    file = tmp_path / "recommended.json"
    for digest, holds in {adapter.digest: True, adapter.earlier_digest: True, "another": False}.items():
        manifest["adapters"][0]["digest"] = digest
        (graft / "contextgraft.json").write_text(json.dumps(manifest))
        (check,) = (c for c in verify(graft, target=target, adapters=[folder]) if c.name == "adapters")
        assert check.holds is holds, check
        assert ("earlier version" in check.detail) == (digest == adapter.earlier_digest)
        content = {"rank": adapter.rank, "reason": None, "target": "t"}
        file.write_text(json.dumps({**content, "adapters": {str(adapter.rank): [digest]}}))
        if holds:
            assert recommended_adapter(file, [folder], target).path == folder
            assert ("earlier version" in capsys.readouterr().err) == (digest == adapter.earlier_digest)
        else:
            with pytest.raises(OtherRecommendation):
                recommended_adapter(file, [folder], target)


GROWN: dict[str, dict[str, Any]] = {
    "saved": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "factors": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "resized only": {},
}


@pytest.mark.parametrize("kind", GROWN)
def test_new_tokens_are_taken_along(target: Path, tmp_path: Path, kind: str) -> None:
    tune = Path(shutil.copytree(target, tmp_path / "tune"))
    adapted = trained(tune, tmp_path / "adapter", 53, **GROWN[kind])
    keys = list(load_file(tmp_path / "adapter/adapter_model.safetensors"))
    if not any("embed_tokens" in key for key in keys):
        pytest.skip("PEFT saves no embeddings here")
    assert not open_adapter(tmp_path / "adapter").renamed
    graft = grafted(tune, tmp_path / "adapter", tmp_path / "graft")
    model = loaded(graft)
    assert model.get_input_embeddings().weight.shape[0] == model.config.vocab_size == 53
    assert (graft / "tokenizer.json").read_bytes() == (tmp_path / "adapter/tokenizer.json").read_bytes()
    ids = torch.cat([IDS, torch.tensor([[50, 51, 52]])], dim=1)
    torch.testing.assert_close(logits(model, ids), logits(adapted, ids), rtol=1e-5, atol=1e-4)


def test_a_lost_chat_template_is_a_warning(target: Path, tmp_path: Path) -> None:
    tune, adapter = Path(shutil.copytree(target, tmp_path / "tune")), tmp_path / "adapter"
    trained(tune, adapter, 53, **GROWN["saved"])
    config = json.loads((tune / "tokenizer_config.json").read_text())
    (tune / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "{{ messages }}"}))
    lost = "its chat template is not in the tokenizer"
    assert any(lost in said for said in planned_warnings(adapter, tune))
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    assert not any(lost in said for said in planned_warnings(adapter, tune))


def planned_warnings(adapter: Path, target: Path) -> tuple[str, ...]:
    adapters = [ScaledAdapter(open_adapter(adapter))]
    return plan_merge(adapters, target, keep_rope=True, replace_modules=True).warnings


def refused(adapter: Path, target: Path, words: str) -> None:
    with pytest.raises(MismatchError, match=words):
        plan_merge([ScaledAdapter(open_adapter(adapter))], target, keep_rope=True, replace_modules=True)


def test_dora_of_the_output_with_trained_tokens(target: Path, tmp_path: Path) -> None:
    """PEFT trains and saves it for tied embeddings, but cannot run it: a graft of it has no reference."""
    config = {**KINDS["tokens, output"], "use_dora": True}
    adapted = trained(target, tmp_path / "adapter", **config)
    if head_state(open_model(target)).is_tied:
        with pytest.raises(AttributeError):
            logits(adapted)
        refused(tmp_path / "adapter", target, "DoRA on the output layer cannot be combined.*lm_head")
    else:
        graft = grafted(target, tmp_path / "adapter", tmp_path / "graft")
        torch.testing.assert_close(logits(loaded(graft)), logits(adapted), rtol=1e-5, atol=1e-4)


def test_tokens_are_never_dropped_silently(target: Path, tmp_path: Path) -> None:
    tune = Path(shutil.copytree(target, tmp_path / "tune"))
    adapter = tmp_path / "adapter"
    trained(tune, adapter, 53, **GROWN["saved"])
    shutil.copytree(adapter, tmp_path / "bare")
    (tmp_path / "bare/tokenizer.json").unlink()
    refused(tmp_path / "bare", tune, "53 rows.*copy the tokenizer")
    vocabulary(tune, [*(f"t{row}" for row in range(49)), "own"])
    refused(adapter, tune, "adds tokens .*t49.*no rows for own")
    trained(target, tmp_path / "factors", 53, auto=False, target_modules=["q_proj", "embed_tokens"])
    refused(tmp_path / "factors", target, "save_embedding_layers=True")


def test_a_donors_head_follows_its_embeddings(target: Path, toy: SimpleNamespace, tmp_path: Path) -> None:
    """Extracted with every embedding at full rank, the graft of the base has the donor's logits."""
    base, state = load_all(target), head_state(open_model(target))
    donor = toy.moved(base, 1)
    donor[EMBEDDING] = base[EMBEDDING] + 0.05 * torch.randn(
        base[EMBEDDING].shape, generator=torch.Generator().manual_seed(3)
    )
    if state is HeadState.UNTIED:
        donor[HEAD] = base[HEAD] + 0.05
    else:
        donor.pop(HEAD, None)
    config = json.loads((target / "config.json").read_text())
    toy.write(tmp_path / "donor", donor, config)
    vocabulary(tmp_path / "donor", [f"t{row}" for row in range(50)])
    embeddings = (TensorRole.INPUT, TensorRole.OUTPUT)
    models = open_pair(target, tmp_path / "donor", TensorSelection(embeddings=embeddings))
    extract(models, [RankSpec(64)], tmp_path / "a")
    graft = grafted(target, tmp_path / "a/r64", tmp_path / "graft")
    expected = logits(loaded(tmp_path / "donor"))
    torch.testing.assert_close(logits(loaded(graft)), expected, rtol=1e-3, atol=1e-3)


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


def test_a_donor_may_untie(toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config()
    base = toy.weights(config, dtype=torch.float32)
    donor = toy.moved(base, 1)
    donor[HEAD] = base[EMBEDDING] + 0.05 * torch.randn(base[EMBEDDING].shape)
    paths = (
        toy.write(tmp_path / "b", base, config),
        toy.write(tmp_path / "d", donor, {**config, "tie_word_embeddings": False}),
    )
    for path in paths:
        vocabulary(path, [f"t{row}" for row in range(50)])
    embeddings = (TensorRole.INPUT, TensorRole.OUTPUT)
    extract(open_pair(*paths, TensorSelection(embeddings=embeddings)), [RankSpec(64)], tmp_path / "a")
    graft = grafted(paths[0], tmp_path / "a/r64", tmp_path / "graft")
    torch.testing.assert_close(logits(loaded(graft)), logits(loaded(paths[1])), rtol=1e-3, atol=1e-3)


def test_contradictions_are_settled_or_refused(toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config()
    weights = toy.weights(config, dtype=torch.float32)
    plain = toy.write(tmp_path / "plain", weights, config)
    trained(plain, tmp_path / "adapter")
    other = toy.write(tmp_path / "other", weights | {HEAD: weights[EMBEDDING] + 1}, config)
    expected = logits(PeftModel.from_pretrained(loaded(other), str(tmp_path / "adapter")))
    graft = grafted(other, tmp_path / "adapter", tmp_path / "graft")
    assert json.loads((graft / "config.json").read_text())["tie_word_embeddings"] is False
    torch.testing.assert_close(logits(loaded(graft)), expected, rtol=1e-5, atol=1e-4)
    headless = toy.write(tmp_path / "headless", weights, {**config, "tie_word_embeddings": False})
    with pytest.raises(CheckpointError, match="has no output layer"):
        plan_merge([ScaledAdapter(open_adapter(tmp_path / "adapter"))], headless, keep_rope=True)
