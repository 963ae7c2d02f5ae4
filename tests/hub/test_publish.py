"""Adapters and grafts to the hub and back: checked, listed, whole, with a card; and what can go wrong."""

import json
import shutil
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from huggingface_hub import HfApi, ModelCard

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.adapter.verify.graft import verify
from contextgraft.cli.commands.publish import command
from contextgraft.errors import (
    CheckpointError,
    ContextgraftError,
    InputChanged,
    InputError,
    SourceError,
    VerificationError,
)
from contextgraft.sources.fetch import fetch
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.hub.package import build_package
from contextgraft.sources.hub.published import published_files
from contextgraft.sources.hub.upload import upload

if TYPE_CHECKING:
    from tests.hub.server import HubServer


@dataclass(frozen=True)
class Made:
    """An adapter and a graft of it."""

    adapter: Path
    graft: Path
    target: Path


@pytest.fixture(scope="session")
def once(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Made once; not to be written to."""
    root = tmp_path_factory.mktemp("made")
    base = toy.weights(toy.config())
    longer = toy.config(rope_theta=4e4, max_position_embeddings=1024)
    folders = {
        "base": toy.write(root / "base", base, toy.config()),
        "donor": toy.write(root / "donor", toy.moved(base, 1), longer),
        "target": toy.write(root / "target", toy.moved(base, 2, 0.005), toy.config(), shards=2),
    }
    record = {
        "kind": "source",
        "format": 2,
        "name": "base",
        "source": "hf:owner/base@main",
        "revision": "a" * 40,
    }
    (folders["base"] / "contextgraft.json").write_text(json.dumps(record))
    extract(open_pair(folders["base"], folders["donor"]), [RankSpec(4)], root / "adapters")
    adapter = root / "adapters/r4"
    merge(plan_merge([ScaledAdapter(open_adapter(adapter), 1.0)], folders["target"]), root / "graft")
    return Made(adapter, root / "graft", folders["target"])


@pytest.fixture
def made(once: Made, tmp_path: Path) -> Made:
    """A copy that a test may spoil."""
    root = shutil.copytree(once.adapter.parents[1], tmp_path / "made")
    return Made(root / "adapters/r4", root / "graft", root / "target")


@pytest.fixture
def owner(server: "HubServer", hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The client of somebody who may write; over LFS, for our hub has no Xet storage."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's own patience
    api = HfApi(endpoint=server.url, token=server.token)
    return Hub(api=api, progress=hub.progress, retry_delays=hub.retry_delays)


@pytest.mark.parametrize("what", ["adapter", "graft"])
def test_what_was_published_comes_back_whole(
    *, server: "HubServer", owner: Hub, once: Made, toy: SimpleNamespace, tmp_path: Path, what: str
) -> None:
    folder: Path = getattr(once, what)
    package = build_package(folder, f"owner/{what}")
    sent = upload(package, owner)
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


def test_a_card_is_written_where_there_is_none(once: Made) -> None:
    adapter = ModelCard(build_package(once.adapter, "owner/long").card)
    data = vars(adapter.data)
    assert (data["base_model"], data["base_model_relation"], data["library_name"]) == (
        "owner/base", "adapter", "peft",
    )  # fmt: skip
    assert "rank 4 that carries the long context of `donor` to fine-tunes of `owner/base`" in adapter.text
    assert "1,024 positions, RoPE theta 40000" in adapter.text
    assert "contextgraft fetch hf:owner/long" in adapter.text
    graft = ModelCard(build_package(once.graft, "owner/grafted").card)
    data = vars(graft.data)
    assert data["library_name"] == "transformers"
    assert data.get("base_model") is None  # the fine-tune came from a folder
    assert "`target` with the long context" in graft.text


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


def test_names_in_a_card_are_no_markup(made: Made) -> None:
    sidecar = json.loads((made.adapter / "contextgraft.json").read_text())
    sidecar["donor"]["name"] = "x` | <script>\n# evil"
    (made.adapter / "contextgraft.json").write_text(json.dumps(sidecar))
    card = build_package(made.adapter, "owner/x").card
    assert "`x  <script># evil`" in card
    sidecar["donor"] = 7
    (made.adapter / "contextgraft.json").write_text(json.dumps(sidecar))
    with pytest.raises(CheckpointError, match="lacks the information that a model card needs"):
        build_package(made.adapter, "owner/x")


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


def spoil(path: Path) -> None:
    """Other bytes in the same file."""
    data = path.read_bytes()
    path.write_bytes(data[:-8] + bytes(8))


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


def test_a_folder_that_changes_while_its_package_is_built_is_not_published(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(*args: Any) -> Any:
        spoil(made.adapter / "adapter_model.safetensors")
        return published_files(*args)

    monkeypatch.setattr("contextgraft.sources.hub.package.published_files", changing)
    with pytest.raises(InputChanged, match=r"adapter_model\.safetensors: was changed while it was read"):
        build_package(made.adapter, "owner/r4")


MENDED = {
    "create": {"where": "POST /api/repos/create", "status": 502},
    "store": {"where": "PUT /upload/", "status": 500, "times": 3},
    "limit": {"where": "POST .*/preupload/", "status": 429, "headers": {"Retry-After": "0"}},
}


@pytest.mark.parametrize("name", MENDED)
def test_a_busy_hub_is_waited_for(server: "HubServer", owner: Hub, once: Made, name: str) -> None:
    fault: dict[str, Any] = dict(MENDED[name])
    server.fault(**fault)
    upload(build_package(once.adapter, "owner/r4"), owner)
    assert server.faults[0].times == 0


DELAYS = {
    "seconds": {"Retry-After": "99999999"},
    "digits": {"Retry-After": "9" * 400},
    "date": {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"},
    "limit": {"RateLimit": '"api";r=0;t=99999999'},
}


@pytest.mark.parametrize("name", DELAYS)
@pytest.mark.parametrize(
    "where", ["POST /api/repos/create", "POST .*/preupload/", "PUT /upload/", "POST .*/commit/"]
)
def test_an_absurd_delay_is_not_waited_for(
    *, server: "HubServer", owner: Hub, once: Made, monkeypatch: pytest.MonkeyPatch, where: str, name: str
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    server.fault(where, status=429, headers=DELAYS[name])
    with pytest.raises(SourceError, match="rate limit of the hub is reached, and waiting did not help"):
        upload(build_package(once.adapter, "owner/r4"), owner)
    assert sum(slept) < 100


FINAL: dict[str, tuple[dict[str, Any], type[ContextgraftError], str]] = {
    "store": ({"where": "PUT /upload/", "status": 500}, SourceError, "hub returned status 500; run the same"),
    "storage": ({"where": "PUT /upload/", "status": 403}, InputError, "the token does not allow this"),
    "no right": (
        {"where": "POST /api/models/.*/preupload", "status": 403},
        InputError,
        r"the token does not allow this; .*\(to publish: write\)",
    ),
    "bad card": (
        {
            "where": "POST /api/validate-yaml",
            "status": 400,
            "body": b'{"errors": [{"message": "no licence"}]}',
        },
        InputError,
        "the hub rejects the request; received .*no licence; correct what its message names",
    ),
    "limit": (
        {"where": "POST /api/repos/create", "status": 429, "headers": {"Retry-After": "0"}},
        SourceError,
        "rate limit of the hub is reached",
    ),
}


@pytest.mark.parametrize("name", FINAL)
def test_a_hub_that_refuses_is_one_line(server: "HubServer", owner: Hub, once: Made, name: str) -> None:
    fault, kind, message = FINAL[name]
    server.fault(**fault, times=100)
    with pytest.raises(kind, match=message) as error:
        upload(build_package(once.adapter, "owner/r4"), owner)
    assert "\n" not in str(error.value)
    assert server.token not in str(error.value)


def test_nobody_may_write_without_a_token(hub: Hub, once: Made, owner: Hub) -> None:
    with pytest.raises(InputError, match=r"does not accept the token, or requires one.*hf auth login"):
        upload(build_package(once.adapter, "owner/r4"), hub)


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
    assert (
        done.stderr
        == "publish: owner/r4: the hub returned status 429 Too Many Requests; retry in 0 s (1 of 5)\n"
    )


def test_a_dry_run_asks_nobody(server: "HubServer", once: Made) -> None:
    done = CliRunner().invoke(command, [str(once.graft), "--to", "owner/graft", "--dry-run"])
    assert done.exit_code == 0
    assert "not sent: --dry-run" in done.stdout
    as_json = CliRunner().invoke(command, [str(once.graft), "--to", "owner/graft", "--dry-run", "--json"])
    assert json.loads(as_json.stdout)["files"] == build_package(once.graft, "owner/graft").files
    assert server.log == []


def cut(path: Path) -> None:
    """Take the last byte away."""
    path.write_bytes(path.read_bytes()[:-1])


def edited(folder: Path, **changes: Any) -> None:
    """Let a sidecar say something else."""
    path = folder / "contextgraft.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class PanicException(BaseException):
    """What a library in Rust raises where it fails in an unforeseen way."""


FAILING = [
    ConnectionError("Network error: HTTP status client error (404 Not Found), domain: http://127.0.0.1/x"),
    RuntimeError("Data processing error: CAS service error"),
    OSError(5, "Input/output error"),
    TimeoutError("timed out"),
    ConnectionResetError(104, "Connection reset by peer"),
    ssl.SSLCertVerificationError("certificate verify failed"),
    PanicException("called `Option::unwrap()` on a `None` value"),
    MemoryError("out of memory"),
]


NETWORK = (ConnectionError, TimeoutError, ssl.SSLError, RuntimeError)  # only Xet raises the others
CALLS = [("create_commit", error) for error in FAILING]
CALLS += [("create_repo", error) for error in FAILING if isinstance(error, NETWORK)]


@pytest.mark.parametrize(("call", "error"), CALLS, ids=repr)
def test_a_transport_that_fails_is_one_line_and_publishes_nothing(
    *,
    server: "HubServer",
    owner: Hub,
    once: Made,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    error: BaseException,
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(owner.api, call, fail)
    with pytest.raises(SourceError) as caught:
        upload(build_package(once.adapter, "owner/transport"), owner)
    assert "\n" not in str(caught.value)
    assert "owner/transport" in str(caught.value)
    repository = server.repos.get("owner/transport")
    commits = repository.commits.values() if repository else ()
    assert all(set(files) <= {".gitattributes"} for files in commits)
