"""A sheet of repositories: checked by their headers alone, from the real client and a hub on loopback."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from contextgraft.planning.study import read_study

if TYPE_CHECKING:
    from tests.hub.server import HubServer

SHARD = "model-00002-of-00003.safetensors"


def test_a_sheet_of_the_hub_costs_headers_only(
    *,
    server: "HubServer",
    model: dict[str, bytes],
    peft_adapter: dict[str, bytes],
    toy: SimpleNamespace,
    run: Callable[..., Any],
    tmp_path: Path,
) -> None:
    other = toy.contents(
        toy.write(tmp_path / "other", toy.moved(toy.weights(toy.config()), 1), toy.config(), 3)
    )
    narrow = toy.config(hidden_size=32)
    small = toy.contents(toy.write(tmp_path / "small", toy.weights(narrow), narrow))
    server.add("owner/base", model)
    commit = server.add("owner/tune", model | {SHARD: other[SHARD]})
    server.add("owner/small", small)
    server.add("owner/lora", peft_adapter)
    server.add("owner/pickled", {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04" * 9})
    sheet = tmp_path / "sheet.tsv"
    names = ("tune", "small", "lora", "pickled", "missing")
    lines = ["name\tsource\trevision", *(f"{name}\thf:owner/{name}" for name in names)]
    sheet.write_text("\n".join([*lines, f"pinned\thf:owner/tune\t{commit}"]))
    words = ("inspect", "--sheet", sheet, "--base", "hf:owner/base", "--headers", tmp_path / "kept", "--json")
    done = run(*words)
    assert done.status == 0, done.stderr
    found = {row["name"]: row for row in json.loads(done.stdout)["targets"]}
    assert {name: row["verdict"] for name, row in found.items()} == {
        "tune": "fits", "small": "differs", "lora": "refused", "pickled": "refused", "missing": "refused",
        "pinned": "fits",
    }  # fmt: skip
    assert "2 of 3 weight files are the base's own, byte for byte" in found["tune"]["evidence"]
    assert found["pinned"]["weight_files_of_the_base"] == found["tune"]["weight_files_of_the_base"]
    ranges = {each.range for each in server.requests("GET /lfs/")}
    assert all(text is not None and text.startswith("bytes=0-") for text in ranges)
    before = len(server.requests("GET /lfs/"))
    again = run(*words)
    assert (again.status, again.stdout) == (0, done.stdout)
    assert len(server.requests("GET /lfs/")) == before


def test_inspect_of_a_repository_costs_headers_only(
    *,
    server: "HubServer",
    model: dict[str, bytes],
    peft_adapter: dict[str, bytes],
    run: Callable[..., Any],
    tmp_path: Path,
) -> None:
    server.add("owner/tune", model)
    server.add("owner/lora", peft_adapter)
    assert run("fetch", "hf:owner/tune", "--out", tmp_path / "whole").status == 0
    before = len(server.requests("GET /lfs/"))
    done = run("inspect", "hf:owner/tune", "--json")
    assert done.status == 0, done.stderr
    ranges = {each.range for each in server.requests("GET /lfs/")[before:]}
    assert ranges
    assert all(text is not None and text.startswith("bytes=0-") for text in ranges)
    whole = json.loads(run("inspect", tmp_path / "whole", "--json").stdout)
    assert json.loads(done.stdout) == whole | {"path": "hf:owner/tune"}
    adapter = run("inspect", "hf:owner/lora", "--json")
    assert adapter.status == 0, adapter.stderr
    assert json.loads(adapter.stdout)["donor"]["name"] == "lora"


def test_a_hub_that_fails_refuses_its_line_only(
    server: "HubServer",
    model: dict[str, bytes],
    toy: SimpleNamespace,
    run: Callable[..., Any],
    tmp_path: Path,
) -> None:
    folder = toy.write(tmp_path / "base", toy.weights(toy.config()), toy.config())
    server.add("owner/gated", model)
    server.add("owner/tune", model)
    fault: dict[str, Any] = {"status": 401, "headers": {"X-Error-Code": "GatedRepo"}, "times": 9}
    server.fault("owner/gated/resolve/.*safetensors$", **fault)
    sheet = tmp_path / "sheet.tsv"
    sheet.write_text("name\tsource\nshut\thf:owner/gated\nopen\thf:owner/tune\n")
    done = run("inspect", "--sheet", sheet, "--base", folder)
    assert done.status == 0, done.stderr
    assert "is gated" in done.stdout
    assert "1 of 2 can be grafted" in done.stdout
    assert run("inspect", "--sheet", sheet, "--base", folder, "--strict").status == 1


def test_init_reads_configs_of_the_hub_and_keeps_that_of_the_base(
    *,
    server: "HubServer",
    model: dict[str, bytes],
    run: Callable[..., Any],
    tmp_path: Path,
) -> None:
    server.add("owner/base", model)
    longer = json.loads(model["config.json"]) | {"max_position_embeddings": 512, "rope_theta": 50000.0}
    server.add("owner/donor", model | {"config.json": json.dumps(longer).encode()})
    done = run(
        *("init", "--base", "hf:owner/base", "--donor", "hf:owner/donor@main"),
        *("--fine-tune", "hf:owner/tune", "--out", tmp_path),
    )
    assert done.status == 0, done.stderr
    study = read_study(tmp_path / "my-study.yaml")
    assert (study.settings.donor.theta, study.settings.donor.max_positions) == (50000, 512)
    assert json.loads(Path(study.settings.shape or "").read_text()) == json.loads(model["config.json"])
    assert study.targets["tune"].source == "hf:owner/tune"
    assert not any(each.range is None for each in server.requests("GET /lfs/"))  # no whole weights


def test_a_known_adapter_is_merged_by_name_into_a_repository(
    *,
    server: "HubServer",
    model: dict[str, bytes],
    toy: SimpleNamespace,
    run: Callable[..., Any],
    tmp_path: Path,
) -> None:
    config = toy.config()
    toy.write(tmp_path / "a", toy.weights(config), config)
    toy.write(tmp_path / "b", toy.moved(toy.weights(config), 1), config)
    made = run(
        *("extract", "--base", tmp_path / "a", "--donor", tmp_path / "b", "--rank", "2"),
        *("--exclude", "norm", "--out", tmp_path / "ad"),
    )
    assert made.status == 0, made.stderr
    names = ("adapter_config.json", "adapter_model.safetensors")
    server.add(
        "cognitivecomputations/Llama-3-70B-Gradient-1048k-adapter",
        {name: (tmp_path / "ad/r2" / name).read_bytes() for name in names},
    )
    server.add("owner/tune", model)
    words = (
        "merge",
        "--adapter",
        "llama3-70b-1048k",
        "--target",
        "hf:owner/tune",
        "--out",
        tmp_path / "graft",
    )
    done = run(*words)
    assert done.status == 0, done.stderr
    graft = json.loads((tmp_path / "graft/config.json").read_text())
    assert (graft["rope_theta"], graft["max_position_embeddings"]) == (3580165449, 1048576)
    assert "fetched once into" in done.stderr
    before = len(server.requests("GET /lfs/"))
    again = run(*words)
    assert (again.status, again.stdout) == (0, done.stdout)
    assert len(server.requests("GET /lfs/")) == before
