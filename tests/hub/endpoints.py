"""The endpoints that huggingface_hub's client uses, and those of the store of large files."""

import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import yaml

from .handler import Handler, Refusal
from .repositories import LARGE, TOKEN, Files, git_sha1, sha256

PAGE = 3  # files in one answer of a tree


def info(handler: Handler, name: str, *rest: Any) -> None:
    revision = rest[0] if len(rest) > 1 else "main"
    repo = handler.repo(name)
    commit, files = handler.files(repo, revision)
    siblings = [sibling(path, data, "blobs" in handler.query) for path, data in sorted(files.items())]
    handler.json(
        {
            "id": name, "modelId": name, "sha": commit, "private": repo.private,
            "gated": "manual" if repo.gated else False, "siblings": siblings, "tags": [],
            "cardData": card_data(files.get("README.md", b"")),
        }
    )  # fmt: skip


def card_data(readme: bytes) -> dict[str, Any] | None:
    """The metadata of the model card, which the hub parses."""
    parts = readme.decode().split("---\n")
    return yaml.safe_load(parts[1]) if len(parts) > 2 else None


def sibling(path: str, data: bytes, blobs: bool) -> dict[str, Any]:
    large = path.endswith(LARGE)
    lfs = {"lfs": {"size": len(data), "sha256": sha256(data), "pointerSize": 130}} if large else {}
    facts = {"size": len(data), "blobId": sha256(data)[:40] if large else git_sha1(data), **lfs}
    return {"rfilename": path, **(facts if blobs else {})}


def tree(handler: Handler, name: str, revision: str, body: bytes) -> None:
    """Files and folders of a data set, a page of them at a time."""
    _, files = handler.files(handler.repo(name), revision)
    folders = sorted({path.rpartition("/")[0] for path in files} - {""})
    entries: list[dict[str, Any]] = [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders]
    for path, data in sorted(files.items()):
        facts = sibling(path, data, blobs=True)
        lfs = {"lfs": {"oid": sha256(data), **facts["lfs"]}} if "lfs" in facts else {}
        entries.append({"type": "file", "path": path, "size": len(data), "oid": facts["blobId"], **lfs})
    begin = int(handler.query.get("cursor", ["0"])[0])
    rest = begin + PAGE < len(entries)
    address = f"{handler.hub.url}{urlsplit(handler.path).path}?recursive=True&cursor={begin + PAGE}"
    headers = {"Link": f'<{address}>; rel="next"'} if rest else {}
    handler.answer(200, json.dumps(entries[begin : begin + PAGE]).encode(), headers)


def resolve(handler: Handler, name: str, revision: str, path: str, body: bytes) -> None:
    repo = handler.repo(name, content=True)
    commit, files = handler.files(repo, revision)
    if path not in files:
        raise Refusal(404, "EntryNotFound", "Entry not found")
    data = files[path]
    if path.endswith(LARGE):
        handler.answer(
            302,
            headers={
                "Location": f"{handler.hub.store_url}/lfs/{sha256(data)}",
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{sha256(data)}"',
                "X-Linked-Size": str(len(data)),
            },
        )  # fmt: skip
    else:
        handler.content(data, {"X-Repo-Commit": commit, "ETag": f'"{git_sha1(data)}"'})


def stored(handler: Handler, oid: str, body: bytes) -> None:
    if oid not in handler.hub.store:
        raise Refusal(404, "", "no such object")
    handler.content(handler.hub.store[oid], {"ETag": f'"{oid}"'})


def create(handler: Handler, body: bytes) -> None:
    wanted = json.loads(body)
    if handler.headers.get("Authorization") != f"Bearer {TOKEN}":
        raise Refusal(401, "", "Invalid username or password.")
    name = f"{wanted['organization']}/{wanted['name']}"
    if name in handler.hub.repos:
        handler.json({"url": f"{handler.hub.url}/{name}", "error": "You already created this repo"}, 409)
        return
    handler.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
    handler.hub.repos[name].private = wanted.get("visibility") == "private" or wanted.get("private") is True
    handler.json({"url": f"{handler.hub.url}/{name}"})


def branch(handler: Handler, name: str, new: str, body: bytes) -> None:
    repo = handler.repo(name, write=True)
    if new in repo.branches:
        raise Refusal(409, "", "Reference already exists")
    repo.branches[new] = repo.branches["main"]
    handler.json({})


def validate(handler: Handler, body: bytes) -> None:
    content = json.loads(body)["content"]
    handler.hub.cards.append(content)
    good = content.startswith("---\n")
    handler.json(
        {"errors": [] if good else [{"message": "no metadata"}], "warnings": []}, 200 if good else 400
    )


def preupload(handler: Handler, name: str, revision: str, body: bytes) -> None:
    _, files = handler.files(handler.repo(name, write=True), revision)
    modes = [
        {
            "path": file["path"],
            "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
            "shouldIgnore": False,
            "oid": held_oid(file["path"], files),
        }
        for file in json.loads(body)["files"]
    ]
    handler.json({"files": modes})


def held_oid(path: str, files: Files) -> str | None:
    if path not in files:
        return None
    return sha256(files[path]) if path.endswith(LARGE) else git_sha1(files[path])


def batch(handler: Handler, name: str, body: bytes) -> None:
    handler.repo(name, write=True)
    objects = []
    for each in json.loads(body)["objects"]:
        upload = {"href": f"{handler.hub.store_url}/upload/{each['oid']}"}
        verify = {"href": f"{handler.hub.url}/verify/{each['oid']}"}
        missing = each["oid"] not in handler.hub.store
        objects.append({**each, **({"actions": {"upload": upload, "verify": verify}} if missing else {})})
    handler.json({"transfer": "basic", "objects": objects})


def upload(handler: Handler, oid: str, body: bytes) -> None:
    if sha256(body) != oid:
        raise Refusal(400, "", "the content is not that of its id")
    handler.hub.store[oid] = body
    handler.answer(200)


def verified(handler: Handler, oid: str, body: bytes) -> None:
    handler.answer(200 if oid in handler.hub.store else 404)


def commit(handler: Handler, name: str, revision: str, body: bytes) -> None:
    repo = handler.repo(name, write=True)
    _, before = handler.files(repo, revision)
    files = dict(before)
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = handler.hub.store[value["oid"]]
    oid = handler.hub.update(name, files, revision)
    handler.json({"commitUrl": f"{handler.hub.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})


NAME = "([^/]+/[^/]+)"
DATASET = "(datasets/[^/]+/[^/]+)"
HUB: list[tuple[str, Callable[..., None]]] = [
    (f"GET /api/models/{NAME}", info),
    (f"GET /api/models/{NAME}/revision/([^/]+)", info),
    (f"GET /api/{DATASET}", info),
    (f"GET /api/{DATASET}/revision/([^/]+)", info),
    (f"GET /api/{DATASET}/tree/([^/]+)", tree),
    (f"(?:GET|HEAD) /(?:{NAME}|{DATASET})/resolve/([^/]+)/(.+)", resolve),
    ("POST /api/repos/create", create),
    ("POST /api/validate-yaml", validate),
    (f"POST /api/models/{NAME}/branch/([^/]+)", branch),
    (f"POST /api/models/{NAME}/preupload/([^/]+)", preupload),
    (rf"POST /{NAME}\.git/info/lfs/objects/batch", batch),
    ("POST /verify/(.+)", verified),
    (f"POST /api/models/{NAME}/commit/([^/]+)", commit),
]
STORE: list[tuple[str, Callable[..., None]]] = [
    ("GET /lfs/(.+)", stored),
    ("PUT /upload/(.+)", upload),
]
