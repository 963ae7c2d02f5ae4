"""What is published of an adapter or a graft: checked, whole, with a model card."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from contextgraft.errors import (
    CheckpointError,
    ContextgraftError,
    InputChanged,
    InputError,
    VerificationError,
)
from contextgraft.sources.hub.package import build_package
from contextgraft.sources.hub.published import published_files

from .conftest import Made, spoil


def test_a_card_is_written_where_there_is_none(made: Made) -> None:
    for folder in (made.adapter, made.graft):
        (folder / "README.md").unlink()
    adapter = ModelCard(build_package(made.adapter, "owner/long").card)
    graft = ModelCard(build_package(made.graft, "owner/grafted").card)
    data = vars(adapter.data)
    assert (data["base_model"], data["base_model_relation"], data["library_name"]) == (
        "owner/base", "adapter", "peft",
    )  # fmt: skip
    assert "between `donor` and its base `owner/base`, as a LoRA adapter of rank 4" in adapter.text
    assert "| donor | 40,000 | 1,024 |" in adapter.text
    assert "contextgraft merge --adapter hf:owner/long" in adapter.text
    assert "OWNER/NAME" not in adapter.text + graft.text
    data = vars(graft.data)
    assert data["library_name"] == "transformers"
    assert data["base_model"] == "owner/base"  # the fine-tune came from a folder
    assert "The fine-tune `target` with the long context of `donor`" in graft.text


def test_the_card_of_the_folder_or_the_one_named_is_taken(made: Made, tmp_path: Path) -> None:
    (made.adapter / "README.md").write_bytes(b"---\nlicense: mit\n---\r\nMine\n")
    assert build_package(made.adapter, "owner/x").card == "---\nlicense: mit\n---\r\nMine\n"
    (tmp_path / "other.md").write_text("---\nlicense: mit\n---\nOther\n")
    assert build_package(made.adapter, "owner/x", tmp_path / "other.md").card.endswith("Other\n")
    (tmp_path / "other.md").write_text("No metadata\n")
    with pytest.raises(InputError, match=r"other\.md: not a model card of the hub"):
        build_package(made.adapter, "owner/x", tmp_path / "other.md")
    with pytest.raises(InputError, match="cannot read the model card"):
        build_package(made.adapter, "owner/x", tmp_path / "none.md")


def test_the_fine_tunes_card_in_an_older_graft_is_not_published(made: Made, tmp_path: Path) -> None:
    """Earlier versions copied it, and listed it among the graft's files."""
    text = "---\nlicense: mit\n---\nThe fine-tune\n"
    (made.graft / "README.md").write_text(text)
    sidecar = json.loads((made.graft / "contextgraft.json").read_text())
    edited(made.graft, files=sidecar["files"] | {"README.md": {"bytes": len(text), "digest": "0" * 64}})
    package = build_package(made.graft, "owner/grafted")
    assert "The fine-tune `target` with the long context of `donor`" in package.card
    published = json.loads(package.rewritten["contextgraft.json"])
    assert "README.md" not in published["files"]
    assert published["files"].keys() == sidecar["files"].keys()
    (tmp_path / "own.md").write_text("---\nlicense: mit\n---\nMine\n")
    assert build_package(made.graft, "owner/x", tmp_path / "own.md").card.endswith("Mine\n")


def test_names_in_a_card_are_no_markup(made: Made) -> None:
    sidecar = json.loads((made.adapter / "contextgraft.json").read_text())
    sidecar["donor"]["name"] = "x` | <script>\n# evil"
    (made.adapter / "contextgraft.json").write_text(json.dumps(sidecar))
    (made.adapter / "README.md").unlink()
    card = build_package(made.adapter, "owner/x").card
    assert "`x  <script># evil`" in card
    sidecar["donor"] = 7
    (made.adapter / "contextgraft.json").write_text(json.dumps(sidecar))
    with pytest.raises(CheckpointError, match="lacks the information that a model card needs"):
        build_package(made.adapter, "owner/x")


def test_a_folder_that_changes_while_its_package_is_built_is_not_published(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(*args: Any) -> Any:
        spoil(made.adapter / "adapter_model.safetensors")
        return published_files(*args)

    monkeypatch.setattr("contextgraft.sources.hub.package.published_files", changing)
    with pytest.raises(InputChanged, match=r"adapter_model\.safetensors: was changed while it was read"):
        build_package(made.adapter, "owner/r4")


def cut(path: Path) -> None:
    """Take the last byte away."""
    path.write_bytes(path.read_bytes()[:-1])


def edited(folder: Path, **changes: Any) -> None:
    """Let a sidecar say something else."""
    path = folder / "contextgraft.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


SPOILT: dict[str, tuple[str, Callable[[Path], object], type[ContextgraftError], str]] = {
    "no sidecar": (
        "adapter", lambda at: (at / "contextgraft.json").unlink(), InputError, "not made by contextgraft"
    ),
    "weights missing": (
        "adapter", lambda at: (at / "adapter_model.safetensors").unlink(), CheckpointError, "cannot be read"
    ),
    "weights cut": (
        "adapter", lambda at: cut(at / "adapter_model.safetensors"), CheckpointError, "truncated"
    ),
    "config missing": (
        "adapter", lambda at: (at / "adapter_config.json").unlink(), CheckpointError, "no such file"
    ),
    "dense missing": (
        "adapter", lambda at: (at / "contextgraft.safetensors").unlink(), CheckpointError, "cannot be read"
    ),
    "shard missing": (
        "graft", lambda at: next(at.glob("*.safetensors")).unlink(), VerificationError, "no such file"
    ),
    "shard cut": (
        "graft",
        lambda at: cut(next(at.glob("*.safetensors"))),
        VerificationError,
        "differs from the manifest of the graft",
    ),
    "no manifest": (
        "graft", lambda at: edited(at, files=[]), CheckpointError, "list of files is missing"
    ),
    "files outside": (
        "graft", lambda at: edited(at, files={"../../x": {"bytes": 1}}), VerificationError, "no such file"
    ),
    "a copy": ("graft", lambda at: edited(at, kind="source"), InputError, "cannot be published"),
    "a list as kind": ("graft", lambda at: edited(at, kind=[]), InputError, "cannot be published"),
    "no folder": ("graft", shutil.rmtree, InputError, "no such folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_a_folder_that_is_not_whole_is_refused(made: Made, name: str) -> None:
    what, spoil, kind, message = SPOILT[name]
    spoil(getattr(made, what))
    with pytest.raises(kind, match=message) as error:
        build_package(getattr(made, what), "owner/name")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("to", ["name", "a/b/c", "../x", "owner/", "owner/n ame"])
def test_a_name_that_is_none_is_refused(once: Made, to: str) -> None:
    with pytest.raises(InputError, match="expected OWNER/NAME"):
        build_package(once.adapter, to)


def test_a_name_that_the_licence_does_not_allow_is_a_warning(made: Made) -> None:
    (made.adapter / "README.md").write_text("---\nlicense: llama3\n---\n")
    assert build_package(made.adapter, "owner/Llama-3-long").warnings == ()
    (warning,) = build_package(made.adapter, "owner/long").warnings
    assert "the licence llama3 demands that the name of a derived model begins with 'Llama 3'" in warning
