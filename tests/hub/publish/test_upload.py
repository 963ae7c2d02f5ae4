"""Adapters and grafts to the hub and back, by the functions and by the command."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.verify.graft import verify
from contextgraft.cli.commands.publish import command
from contextgraft.errors import InputChanged, InputError, SourceError
from contextgraft.sources.fetch import fetch
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.hub.package import build_package
from contextgraft.sources.hub.upload import upload

from .conftest import Made, spoil

if TYPE_CHECKING:
    from tests.hub.server import HubServer


@pytest.mark.parametrize("what", ["adapter", "graft"])
def test_what_was_published_comes_back_whole(
    *, server: "HubServer", owner: Hub, once: Made, toy: SimpleNamespace, tmp_path: Path, what: str
) -> None:
    folder: Path = getattr(once, what)
    package = build_package(folder, f"owner/{what}")
    parts: list[int] = []
    sent = upload(package, owner, advance=parts.append)
    assert sum(parts) == package.bytes
    held = server.repos[f"owner/{what}"].commits[sent.commit]
    assert {name: held[name] for name in package.files} == {
        name: data for name, data in toy.contents(folder).items() if name != "README.md"
    }
    assert held["README.md"].decode() == package.card
    record = fetch(f"hf:owner/{what}", tmp_path / "back", hub=owner)
    assert record["revision"] == sent.commit
    assert sent.url.endswith(sent.commit)


def test_a_graft_from_the_hub_verifies_against_its_adapter_and_target(
    owner: Hub, once: Made, tmp_path: Path
) -> None:
    for name in ("adapter", "graft"):
        upload(build_package(getattr(once, name), f"owner/{name}"), owner)
        fetch(f"hf:owner/{name}", tmp_path / name, hub=owner)
    checks = verify(tmp_path / "graft", target=once.target, adapters=[tmp_path / "adapter"])
    assert all(check.holds for check in checks), checks
    assert open_adapter(tmp_path / "adapter").digest == open_adapter(once.adapter).digest


def test_a_trained_model_can_be_published(
    server: "HubServer", owner: Hub, made: Made, toy: SimpleNamespace
) -> None:
    rope = {"theta": 1e4, "max_positions": 128, "rope_type": "default", "extra": {}}
    base = {"name": "base", "digest": "0" * 64, "source": None, "revision": None}
    record = {"kind": "trained", "format": 2, "name": "longer", "base": base, "steps": 7, "rope": rope}
    (made.target / "contextgraft.json").write_text(json.dumps(record))
    (made.target / "old.bin").write_bytes(b"\x80\x04")
    package = build_package(made.target, "owner/longer")
    assert set(package.files) == set(toy.contents(made.target)) - {"old.bin"}
    assert "in 7 steps" in package.card
    upload(package, owner)
    assert (
        "model.safetensors.index.json"
        in server.repos["owner/longer"].commits[server.repos["owner/longer"].branches["main"]]
    )


def test_private_and_a_branch_are_as_requested(server: "HubServer", owner: Hub, once: Made) -> None:
    package = build_package(once.adapter, "owner/r4")
    sent = upload(package, owner, private=True, revision="v1")
    repo = server.repos["owner/r4"]
    assert repo.private
    assert repo.branches["v1"] == sent.commit != repo.branches["main"]
    assert upload(package, owner, private=True, revision="v1").commit == sent.commit  # nothing new: no commit
    server.add("owner/open", {".gitattributes": b""})
    with pytest.raises(
        InputError, match="the repository exists and is public; --private does not change that"
    ):
        upload(build_package(once.adapter, "owner/open"), owner, private=True)
    assert server.requests("/owner/open.*commit") == []


def test_an_upload_that_failed_sends_only_the_rest(server: "HubServer", owner: Hub, once: Made) -> None:
    package = build_package(once.graft, "owner/graft")
    server.fault("POST /api/models/owner/graft/commit", status=503)
    with pytest.raises(SourceError, match="hub returned status 503; run the same command again"):
        upload(package, owner)
    uploads = len(server.requests("PUT /upload/"))
    assert uploads == 2
    assert [*server.repos["owner/graft"].commits.values()] == [
        {".gitattributes": b"*.safetensors filter=lfs\n"}
    ]
    upload(package, owner)
    assert len(server.requests("PUT /upload/")) == uploads


CHANGED: dict[str, Callable[[Path], object]] = {
    "spoiled": spoil,
    "removed": Path.unlink,
    "replaced": lambda path: path.with_name(".other").replace(path),
}


@pytest.mark.parametrize("change", CHANGED)
@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "config.json"])
@pytest.mark.parametrize("call", ["create_repo", "preupload_lfs_files"])
def test_a_folder_that_changes_while_it_is_uploaded_is_not_published(
    *,
    server: "HubServer",
    owner: Hub,
    made: Made,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    name: str,
    change: str,
) -> None:
    shutil.copy2(made.graft / name, made.graft / ".other")
    package = build_package(made.graft, "owner/graft")
    original = getattr(owner.api, call)

    def changing(*args: Any, **kwargs: Any) -> Any:
        done = original(*args, **kwargs)
        CHANGED[change](made.graft / name)
        return done

    monkeypatch.setattr(owner.api, call, changing)
    with pytest.raises(InputChanged, match=f"{name}: was changed while it was read"):
        upload(package, owner)
    assert server.requests("POST .*/commit/") == []


def test_the_command_lists_what_it_sends_and_sends_it(
    server: "HubServer", owner: Hub, once: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", server.token)
    server.fault("POST /api/repos/create", status=429, headers={"Retry-After": "0"})
    done = CliRunner().invoke(command, [str(once.adapter), "--to", "owner/r4"])
    assert done.exit_code == 0, done.stderr
    assert "adapter_model.safetensors" in done.stdout
    assert "kind adapter, to owner/r4" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(server.repos["owner/r4"].branches["main"])
    first, second = done.stderr.splitlines()
    assert first.endswith("at most to send to owner/r4; what the hub has is not sent again")
    assert second == "publish: owner/r4: the hub returned status 429 Too Many Requests; retry in 0 s (1 of 5)"


@pytest.mark.parametrize("failures", [0, 2])
def test_a_large_file_is_counted_while_it_is_sent(
    *, server: "HubServer", owner: Hub, made: Made, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """Also if it is sent again after an error: each byte is counted once."""
    large = 1_000_000
    monkeypatch.setattr("contextgraft.sources.hub.upload.COMMITTED_BYTES", large - 1)
    package = build_package(made.adapter, "owner/large")
    (made.adapter / "old.safetensors").write_bytes(bytes(large))
    package = replace(package, files={**package.files, "old.safetensors": large})
    if failures:
        server.fault("PUT /upload/", status=503, times=failures)
    parts: list[int] = []
    upload(package, owner, advance=parts.append)
    assert sum(parts) == package.bytes
    pieces = [part for part in parts if part]
    assert len(pieces) > 5
    assert max(pieces) < large / 2
    parts.clear()
    upload(package, owner, advance=parts.append)  # the hub has it: nothing is sent
    assert large in parts


def test_the_command_shows_what_is_left_of_one_large_file(
    server: "HubServer", owner: Hub, once: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", server.token)
    monkeypatch.setattr("contextgraft.sources.hub.upload.COMMITTED_BYTES", 1000)
    monkeypatch.setattr("contextgraft.cli.progress.LINE_INTERVAL", 0)
    done = CliRunner().invoke(command, [str(once.adapter), "--to", "owner/shown"])
    assert done.exit_code == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if " min left" in line]
    assert len(lines) > 2
    assert lines[-1].startswith("publish: 100 % of ")


def test_a_dry_run_asks_nobody(server: "HubServer", once: Made) -> None:
    done = CliRunner().invoke(command, [str(once.graft), "--to", "owner/graft", "--dry-run"])
    assert done.exit_code == 0
    assert "not sent: --dry-run" in done.stdout
    as_json = CliRunner().invoke(command, [str(once.graft), "--to", "owner/graft", "--dry-run", "--json"])
    assert json.loads(as_json.stdout)["files"] == build_package(once.graft, "owner/graft").files
    assert server.log == []
