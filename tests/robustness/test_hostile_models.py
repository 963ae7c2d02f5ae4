"""Model folders that lie: index, config, weights, and what stands in a file's place; one line each."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

INDEX = "model.safetensors.index.json"
FIRST = "model-00001-of-00003.safetensors"
Q = "model.layers.0.self_attn.q_proj.weight"
Damage = Callable[[Path], object]


def index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the weight_map."""
    data = json.loads((folder / INDEX).read_text())
    change(data["weight_map"])
    (folder / INDEX).write_text(json.dumps(data))


def shard(value: Any) -> Damage:
    """Another shard for one tensor."""
    return lambda folder: index(folder, lambda table: table.update({Q: value}))


def outside(folder: Path) -> None:
    """A shard that is there and fits, but not in the folder."""
    shutil.move(folder / FIRST, folder.parent / FIRST)
    everything = dict.fromkeys(load_file(folder.parent / FIRST), f"../{FIRST}")
    index(folder, lambda table: table.update(everything))


def config(**changes: Any) -> Damage:
    """Other values in config.json; what JSON has no word for is written as Python would."""

    def damage(folder: Path) -> None:
        data = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**data, **changes}))

    return damage


def text(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data)


def instead(name: str, make: Callable[[Path], object]) -> Damage:
    """Something else in a file's place."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Other tensors, in one file."""

    def damage(folder: Path) -> None:
        tensors = {name: t for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}
        for path in folder.glob("model*"):
            path.unlink()
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


def value(name: str, number: float) -> Damage:
    """One element of a tensor."""
    return weights(lambda tensors: tensors[name].view(-1)[7:8].fill_(number))


def only_pickles(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"\x80\x04")


def twice(folder: Path) -> None:
    save_file({**load_file(folder / FIRST), Q: torch.ones(64, 64)}, folder / FIRST)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 200_000_000)


DEEP = b'{"x":' * 400 + b"1" + b"}" * 400
LIES: dict[str, tuple[Damage, str]] = {
    "shard outside": (outside, "outside its folder"),
    "shard absolute": (shard("/etc/passwd"), "outside its folder"),
    "shard absolute, of its kind": (shard("/tmp/x.safetensors"), "outside its folder"),
    "shard below": (shard(f"./{FIRST}"), "outside its folder"),
    "shard of backslashes": (shard(f"..\\{FIRST}"), "not a plain file name"),
    "shard with NUL": (shard(f"{FIRST}\0.safetensors"), "not a plain file name"),
    "shard with newline": (shard("a\nb.safetensors"), "not a plain file name"),
    "shard with escapes": (shard("\x1b[2J.safetensors"), "not a plain file name"),
    "shard of half a surrogate": (shard("\ud800.safetensors"), "an unpaired surrogate"),
    "shard hidden": (shard(".x.safetensors"), "not a plain file name"),
    "shard with endless name": (shard("x" * 5000 + ".safetensors"), "not a plain file name"),
    "shard no string": (shard(7), "outside its folder or of another kind; .* received 7"),
    "shard a pickle": (shard("pytorch_model.bin"), "never loaded"),
    "shard missing": (shard("absent.safetensors"), "missing; expected absent.safetensors"),
    "entry without tensor": (lambda f: index(f, lambda t: t.update(z=FIRST)), "expected no such tensor"),
    "endless entry": (lambda f: index(f, lambda t: t.update({"z" * 10**6: FIRST})), "does not fit its shard"),
    "tensor without entry": (lambda f: index(f, lambda t: t.pop(Q)), "received no entry"),
    "entry in the other shard": (shard(FIRST), "does not fit its shards at"),
    "tensor in two shards": (twice, "is in two shards"),
    "no entries": (lambda f: index(f, lambda t: t.clear()), "has no weight_map"),
    "index a list": (text(INDEX, b"[]"), "not a JSON object"),
    "index twice the same": (text(INDEX, b'{"weight_map":{"a":"x","a":"y"}}'), "'a' twice"),
    "index of a map that is none": (text(INDEX, b'{"weight_map":[1]}'), "has no weight_map"),
    "index nested deep": (text(INDEX, b'{"weight_map":' + DEEP + b"}"), "too deep nesting"),
    "index a pipe": (instead(INDEX, os.mkfifo), "not a regular file"),
    "only pickles": (only_pickles, "weights only as pickles"),
    "config missing": (lambda f: (f / "config.json").unlink(), "config.json: no such file"),
    "config empty": (text("config.json", b""), "cannot be read as JSON"),
    "config a list": (text("config.json", b"[]"), "is not a JSON object; received list"),
    "config no UTF-8": (text("config.json", b'{"a":"\xff"}'), "cannot be read as JSON"),
    "config in UTF-16": (text("config.json", '{"a":1}'.encode("utf-16")), "cannot be read as JSON"),
    "config nested deep": (text("config.json", DEEP), "too deep nesting"),
    "config of half a surrogate": (text("config.json", b'{"model_type":"\\udc00"}'), "an unpaired surrogate"),
    "config of 200 MB": (instead("config.json", sparse), "more than 100000000 bytes"),
    "config a pipe": (instead("config.json", os.mkfifo), "not a regular file"),
    "config a folder": (instead("config.json", os.mkdir), "not a regular file"),
    "config without end": (instead("config.json", link("/dev/zero")), "not a regular file"),
    "config a loop": (instead("config.json", link("config.json")), "cannot be read"),
    "config a link to nothing": (instead("config.json", link("absent")), "no such file"),
    "theta NaN": (config(rope_theta=float("nan")), "a number that is not finite: NaN"),
    "theta infinite": (config(rope_theta=float("inf")), "not finite: Infinity"),
    "theta too large": (text("config.json", b'{"rope_theta":1e400}'), "not finite: 1e400"),
    "theta of 400 digits": (config(rope_theta=10**400), "a number of 401 digits"),
    "theta a string": (config(rope_theta="10000"), "rope_theta cannot be used.* received 10000"),
    "theta of escapes": (config(rope_theta="\x1b[2J"), r"\\x1b\[2J"),
    "theta negative": (config(rope_theta=-1.0), "rope_theta cannot be used"),
    "theta zero": (config(rope_theta=0), "rope_theta cannot be used"),
    "theta a list": (config(rope_theta=[1]), "rope_theta cannot be used"),
    "positions negative": (config(max_position_embeddings=-1), "max_position_embeddings cannot be used"),
    "positions zero": (config(max_position_embeddings=0), "max_position_embeddings cannot be used"),
    "positions a string": (config(max_position_embeddings="128"), "max_position_embeddings cannot be used"),
    "positions true": (config(max_position_embeddings=True), "max_position_embeddings cannot be used"),
    "scaling a list": (config(rope_scaling=[1]), "rope_scaling cannot be used"),
    "scaling by layer": (config(rope_scaling={"full": {"factor": 2}}), "one setting for all layers"),
    "type no string": (config(rope_scaling={"rope_type": 7}), "rope_type cannot be used"),
    "hidden size a string": (config(hidden_size="64"), "another architecture"),
    "layers absurd": (config(num_hidden_layers=10**200), "another architecture"),
    "heads a list": (config(num_attention_heads=[4]), "another architecture"),
    "shard a pipe": (instead(FIRST, os.mkfifo), "not a regular file"),
    "shard a folder": (instead(FIRST, os.mkdir), "not a regular file"),
    "shard without end": (instead(FIRST, link("/dev/zero")), "not a regular file"),
    "shard a loop": (instead(FIRST, link(FIRST)), f"missing; expected {FIRST}"),
    "a file without a name": (lambda f: Path(os.fsdecode(bytes(f) + b"/\xff.txt")).touch(), "is not text"),
    "a tensor of NaN": (value(Q, float("nan")), "NaN or infinite|is not finite"),
    "an infinite tensor": (value(Q, float("inf")), "NaN or infinite|is not finite"),
    "a norm of NaN": (value("model.norm.weight", float("nan")), "NaN or infinite|is not finite"),
    "a layer of three dimensions": (weights(lambda t: t.update({Q: torch.ones(64, 8, 8)})), "not fit|cannot"),
    "a layer of bytes": (weights(lambda t: t.update({Q: torch.ones(64, 64, dtype=torch.int8)})), "I8"),
    "a layer of no rows": (weights(lambda t: t.update({Q: torch.ones(0, 64)})), "does not fit"),
    "a layer less": (weights(lambda t: t.pop(Q)), "no such tensor"),
}  # fmt: skip


