"""README.md of adapters and grafts: what its code and commands do, and that the folder stays what it was."""

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from contextgraft.adapter.analysis.server_commands import adapter_commands, graft_commands
from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.adapter.verify.graft import verify


@pytest.fixture(scope="module")
def made(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, donor (linear weights only, so that PEFT applies all), target with a card, adapter and graft."""
    root = tmp_path_factory.mktemp("cards")
    base = toy.weights(toy.config(), dtype=torch.float32)
    yarn = {"rope_type": "yarn", "rope_theta": 4e4, "factor": 8.0, "original_max_position_embeddings": 128}
    longer = toy.config(rope_parameters=yarn, max_position_embeddings=1024)
    toy.write(root / "base", base, toy.config())
    toy.write(root / "donor", toy.moved(base, 1, norms=False), longer)
    toy.write(root / "target", base, toy.config())
    (root / "target/README.md").write_text("---\nlicense: llama3\n---\nThe target's own card\n")
    extract(open_pair(root / "base", root / "donor"), [RankSpec(12)], root)
    merge(plan_merge([ScaledAdapter(open_adapter(root / "r12"), 1.0)], root / "target"), root / "graft")
    return root


def blocks(folder: Path, language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)\n```$", (folder / "README.md").read_text(), re.S | re.M)
    return [code for written, code in found if written == language]


def run(code: str, folder: Path) -> Any:
    values: dict[str, Any] = {}
    exec(code.replace("OWNER/NAME", str(folder)), values)
    return values["model"].eval()


def test_the_code_of_an_adapters_card_computes_what_the_graft_does(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target has the base's weights, so that PEFT on the base is the graft."""
    monkeypatch.chdir(made)  # the card names the base as its config does
    (code,) = blocks(made / "r12", "python")
    (loading,) = blocks(made / "graft", "python")
    graft = run(loading.replace("tokenizer =", "# tokenizer ="), made / "graft")
    ids = torch.randint(50, (1, 300), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs, ours = run(code, made / "r12")(ids).logits, graft(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(made / "base").eval()(ids).logits
    assert (theirs - ours).abs().max() < 1e-3 * (plain - ours).abs().max()


def test_commands_of_the_cards_are_those_that_inspect_prints(made: Path) -> None:
    shown = [command.command for command in adapter_commands(open_adapter(made / "r12"), Path("adapter"))]
    assert set(filter(None, shown)) < set("\n".join(blocks(made / "r12")).splitlines())
    shown = [command.command for command in graft_commands(Path("graft"), 1024)]
    assert set(shown) < set("\n".join(blocks(made / "graft")).splitlines())
    for line in "\n".join(blocks(made / "r12") + blocks(made / "graft")).splitlines():
        assert line.startswith("#") or shlex.split(line)[0] in {
            "contextgraft", "hf", "vllm", "llama-server", "sglang",
        }  # fmt: skip


def test_a_graft_has_a_card_of_its_own_which_may_be_changed(made: Path, tmp_path: Path) -> None:
    card = ModelCard((made / "graft/README.md").read_text())
    assert card.data.get("license") == "llama3"
    assert "Built with Meta Llama 3" in card.text
    assert card.text.strip().startswith("# Llama 3: target")
    assert "The target's own card" not in card.text
    manifest = json.loads((made / "graft/contextgraft.json").read_text())
    assert "README.md" in manifest["left_out"]
    assert "README.md" not in manifest["files"]
    (made / "graft/README.md").write_text("changed")
    try:
        checks = verify(made / "graft", target=made / "target", adapters=[made / "r12"])
        assert all(check.holds for check in checks), checks
    finally:
        (made / "graft/README.md").write_text(str(card))


def test_a_card_promises_no_length_that_was_not_measured(made: Path) -> None:
    for folder in ("r12", "graft"):
        card = ModelCard((made / folder / "README.md").read_text())
        assert "Nothing was measured for this card" in card.text
        assert card.data.get("measured_context_length") is None
