"""What PEFT loads of an adapter's file, and what it adds of its own: its logits, or a refusal."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from contextgraft.adapter.analysis.adapter_summary import adapter_lines, describe_adapter
from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import MergePlan, ScaledAdapter, plan_merge
from contextgraft.errors import CheckpointError, MismatchError

ATTENTION = "model.layers.0.self_attn"
Q, K = f"{ATTENTION}.q_proj", f"{ATTENTION}.k_proj"
EMBEDDINGS, HEAD = "model.embed_tokens", "lm_head"
ALL_Q = tuple(f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1))
ONLY_Q = {"target_modules": ["q_proj"]}


@pytest.fixture(scope="module")
def folders(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A target with tied embeddings, and one without."""
    root = tmp_path_factory.mktemp("loaded")
    made = {}
    for name, tied in {"tied": True, "untied": False}.items():
        config = toy.config(tie_word_embeddings=tied, num_hidden_layers=2)
        weights = toy.weights(config, dtype=torch.float32)
        if not tied:
            weights["lm_head.weight"] = torch.randn(weights[f"{EMBEDDINGS}.weight"].shape)
        made[name] = Path(toy.write(root / name, weights, config))
    return made


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model.eval()(torch.arange(3, 30)[None]).logits.float()
    return out


def values(model: Any, module: str, seed: int = 0) -> torch.Tensor:
    shape = model.get_submodule(module).weight.shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 4


def factors(model: Any, *modules: str) -> dict[str, torch.Tensor]:
    made = {}
    for module in modules:
        rows, columns = model.get_submodule(module).weight.shape
        made[f"{module}.lora_A.weight"] = values(model, module)[:2, :].reshape(2, columns)
        made[f"{module}.lora_B.weight"] = values(model, module)[:, :2].reshape(rows, 2)
    return made