@pytest.mark.parametrize("side", ["donor", "target"])
@pytest.mark.parametrize("name", LIES)
def test_a_model_with_false_statements(sandbox: Any, name: str, side: str) -> None:
    damage, words = LIES[name]
    damage(sandbox[side])
    sandbox.refuses("extract" if side == "donor" else "merge", words)


def linked(folder: Path) -> None:
    """As the cache of a hub client lies: every file a link to a blob of its repository."""
    repository = folder.parent / f"models--owner--{folder.name}"
    snapshot = repository / "snapshots/main"
    repository.mkdir()
    folder.rename(repository / "blobs")
    snapshot.mkdir(parents=True)
    for path in (repository / "blobs").iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    folder.symlink_to(snapshot)


ODD: dict[str, Damage] = {
    "files linked to blobs": linked,
    "nested at the limit": config(x=json.loads(b"[" * 98 + b"]" * 98)),
    "a scalar": weights(lambda tensors: tensors.update({"model.layers.0.scale": torch.tensor(1.5)})),
    "a tensor of no rows": weights(lambda tensors: tensors.update({"model.x.weight": torch.ones(0, 5)})),
    "a tensor of no columns": weights(lambda tensors: tensors.update({"model.x.weight": torch.ones(5, 0)})),
    "a norm of nothing": weights(lambda tensors: tensors.update({"model.x.norm": torch.ones(0)})),
    "numbers of other kinds": weights(lambda tensors: tensors.update({"model.steps": torch.arange(3)})),
    "many dimensions": weights(lambda tensors: tensors.update({"model.x": torch.ones([1] * 60)})),
}


@pytest.mark.parametrize("name", ODD)
def test_a_model_that_is_only_odd(sandbox: Any, name: str) -> None:
    for side in ("base", "donor", "target"):
        ODD[name](sandbox[side])
    for verb in ("extract", "merge"):
        done = sandbox.run_here(verb)
        assert done.status == 0, done.raised or done.stderr
        assert not any(path.is_symlink() for path in (sandbox.root / "out").rglob("*"))
        shutil.rmtree(sandbox.root / "out")


@pytest.mark.parametrize("kind", ["shard", "text", "environment", "pipe"])
def test_a_target_that_links_to_private_files(sandbox: Any, kind: str) -> None:
    target = sandbox["target"]
    secret = sandbox.root / "secret"
    shutil.copyfile(target / FIRST, secret)
    make: dict[str, Damage] = {
        "shard": instead(FIRST, lambda path: path.symlink_to(secret)),
        "text": lambda folder: (folder / "NOTICE.txt").symlink_to(secret),
        "environment": lambda folder: (folder / "NOTICE.txt").symlink_to("/proc/self/environ"),
        "pipe": lambda folder: os.mkfifo(folder / "NOTICE.txt"),
    }
    make[kind](target)
    sandbox.refuses("merge", "outside its folder|is not a file")
