"""Where a model came from: the same in config, sidecar and card, and never a path of this machine."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.adapter.verify.graft import verify
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import InputError
from contextgraft.formats.hub_source import peft_base
from contextgraft.formats.sidecar import origin
from contextgraft.sources.fetch import fetch
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.hub.package import build_package
from contextgraft.sources.hub.upload import upload

if TYPE_CHECKING:
    from tests.hub.server import HubServer

CARD = b"---\nlicense: other\nlicense_name: llama3\nlicense_link: LICENSE\n---\n# Base\n"
LICENCE = {
    "license": "other", "license_name": "llama3",
    "license_link": "https://huggingface.co/owner/base/blob/main/LICENSE",
}  # fmt: skip
LOAD = """
import sys, torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained("owner/base", dtype=torch.float32)
models = {
    "auto": AutoModelForCausalLM.from_pretrained("owner/adapter", dtype=torch.float32),
    "auto peft": AutoPeftModelForCausalLM.from_pretrained("owner/adapter"),
    "peft": PeftModel.from_pretrained(base, "owner/adapter"),
}
ids = torch.arange(3, 40)[None]
torch.save({name: model.eval().float()(ids).logits for name, model in models.items()}, sys.argv[1])
"""


@pytest.fixture
def owner(server: "HubServer", hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return Hub(api=HfApi(endpoint=server.url, token=server.token), progress=hub.progress, retry_delays=())


@pytest.fixture
def made(server: "HubServer", owner: Hub, toy: SimpleNamespace, tmp_path: Path) -> SimpleNamespace:
    """A base fetched from the hub, and an adapter and a graft that were made with it."""
    weights = toy.weights(toy.config())
    files = toy.contents(toy.write(tmp_path / "upload", weights, toy.config()))
    del files["tokenizer.json"], files["tokenizer_config.json"]
    commit = server.add("owner/base", files | {"README.md": CARD})
    fetch("hf:owner/base", tmp_path / "base", hub=owner)
    longer = toy.config(rope_theta=4e4, max_position_embeddings=1024)
    donor = toy.write(tmp_path / "donor", toy.moved(weights, 1, norms=False), longer)
    extract(open_pair(tmp_path / "base", donor), [RankSpec(4)], tmp_path / "adapters")
    adapter = tmp_path / "adapters/r4"
    local = toy.config(_name_or_path=str(tmp_path / "secret/checkpoint-7"))
    tune = toy.write(tmp_path / "tune", toy.moved(weights, 2, 0.005), local)
    fetch(str(tune), tmp_path / "target")
    merge(plan_merge([ScaledAdapter(open_adapter(adapter))], tmp_path / "target"), tmp_path / "graft")
    return SimpleNamespace(
        adapter=adapter, base=tmp_path / "base", commit=commit, graft=tmp_path / "graft", root=tmp_path
    )


def test_config_sidecar_and_card_agree_on_base_commit_and_licence(made: SimpleNamespace) -> None:
    config = json.loads((made.adapter / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/base", made.commit)
    base = json.loads((made.adapter / "contextgraft.json").read_text())["base"]
    assert (base["source"], base["revision"], base["license"]) == ("hf:owner/base", made.commit, LICENCE)
    card = vars(ModelCard(build_package(made.adapter, "owner/adapter").card).data)
    assert card["base_model"] == "owner/base"
    assert {key: card[key] for key in LICENCE} == LICENCE


@pytest.mark.slow
def test_transformers_and_peft_load_the_adapter_from_the_hub(
    made: SimpleNamespace, owner: Hub, environment: dict[str, str], tmp_path: Path
) -> None:
    upload(build_package(made.adapter, "owner/adapter"), owner)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "logits")],
        env=environment | {"HF_TOKEN": str(owner.api.token)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    local = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(made.base, dtype=torch.float32), made.adapter
    ).eval()
    with torch.no_grad():
        want = local(torch.arange(3, 40)[None]).logits.float()
    for name, logits in torch.load(tmp_path / "logits").items():
        assert float((logits - want).abs().max()) < 1e-4, name


@pytest.mark.parametrize("what", ["adapter", "graft"])
def test_no_path_of_this_machine_is_published(
    made: SimpleNamespace, server: "HubServer", owner: Hub, what: str
) -> None:
    sent = upload(build_package(getattr(made, what), f"owner/{what}"), owner)
    for name, data in server.repos[f"owner/{what}"].commits[sent.commit].items():
        assert str(made.root).encode() not in data, name


def test_a_graft_without_its_paths_still_verifies(made: SimpleNamespace, owner: Hub, tmp_path: Path) -> None:
    upload(build_package(made.graft, "owner/graft"), owner)
    fetch("hf:owner/graft", tmp_path / "back", hub=owner)
    checks = verify(tmp_path / "back")
    assert all(check.holds for check in checks), checks
    assert json.loads((tmp_path / "back/config.json").read_text())["_name_or_path"] == "checkpoint-7"


def test_an_older_adapter_is_published_with_the_name_of_its_base(made: SimpleNamespace) -> None:
    path = made.adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"base_model_name_or_path": "/home/me/base", "revision": None}))
    package = build_package(made.adapter, "owner/adapter")
    published = json.loads(package.rewritten["adapter_config.json"])
    assert published["base_model_name_or_path"] == "owner/base"
    assert package.files["adapter_config.json"] == len(package.rewritten["adapter_config.json"])


@pytest.mark.parametrize("named", ["/home/me/base", "other/base", "[./x]"])
def test_a_card_with_another_base_is_refused(made: SimpleNamespace, named: str) -> None:
    (made.adapter / "README.md").write_text(f"---\nbase_model: {named}\n---\n")
    with pytest.raises(InputError, match=r"README\.md: the model card names another base_model.*owner/base"):
        build_package(made.adapter, "owner/adapter")


def test_a_folder_in_the_cache_of_the_hub_is_known(toy: SimpleNamespace, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--my--base/snapshots" / ("a" * 40)
    toy.write(snapshot, toy.weights(toy.config()), toy.config())
    (snapshot / "README.md").write_bytes(CARD)
    assert origin(open_model(snapshot)) == {
        "name": "my--base", "source": "hf:owner/my--base", "revision": "a" * 40,
        "license": {"license": "other", "license_name": "llama3"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (
            {"name": "b", "source": "hf:o/b@main", "revision": "c"},
            {"base_model_name_or_path": "o/b", "revision": "c"},
        ),
        ({"name": "b", "source": "/home/me/b", "revision": None}, {"base_model_name_or_path": "b"}),
        ({"name": "b", "source": "../b", "revision": None}, {"base_model_name_or_path": "b"}),
        ({"name": "b", "source": "demo:b", "revision": None}, {"base_model_name_or_path": "demo:b"}),
        ({"name": "b", "source": None, "revision": None}, {"base_model_name_or_path": "b"}),
    ],
)
def test_the_base_as_peft_names_it(base: dict[str, Any], expected: dict[str, Any]) -> None:
    assert peft_base(base) == expected
