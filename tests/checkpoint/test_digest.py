"""Digests name the model, not the files it lies in."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from blake3 import blake3

from contextgraft.checkpoint.atomic import write_json
from contextgraft.checkpoint.digest import file_digest, model_digest, tensor_digest
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import CheckpointError
from contextgraft.formats.sidecar import identity, read_sidecar, sidecar


def test_the_same_weights_in_any_number_of_shards(toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config()
    tensors = toy.weights(config)
    digests = {model_digest(open_model(toy.write(tmp_path / str(n), tensors, config, n))) for n in (1, 3, 7)}
    assert len(digests) == 1


def test_weights_and_theta_matter_and_the_rest_does_not(toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config()
    tensors = toy.weights(config)

    def digest(name: str, **changes: object) -> str:
        return model_digest(open_model(toy.write(tmp_path / name, tensors, toy.config(**changes))))

    plain = digest("a")
    assert digest("b", rope_theta=4e4) != plain
    assert digest("c", max_position_embeddings=1024) != plain
    assert digest("d", use_cache=False) == plain
    tensors["model.norm.weight"][0] += 1
    assert digest("e") != plain


def test_known_digests_are_not_computed_again(toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config()
    model = open_model(toy.write(tmp_path / "m", toy.weights(config), config))
    known = {name: tensor_digest(model, name) for name in model.tensors}
    assert model_digest(model, known) == model_digest(model)
    raw = (model.path / "model.safetensors").read_bytes()
    info = model["model.norm.weight"]
    assert known["model.norm.weight"] == blake3(raw[info.begin : info.end]).hexdigest()
    assert file_digest(model.path / "model.safetensors") == blake3(raw).hexdigest()


def test_identity_takes_the_source_from_the_sidecar(toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config()
    path = toy.write(tmp_path / "m", toy.weights(config), config)
    plain = identity(open_model(path))
    assert plain == {"name": "m", "digest": plain["digest"], "source": None, "revision": None}
    write_json(
        path / "contextgraft.json",
        sidecar("source", name="big", source="hub:x/y", revision="r", digest="lie"),
    )
    named = identity(open_model(path))
    assert named == {"name": "big", "digest": plain["digest"], "source": "hub:x/y", "revision": "r"}


def test_sidecars_of_another_kind_or_format(tmp_path: Path) -> None:
    write_json(tmp_path / "contextgraft.json", sidecar("source"))
    assert read_sidecar(tmp_path)["kind"] == "source"
    with pytest.raises(CheckpointError, match="another kind"):
        read_sidecar(tmp_path, "graft")
    write_json(tmp_path / "contextgraft.json", {"kind": "graft", "format": 1})
    with pytest.raises(CheckpointError, match="format"):
        read_sidecar(tmp_path)
