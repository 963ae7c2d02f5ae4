"""Links that leave a folder, pipes and devices are refused before anything is copied; blob stores are not."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from contextgraft.config.text_file import open_regular
from contextgraft.errors import CheckpointError
from contextgraft.formats.model.own_files import check_own_files, check_plain_files, copy_own_file

HEX = "0123456789abcdef" * 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m/sub").mkdir(parents=True)
    (tmp_path / "m/config.json").write_text("{}")
    (tmp_path / "m/sub/a.txt").write_text("a")
    (tmp_path / "secret").write_text("TOPSECRET")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "m-other").mkdir()
    (tmp_path / "m-other/b.txt").write_text("b")
    return tmp_path / "m"


def link(name: str, target: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).symlink_to(target.format(folder.parent))


def chain(folder: Path) -> None:
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("../secret")


def linked_pipe(folder: Path) -> None:
    os.mkfifo(folder / ".p")
    (folder / "x").symlink_to(".p")


def sock(folder: Path) -> None:
    here = Path.cwd()
    os.chdir(folder)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
    os.chdir(here)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a private file": (link("NOTICE", "{}/secret"), "outside its folder"),
    "relative": (link("NOTICE", "../secret"), "outside its folder"),
    "in a subfolder": (link("sub/tokenizer.json", "../../secret"), "outside its folder"),
    "over another link": (chain, "outside its folder"),
    "a sibling whose name begins alike": (link("b.txt", "../m-other/b.txt"), "outside its folder"),
    "a folder": (link("docs", ".."), "outside its folder"),
    "the environment": (link("notes.txt", "/proc/self/environ"), "outside its folder"),
    "an open file": (link("notes.txt", "/proc/self/fd/0"), "outside its folder|link to nothing"),
    "the kernel's messages": (link("notes.txt", "/proc/kmsg"), "outside its folder"),
    "a device": (link("notes.txt", "/dev/zero"), "outside its folder"),
    "to nothing": (link("notes.txt", "absent"), "link to nothing"),
    "to itself": (link("notes.txt", "notes.txt"), "link to nothing"),
    "a pipe": (lambda folder: os.mkfifo(folder / "notes.txt"), "a pipe"),
    "a pipe in a subfolder": (lambda folder: os.mkfifo(folder / "sub/notes.txt"), "a pipe"),
    "a link to a pipe": (linked_pipe, "a pipe"),
    "a socket": (sock, "a socket"),
    "blobs of another repository": (link("x", "{}/models--a--b/blobs/" + HEX), "link to nothing|outside"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_the_folders_own_is_refused(folder: Path, name: str) -> None:
    damage, words = REFUSED[name]
    damage(folder)
    with pytest.raises(CheckpointError, match=words) as error:
        check_own_files(folder)
    assert "TOPSECRET" not in str(error.value)
    assert "\n" not in str(error.value)


def test_links_inside_and_hidden_files_are_allowed(folder: Path) -> None:
    (folder / "again.txt").symlink_to("sub/a.txt")
    (folder / "absolute.txt").symlink_to(folder / "sub/a.txt")
    (folder / ".hidden").symlink_to("../secret")
    check_own_files(folder)
    linked = folder.parent / "by-link"
    linked.symlink_to(folder)  # the user's own link to the folder
    check_own_files(linked)


def hub_cache(root: Path, *, shared: bool) -> Path:
    """A snapshot in the hub's cache: links to blobs, which newer versions keep once for all repositories."""
    repository = root / "hub/models--owner--name"
    snapshot = repository / "snapshots" / HEX[:40]
    (snapshot / "sub").mkdir(parents=True)
    (repository / "blobs").mkdir()
    blob = repository / "blobs" / HEX
    if shared:
        store = root / "hub/blobs" / HEX[:2] / HEX
        store.parent.mkdir(parents=True)
        store.write_text("content")
        blob.symlink_to(os.path.relpath(store, blob.parent))
    else:
        blob.write_text("content")
    (snapshot / "config.json").symlink_to(f"../../blobs/{HEX}")
    (snapshot / "sub/a.json").symlink_to(f"../../../blobs/{HEX}")
    return snapshot


@pytest.mark.parametrize("shared", [False, True])
def test_the_hubs_cache_is_allowed_and_copied_as_files(folder: Path, shared: bool) -> None:
    snapshot = hub_cache(folder.parent, shared=shared)
    check_own_files(snapshot)
    copy_own_file(snapshot, "sub/a.json", folder / "copy/a.json")
    assert (folder / "copy/a.json").read_text() == "content"
    assert not (folder / "copy/a.json").is_symlink()


def test_a_blob_that_is_a_link_elsewhere_is_refused(folder: Path) -> None:
    snapshot = hub_cache(folder.parent, shared=False)
    blob = snapshot.parents[1] / "blobs" / HEX
    blob.unlink()
    blob.symlink_to(folder.parent / "secret")
    with pytest.raises(CheckpointError, match="outside its folder"):
        check_own_files(snapshot)


def test_files_that_dvc_linked_are_allowed(folder: Path) -> None:
    store = folder.parent / "cache/files/md5/ab" / HEX[:30]
    store.parent.mkdir(parents=True)
    store.write_text("content")
    (folder / "model.safetensors").symlink_to(store)
    check_own_files(folder)


def test_a_copy_has_the_mode_of_a_new_file(folder: Path) -> None:
    (folder / "sub/a.txt").chmod(0o4700)
    copy_own_file(folder, "sub/a.txt", folder.parent / "copy")
    (folder.parent / "new").write_text("")
    assert (folder.parent / "copy").stat().st_mode == (folder.parent / "new").stat().st_mode


@pytest.mark.parametrize("path", ["/proc/self/environ", "/proc/kmsg", "/sys/kernel/notes", "/dev/null"])
def test_files_of_the_kernel_are_not_opened(path: str) -> None:
    if not os.access(path, os.R_OK):
        pytest.skip("not readable here")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(Path(path))


@pytest.mark.parametrize(
    "name", ["the kernel's messages", "the environment", "a device", "a pipe", "a link to a pipe"]
)
def test_what_blocks_a_reader_is_refused_where_nothing_is_copied(folder: Path, name: str) -> None:
    check_plain_files(folder)
    REFUSED["a private file"][0](folder)
    REFUSED["to nothing"][0](folder / "sub")
    (folder / "sub/docs").symlink_to("..")
    check_plain_files(folder)
    (folder / "NOTICE").unlink()
    REFUSED[name][0](folder)
    with pytest.raises(CheckpointError, match=r"cannot be read; received not a regular file|Permission"):
        check_plain_files(folder)
