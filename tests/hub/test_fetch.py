"""What arrives from the hub when nothing goes wrong: the needed files, verified, pinned, on record."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from huggingface_hub import HfApi

from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.checkpoint.digest import model_digest
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import CheckpointError, InputError, OutputError, PickleRefused
from contextgraft.formats.sidecar import identity
from contextgraft.sources.conversion import Conversion
from contextgraft.sources.fetch import fetch
from contextgraft.sources.hub.client import Hub

if TYPE_CHECKING:
    from tests.hub.server import HubServer

NEEDED = {
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors.index.json",
    "chat_template.jinja",
    "additional_chat_templates/tools.jinja",
    "LICENSE",
    *(f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)),
}
SOURCE = "hf:owner/tiny"


def test_only_the_needed_files_arrive_and_the_record_pins_the_commit(
    server: "HubServer", hub: Hub, model: dict[str, bytes], toy: SimpleNamespace, tmp_path: Path
) -> None:
    commit = server.add("owner/tiny", model)
    out = tmp_path / "out"
    record = fetch(SOURCE, out, hub=hub)
    arrived = toy.contents(out)
    assert json.loads(arrived.pop("contextgraft.json")) == record
    assert arrived == {name: model[name] for name in NEEDED}
    assert {key: record[key] for key in ("kind", "name", "source", "revision")} == {
        "kind": "source", "name": "tiny", "source": SOURCE, "revision": commit,
    }  # fmt: skip
    assert record["digest"] == model_digest(open_model(out))
    assert record["files"].keys() == NEEDED
    assert "sha256" in record["files"]["model-00001-of-00003.safetensors"]
    assert "git_sha1" in record["files"]["config.json"]
    assert identity(open_model(out))["revision"] == commit
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_the_plan_is_printed_before_the_weights_are_requested(
    server: "HubServer", hub: Hub, model: dict[str, bytes], heard: Any, tmp_path: Path
) -> None:
    server.add("owner/tiny", model)
    fetch(SOURCE, tmp_path / "out", hub=hub)
    (plan,) = heard.plans
    assert {file.name for file in plan.files} == NEEDED
    assert plan.bytes == sum(len(model[name]) for name in NEEDED)
    assert (plan.present, plan.free > 0) == (0, True)
    assert heard.lines == []


def test_a_revision_may_be_a_branch_with_a_slash_or_a_commit(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path
) -> None:
    old = server.add("owner/tiny", model)
    new = server.update("owner/tiny", model | {"LICENSE": b"mine"}, "refs/pr/1")
    assert fetch(f"{SOURCE}@refs/pr/1", tmp_path / "branch", hub=hub)["revision"] == new
    assert fetch(f"{SOURCE}@{old}", tmp_path / "commit", hub=hub)["revision"] == old
    assert (tmp_path / "branch/LICENSE").read_bytes() == b"mine"
    assert (tmp_path / "commit/LICENSE").read_bytes() == b"yours"


def test_the_token_opens_a_private_repository_and_never_reaches_the_store(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path
) -> None:
    server.add("owner/tiny", model, private=True)
    known = Hub(api=HfApi(endpoint=server.url, token=server.token), retry_delays=())
    fetch(SOURCE, tmp_path / "out", hub=known)
    assert {each.authorization for each in server.requests("/lfs/")} == {None}
    assert {each.authorization for each in server.requests("/resolve/")} == {f"Bearer {server.token}"}
    assert server.token not in (tmp_path / "out/contextgraft.json").read_text()


def test_one_file_of_weights_is_enough(
    server: "HubServer", hub: Hub, toy: SimpleNamespace, tmp_path: Path
) -> None:
    folder = toy.write(tmp_path / "single", toy.weights(toy.config()), toy.config())
    server.add("owner/tiny", toy.contents(folder))
    record = fetch(SOURCE, tmp_path / "out", hub=hub)
    assert record["digest"] == model_digest(open_model(folder))


def test_an_adapter_of_peft_is_fetched_with_its_record(
    server: "HubServer", hub: Hub, peft_adapter: dict[str, bytes], tmp_path: Path
) -> None:
    commit = server.add("owner/lora", peft_adapter | {"adapter_model.bin": b"\x80\x04", "README.md": b"-"})
    record = fetch("hf:owner/lora", tmp_path / "out", hub=hub)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *peft_adapter,
        "contextgraft.source.json",
    }
    assert json.loads((tmp_path / "out/contextgraft.source.json").read_text()) == record
    assert (record["revision"], record["digest"]) == (commit, None)
    assert open_adapter(tmp_path / "out").rank == 2


def test_what_contextgraft_made_keeps_its_own_sidecar_which_now_knows_its_source(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path
) -> None:
    own = {"kind": "trained", "format": 2, "name": "mine", "steps": 3}
    commit = server.add("owner/tiny", model | {"contextgraft.json": json.dumps(own).encode()})
    fetch(SOURCE, tmp_path / "out", hub=hub)
    recorded = json.loads((tmp_path / "out/contextgraft.json").read_text())
    assert recorded == own | {"source": SOURCE, "revision": commit}


def test_a_graft_is_exactly_what_its_manifest_lists(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path
) -> None:
    listed: dict[str, Any] = {name: {} for name in [*NEEDED, "extra.txt"]}
    own = {"kind": "graft", "format": 2, "files": listed}
    server.add("owner/tiny", model | {"contextgraft.json": json.dumps(own).encode(), "extra.txt": b"x"})
    fetch(SOURCE, tmp_path / "out", hub=hub)
    present = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert present == {*listed, "contextgraft.json"}


def test_the_sidecar_of_another_copy_is_not_taken_over(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path
) -> None:
    copy = {"kind": "source", "format": 1, "source": "/somewhere"}
    server.add("owner/tiny", model | {"contextgraft.json": json.dumps(copy).encode()})
    record = fetch(SOURCE, tmp_path / "out", hub=hub)
    assert json.loads((tmp_path / "out/contextgraft.json").read_text()) == record


def test_an_output_that_exists_is_refused_before_any_request(
    server: "HubServer", hub: Hub, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("keep")
    with pytest.raises(OutputError, match="already exists"):
        fetch(SOURCE, tmp_path / "out", hub=hub)
    assert server.log == []


UNUSABLE: dict[str, tuple[dict[str, bytes], type[Exception], str]] = {
    "pickles only": (
        {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04"},
        PickleRefused,
        "only has weights as pickles, which are never loaded; "
        "received pytorch_model.bin; .*fetch hf:owner/tiny --out DIR --convert-pickles",
    ),
    "gguf only": ({"m.Q4_K_M.gguf": b"GGUF"}, CheckpointError, "hf download owner/tiny FILE.gguf"),
    "nothing": (
        {"README.md": b"-"},
        CheckpointError,
        "neither a model nor an adapter; .*received no weights",
    ),
    "adapter as pickle": (
        {"adapter_config.json": b"{}", "adapter_model.bin": b"\x80\x04"},
        PickleRefused,
        "adapter_model.bin",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_is_not_a_model_is_refused_by_its_list_of_files(
    server: "HubServer", hub: Hub, tmp_path: Path, name: str
) -> None:
    files, kind, message = UNUSABLE[name]
    server.add("owner/tiny", files)
    with pytest.raises(kind, match=message) as error:
        fetch(SOURCE, tmp_path / "out", hub=hub)
    assert "\n" not in str(error.value)
    assert len(server.log) == 1
    assert list(tmp_path.iterdir()) == []


INDEXES: dict[str, tuple[Any, str]] = {
    "missing shard": ({"weight_map": {"a": "gone.safetensors"}}, "does not have; received gone"),
    "outside": ({"weight_map": {"a": "../../x.safetensors"}}, "outside its folder"),
    "hidden": ({"weight_map": {"a": ".ssh/x.safetensors"}}, "outside its folder"),
    "absolute": ({"weight_map": {"a": "/etc/x.safetensors"}}, "outside its folder"),
    "pickle": ({"weight_map": {"a": "pytorch_model.bin"}}, "references pickles"),
    "no map": ({"weight_map": {}}, "weight_map is missing or malformed"),
    "no names": ({"weight_map": {"a": ["x"]}}, "weight_map is missing or malformed"),
    "no object": ([], "is not a JSON object"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_is_not_trusted(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    index, message = INDEXES[name]
    server.add("owner/tiny", model | {"model.safetensors.index.json": json.dumps(index).encode()})
    with pytest.raises(CheckpointError, match=message):
        fetch(SOURCE, tmp_path / "out", hub=hub)
    assert not (tmp_path / "out").exists()


def test_names_in_the_list_of_files_are_not_trusted(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path
) -> None:
    bad = {"LICENSE/../../../evil": b"x", "LICENSE\\evil": b"x", "LICENSE\nevil": b"x", "NOTICE/.evil": b"x"}
    server.add("owner/tiny", model | bad)
    fetch(SOURCE, tmp_path / "out", hub=hub)
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_a_file_that_http_does_not_give_is_refused_before_anything_is_fetched(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contextgraft.sources.hub.fetch.MAX_HTTP_BYTES", 10_000)
    server.add("owner/tiny", model)
    with pytest.raises(CheckpointError, match="too large for plain HTTP"):
        fetch(SOURCE, tmp_path / "out", hub=hub)
    assert server.requests("/lfs/") == []


@pytest.mark.parametrize(
    "source", ["hf:tiny", "hf:owner/", "hf:a/b/c", "hf:owner/tiny@", "hf:../x", "hf:o/n ame"]
)
def test_a_name_that_is_none_is_refused_without_asking(
    server: "HubServer", hub: Hub, tmp_path: Path, source: str
) -> None:
    with pytest.raises(InputError, match=r"expected hf:OWNER/NAME\[@REVISION\]"):
        fetch(source, tmp_path / "out", hub=hub)
    assert server.log == []


def test_pickles_of_a_repository_become_safetensors_on_request(
    server: "HubServer", hub: Hub, toy: SimpleNamespace, tmp_path: Path
) -> None:
    weights = toy.weights(toy.config())
    torch.save(weights, tmp_path / "file")
    config = json.dumps(toy.config()).encode()
    commit = server.add(
        "owner/tiny", {"config.json": config, "pytorch_model.bin": (tmp_path / "file").read_bytes()}
    )
    record = fetch(SOURCE, tmp_path / "out", hub=hub, conversion=Conversion(convert_pickles=True))
    assert record["converted_from"] == ["pytorch_model.bin"]
    assert (record["revision"], "sha256" in record["files"]["pytorch_model.bin"]) == (commit, True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "model.safetensors", "contextgraft.json"
    }  # fmt: skip
    assert set(open_model(tmp_path / "out").tensors) == set(weights)


def test_an_adapter_of_longlora_is_not_fetched_without_its_pickle(
    server: "HubServer", hub: Hub, peft_adapter: dict[str, bytes], tmp_path: Path
) -> None:
    trained = {"model.norm.weight": torch.ones(8)}
    torch.save(trained, tmp_path / "file")
    server.add("owner/lora", peft_adapter | {"trainable_params.bin": (tmp_path / "file").read_bytes()})
    with pytest.raises(
        PickleRefused, match=r"trainable_params\.bin.*fetch hf:owner/lora --out DIR --convert"
    ):
        fetch("hf:owner/lora", tmp_path / "out", hub=hub)
    fetch("hf:owner/lora", tmp_path / "out", hub=hub, conversion=Conversion(convert_pickles=True))
    assert open_adapter(tmp_path / "out").replaced == ("model.norm.weight",)