def written(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    folder.mkdir()
    named = {f"base_model.model.{key}": value.contiguous() for key, value in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def planned(adapter: Path, target: Path) -> MergePlan:
    return plan_merge([ScaledAdapter(open_adapter(adapter))], target, keep_rope=True, replace_modules=True)


def merged_as_peft(adapter: Path, target: Path, out: Path) -> MergePlan:
    """Merge, compare the logits with PEFT's, and return the plan."""
    plan = planned(adapter, target)
    merge(plan, out)
    expected = logits(PeftModel.from_pretrained(loaded(target), str(adapter)))
    torch.testing.assert_close(logits(loaded(out)), expected, rtol=1e-5, atol=1e-4)
    return plan


@pytest.mark.parametrize("config", [{}, {"target_modules": None}, {"target_parameters": ["up_proj.weight"]}])
def test_pefts_defaults_by_type_of_model_are_refused(
    config: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    """PEFT takes q_proj and v_proj of a Llama, and ignores k_proj."""
    model = loaded(folders["untied"])
    adapter = written(tmp_path / "adapter", factors(model, K, "model.layers.0.mlp.up_proj"), **config)
    with_k = PeftModel.from_pretrained(loaded(folders["untied"]), str(adapter))
    assert f"base_model.model.{K}.lora_A.default.weight" not in with_k.state_dict()
    with pytest.raises(CheckpointError, match=rf"which modules its factors belong to.*{K}.*target_modules"):
        open_adapter(adapter)


def test_parameters_need_no_target_modules(folders: dict[str, Path], tmp_path: Path) -> None:
    model = loaded(folders["untied"])
    modules = [f"model.layers.{layer}.mlp.up_proj" for layer in (0, 1)]
    adapter = written(tmp_path / "adapter", factors(model, *modules), target_parameters=["up_proj.weight"])
    plan = merged_as_peft(adapter, folders["untied"], tmp_path / "graft")
    assert plan.changed == tuple(f"{module}.weight" for module in modules)
    assert not plan.warnings


@pytest.mark.parametrize("start", [True, "gaussian", "eva", "orthogonal", "mica"])
def test_missing_factors_are_zero_and_a_warning(
    start: object, folders: dict[str, Path], tmp_path: Path
) -> None:
    model = loaded(folders["untied"])
    adapter = written(
        tmp_path / "adapter", factors(model, Q), target_modules=["q_proj", "embed_tokens"],
        init_lora_weights=start,
    )  # fmt: skip
    (said,) = merged_as_peft(adapter, folders["untied"], tmp_path / "graft").warnings
    assert "no factors of 2 modules" in said
    assert ALL_Q[1] in said
    assert EMBEDDINGS in said
    facts = describe_adapter(open_adapter(adapter))
    assert facts["without_factors"] == ["embed_tokens"]
    assert any(line.startswith("missing") and "embed_tokens" in line for line in adapter_lines(facts))


@pytest.mark.parametrize("start", [False, None])
def test_missing_factors_that_peft_draws_at_random_are_refused(
    start: object, folders: dict[str, Path], tmp_path: Path
) -> None:
    model = loaded(folders["untied"])
    adapter = written(tmp_path / "adapter", factors(model, Q), **ONLY_Q, init_lora_weights=start)
    twice = [logits(PeftModel.from_pretrained(loaded(folders["untied"]), str(adapter))) for _ in "ab"]
    assert not torch.equal(*twice)
    with pytest.raises(
        MismatchError, match=rf"random values.*factors of {ALL_Q[1]}.*init_lora_weights to true"
    ):
        planned(adapter, folders["untied"])
    complete = written(tmp_path / "complete", factors(model, *ALL_Q), **ONLY_Q, init_lora_weights=start)
    assert not merged_as_peft(complete, folders["untied"], tmp_path / "graft").warnings


def test_an_unknown_initialisation_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    model = loaded(folders["untied"])
    adapter = written(tmp_path / "adapter", factors(model, Q), **ONLY_Q, init_lora_weights="new")
    with pytest.raises(ValueError, match="Unknown initialization"):
        PeftModel.from_pretrained(model, str(adapter))
    with pytest.raises(CheckpointError, match=r"initialisation that is not known.*received new"):
        open_adapter(adapter)


@pytest.mark.parametrize(
    ("key", "loads"),
    [
        (f"{Q}.base_layer.weight", True), (f"{K}.weight", True), ("model.norm.weight", True),
        (f"{Q}.weight", False), (f"{K}.base_layer.weight", False), (f"{K}.modules_to_save.weight", False),
        (f"{ALL_Q[1]}.weight", False), (f"{ALL_Q[1]}.base_layer.weight", True),
    ],
)  # fmt: skip
def test_weights_are_loaded_by_their_names_with_the_adapter(
    key: str, loads: bool, folders: dict[str, Path], tmp_path: Path
) -> None:
    model = loaded(folders["untied"])
    module = key.removesuffix(".weight").removesuffix(".base_layer").removesuffix(".modules_to_save")
    stored = values(model, module, 3) if module != "model.norm" else torch.full((64,), 1.5)
    adapter = written(tmp_path / "adapter", {**factors(model, Q), key: stored}, **ONLY_Q)
    plan = merged_as_peft(adapter, folders["untied"], tmp_path / "graft")
    assert (f"{module}.weight" in plan.replaced) is loads
    assert any("does not load them" in said and said.endswith(key) for said in plan.warnings) is not loads
    shown = adapter_lines(describe_adapter(open_adapter(adapter)))
    assert any(line.startswith("ignored") and key in line for line in shown) is not loads


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])  # which comes last in the file
def test_a_saved_module_under_two_names_is_that_which_peft_loads(
    dtype: torch.dtype, folders: dict[str, Path], tmp_path: Path
) -> None:
    """As PEFT saves it if the vocabulary was resized."""
    model = loaded(folders["untied"])
    copy = {f"{HEAD}.modules_to_save.weight": values(model, HEAD, 4).to(dtype)}
    tensors = {**factors(model, *ALL_Q), f"{HEAD}.weight": values(model, HEAD, 3), **copy}
    adapter = written(tmp_path / "adapter", tensors, **ONLY_Q, modules_to_save=[HEAD])
    plan = merged_as_peft(adapter, folders["untied"], tmp_path / "graft")
    assert not any("PEFT ignores" in said for said in plan.warnings)


@pytest.mark.parametrize("stored", [(EMBEDDINGS,), (HEAD,), (EMBEDDINGS, HEAD)], ids="+".join)
@pytest.mark.parametrize("adapted", [None, HEAD, EMBEDDINGS])
def test_a_weight_of_tied_embeddings_is_both_ends(
    stored: tuple[str, ...], adapted: str | None, folders: dict[str, Path], tmp_path: Path
) -> None:
    model = loaded(folders["tied"])
    tensors = factors(model, *ALL_Q)
    if adapted == HEAD:
        tensors |= factors(model, HEAD)
    elif adapted == EMBEDDINGS:
        rows, columns = model.get_submodule(EMBEDDINGS).weight.shape
        tensors[f"{EMBEDDINGS}.lora_embedding_A"] = values(model, EMBEDDINGS).T[:2].reshape(2, rows)
        tensors[f"{EMBEDDINGS}.lora_embedding_B"] = values(model, EMBEDDINGS).T[:, :2].reshape(columns, 2)
    for end in stored:
        tensors[f"{end}.base_layer.weight" if end == adapted else f"{end}.weight"] = values(model, end, 3)
    targets = ["q_proj", *([adapted.rpartition(".")[2]] if adapted else [])]
    adapter = written(tmp_path / "adapter", tensors, target_modules=targets)
    merged_as_peft(adapter, folders["tied"], tmp_path / "graft")


def test_two_weights_of_tied_embeddings_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    model = loaded(folders["tied"])
    both = {f"{end}.weight": values(model, end, seed) for seed, end in enumerate((EMBEDDINGS, HEAD))}
    adapter = written(tmp_path / "adapter", {**factors(model, *ALL_Q), **both}, **ONLY_Q)
    with pytest.raises(MismatchError, match=r"different weights for the two ends.*modules_to_save"):
        planned(adapter, folders["tied"])


def test_the_edited_config_of_an_extracted_adapter_counts(
    toy: SimpleNamespace, folders: dict[str, Path], tmp_path: Path
) -> None:
    """PEFT knows nothing of the sidecar: it ignores the factors that the config does not select."""
    base = load_file(folders["untied"] / "model.safetensors")
    config = json.loads((folders["untied"] / "config.json").read_text())
    linear = {name: tensor for name, tensor in toy.moved(base, 3).items() if "_proj" in name}
    toy.write(tmp_path / "donor", {**base, **linear}, config)
    extract(open_pair(folders["untied"], tmp_path / "donor"), [RankSpec(2)], tmp_path / "out")
    settings = tmp_path / "out/r2/adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **ONLY_Q}))
    plan = merged_as_peft(tmp_path / "out/r2", folders["untied"], tmp_path / "graft")
    assert plan.changed == tuple(f"{module}.weight" for module in ALL_Q)
    assert any("does not select" in said for said in plan.warnings)


@pytest.mark.parametrize("key", ["weight", "token_adapter.base_layer.weight"])
def test_a_weight_and_rows_of_tokens_are_refused(key: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """The rows were dropped: PEFT's logits were others than the graft's."""
    model = loaded(folders["untied"])
    both = {
        f"{EMBEDDINGS}.token_adapter.trainable_tokens_delta": values(model, EMBEDDINGS)[:2],
        f"{EMBEDDINGS}.{key}": values(model, EMBEDDINGS, 3),
    }
    adapter = written(
        tmp_path / "adapter", {**factors(model, *ALL_Q), **both}, **ONLY_Q, trainable_token_indices=[3, 5]
    )
    with pytest.raises(CheckpointError, match=r"embed_tokens.weight' twice.*a weight or rows of tokens"):
        open_adapter(adapter)


TOKENS = ".token_adapter.trainable_tokens_delta"
ROWS = {"trainable_token_indices": [3, 5]}
BOTH_ENDS = {"trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [3, 5]}}


def rows(model: Any, *ends: str, seed: int = 5) -> dict[str, torch.Tensor]:
    return {f"{end}{TOKENS}": values(model, end, seed + place)[:2] for place, end in enumerate(ends)}


@pytest.mark.parametrize(
    ("ends", "indices"),
    [
        ((), [3, 5]), ((), {"embed_tokens": [3, 5]}), ((), []),
        ((HEAD,), BOTH_ENDS["trainable_token_indices"]),
        ((EMBEDDINGS,), {"embed_tokens": [3, 5], "lm_head": [3, 6]}),
    ],
)  # fmt: skip
def test_tokens_that_the_config_names_without_their_rows_are_refused(
    ends: tuple[str, ...], indices: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    """They were merged without a word; PEFT does not load them."""
    model = loaded(folders["untied"])
    tensors = {**factors(model, *ALL_Q), **rows(model, *ends)}
    adapter = written(tmp_path / "adapter", tensors, **ONLY_Q, trainable_token_indices=indices)
    with pytest.raises(KeyError, match="trainable_tokens_delta"):
        PeftModel.from_pretrained(model, str(adapter))
    with pytest.raises(CheckpointError, match=r"lacks the rows of tokens.*trainable_token_indices.*none"):
        open_adapter(adapter)


@pytest.mark.parametrize(("ends", "config"), [((EMBEDDINGS,), {}), ((EMBEDDINGS, HEAD), ROWS)])
def test_rows_of_tokens_that_the_config_does_not_name_are_refused(
    ends: tuple[str, ...], config: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    """PEFT ignores them: of both ends, the rows of the output layer were merged."""
    model = loaded(folders["untied"])
    adapter = written(
        tmp_path / "adapter", {**factors(model, *ALL_Q), **rows(model, *ends)}, **ONLY_Q, **config
    )
    adapted = PeftModel.from_pretrained(model, str(adapter))
    assert not any(f"{ends[-1]}.token_adapter" in name for name in adapted.state_dict())
    with pytest.raises(CheckpointError, match=rf"rows of '{ends[-1]}', which the config does not name"):
        open_adapter(adapter)


def test_rows_of_both_ends_are_one_where_the_ends_are_tied(folders: dict[str, Path], tmp_path: Path) -> None:
    """PEFT takes the input's for both; the graft had those of each end."""
    model = loaded(folders["untied"])
    both = {**factors(model, *ALL_Q), **rows(model, EMBEDDINGS, HEAD)}
    adapter = written(tmp_path / "both", both, **ONLY_Q, **BOTH_ENDS)
    merged_as_peft(adapter, folders["untied"], tmp_path / "untied")
    with pytest.raises(MismatchError, match=r"different rows of the same tokens for the two ends"):
        planned(adapter, folders["tied"])
    one = {**factors(model, *ALL_Q), **rows(model, EMBEDDINGS)}
    adapter = written(tmp_path / "one", one, **ONLY_Q, **BOTH_ENDS)
    merged_as_peft(adapter, folders["tied"], tmp_path / "tied")
    with pytest.raises(KeyError, match=r"lm_head\.token_adapter"):
        PeftModel.from_pretrained(model, str(adapter))
    with pytest.raises(MismatchError, match=r"trained on tied embeddings and has no rows of 'lm_head'"):
        planned(adapter, folders["untied"])
