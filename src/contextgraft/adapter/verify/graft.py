"""Checks of a graft against its manifest, and against target and adapters where they are given."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.graft_config import ContextSettings, graft_config, rope_for
from contextgraft.adapter.merge.manifest import file_facts, with_embeddings
from contextgraft.adapter.merge.tokens import TOKENIZER_FILES
from contextgraft.adapter.verify.checks import Check, Inputs, check_equal, run_check
from contextgraft.checkpoint.digest import file_digest, tensor_digests
from contextgraft.checkpoint.input_files import files_of, unchanged
from contextgraft.checkpoint.model_folder import ModelFolder, open_model, read_json
from contextgraft.config.text_file import list_below
from contextgraft.errors import ContextgraftError, VerificationError, raise_read_error
from contextgraft.formats.hub_source import without_paths
from contextgraft.formats.model.tied_head import HeadState, head_state, vocabulary_size
from contextgraft.formats.model_card.licence import CARD
from contextgraft.formats.sidecar import SIDECAR, identity, read_sidecar
from contextgraft.formats.tensor_names import is_embedding
from contextgraft.rope import settings, travelling
from contextgraft.rope.config_form import reads_back
from contextgraft.rope.context_files import CONTEXT_FILES, LENGTH, TOKENIZER_CONFIG
from contextgraft.rope.text_section import text_section
from contextgraft.rope.travelling import own_values


def verify(
    path: Path,
    *,
    target: Path | None = None,
    adapters: Sequence[Path] = (),
    threads: int = 1,
    advance: Callable[[int], object] = int,
) -> list[Check]:
    """Every check that the given folders allow; `adapters` in the order in which they were merged.

    A folder without a graft's manifest raises CheckpointError; differences are checks that do not hold.
    """
    folders = [path, *([target] if target is not None else []), *adapters]
    with unchanged(*map(files_of, folders)):
        manifest = read_sidecar(path, "graft")
        return list(_checks(path, manifest, Inputs(target, adapters, threads, advance)))


def _checks(path: Path, manifest: dict[str, Any], inputs: Inputs) -> Iterator[Check]:
    yield run_check("files", lambda: _files(path, manifest))
    try:
        model = open_model(path)
    except ContextgraftError as error:
        raise_read_error(error, path)
        yield Check("layout", False, str(error))
        return
    yield Check("layout", True, f"{len(model.shards)} file(s) of {len(model.tensors)} tensors")
    from contextgraft.adapter.verify.graft_tensors import check_recomputed, check_tensors

    yield run_check("tensors", lambda: check_tensors(model, manifest, inputs))
    yield run_check("rope", lambda: _rope(model, manifest))
    yield run_check("embeddings", lambda: _embeddings(model, manifest))
    yield run_check("tokenizer", lambda: _tokenizer(model, manifest))
    target = inputs.target
    if inputs.adapters:
        yield run_check("adapters", lambda: _adapters(inputs.adapters, model, manifest))
    if target is None:
        return
    digests: dict[str, str] = {}  # of target tensors that the merge has read again: none is read twice
    recomputed = None
    if inputs.adapters:
        recomputed = run_check(
            "recomputed", lambda: check_recomputed(model, target, manifest, inputs, digests)
        )
    yield run_check("target", lambda: _target(target, model, manifest, digests))
    if recomputed is not None:
        yield recomputed


def _files(path: Path, manifest: dict[str, Any]) -> str:
    files = (file for file in list_below(path, hidden=True) if file.is_file())
    present = {file.relative_to(path).as_posix() for file in files} - {SIDECAR}
    present -= _unrecorded_card(manifest)
    check_equal("the list of files", sorted(manifest["files"]), sorted(present))
    for name, facts in manifest["files"].items():
        check_equal(f"the size of {name}", facts["bytes"], (path / name).stat().st_size)
        check_equal(f"the digest of {name}", facts, file_facts(path / name))
    return f"{len(present)} files have the recorded bytes"


def _unrecorded_card(manifest: dict[str, Any]) -> set[str]:
    """The card of a graft, which may be edited; older grafts have the target's, which is recorded."""
    return {CARD}.difference(manifest["files"])


def _rope(model: ModelFolder, manifest: dict[str, Any]) -> str:
    context = _recorded(manifest)
    own = settings.read_any_length(model.config, model.path)
    after = context.rope.with_fraction_of(own)
    check_equal("RoPE as new readers see it", after, own)
    if manifest["rope"]["from"] == "target":
        return f"{after.description}, as the target had them"
    if not reads_back(model.config, after):
        raise VerificationError("transformers reads other RoPE settings", path=model.path, expected=after)
    section = text_section(model.config)
    if "rope_theta" in section:
        scaling = section.get("rope_scaling") or {}
        check_equal("RoPE as old readers see it: theta", after.theta, section["rope_theta"])
        old_type = scaling.get("rope_type", scaling.get("type", "default"))
        check_equal("RoPE as old readers see it: type", after.rope_type, old_type)
    values = own_values(model.config, context.attention) if context.attention else {}
    for name, setting in context.attention.items():
        check_equal(name, setting.donor, values[name])
    carried = f", {', '.join(context.attention)} of the donor" if context.attention else ""
    return f"{after.description}{carried}"


def _recorded(manifest: dict[str, Any]) -> ContextSettings:
    attention = travelling.from_json(manifest.get("attention", {}))
    return ContextSettings(settings.from_json(manifest["rope"]["after"]), attention)


def _embeddings(model: ModelFolder, manifest: dict[str, Any]) -> str:
    """Check that readers take the head that was merged, and as many tokens as there are rows."""
    state, record = head_state(model), manifest.get("embeddings", {})
    if state in (HeadState.MISSING, HeadState.CONTRADICTED):
        raise VerificationError(
            "readers do not agree on lm_head", expected="one that is tied or stored", received=state.value
        )
    check_equal("untied embeddings", record.get("untied", False) and state.is_tied, False)
    size = vocabulary_size(model.config)
    rows = {model[name].rows for name in model.tensors if is_embedding(name)}
    if size is not None and rows and size not in rows:
        check_equal("the rows of the embeddings", [size], sorted(rows))
    return f"{', '.join(map(str, sorted(rows))) or 'no'} rows; output layer {state.value}"


def _tokenizer(model: ModelFolder, manifest: dict[str, Any]) -> str:
    lengths = manifest["tokenizer"].get(LENGTH)
    if lengths is None:
        return "no tokenizer to adapt"
    check_equal("the tokenizer's length", lengths[1], read_json(model.path / TOKENIZER_CONFIG).get(LENGTH))
    return f"{lengths[1]} tokens"


def _adapters(paths: Sequence[Path], model: ModelFolder, manifest: dict[str, Any]) -> str:
    opened = [open_adapter(path) for path in paths]
    recorded = [known["digest"] for known in manifest["adapters"]]
    received = [
        digest if adapter.is_recorded_as(digest) else adapter.digest
        for adapter, digest in zip_longest(opened, recorded)
        if adapter is not None
    ]
    check_equal("the list of adapters", recorded, received)
    if manifest["rope"]["from"] == "adapter":
        context = _recorded(manifest)
        for adapter in opened:
            if adapter.rope is not None:
                donors = rope_for(model.config, adapter.rope, model.path)
                check_equal("the donor's RoPE", context.rope.with_fraction_of(donors), donors)
            if adapter.attention is not None:
                changed = travelling.to_json(adapter.attention)
                check_equal("the donor's attention settings", travelling.to_json(context.attention), changed)
    earlier = any(adapter.digest != digest for adapter, digest in zip(opened, recorded, strict=True))
    note = "; an earlier version recorded the digest, which does not cover the tokenizer and tied embeddings"
    return f"{len(opened)} adapter(s) of rank {', '.join(str(a.rank) for a in opened)} were merged" + (
        note if earlier else ""
    )


def _target(path: Path, graft: ModelFolder, manifest: dict[str, Any], known: Mapping[str, str]) -> str:
    target = open_model(path)
    digests = tensor_digests(target, known)
    for name, digest in digests.items():
        check_equal(f"tensor {name} of the target", manifest["tensors"][name]["digest_before"], digest)
    context = _recorded(manifest)
    kept = manifest["rope"]["from"] == "target"
    record = manifest.get("embeddings", {})
    config = target.config if kept else graft_config(target.config, context)
    expected = with_embeddings(config, record)
    check_equal("config.json", without_paths(expected), without_paths(graft.config))
    theirs = set(TOKENIZER_FILES) if "tokenizer" in record else set()
    both = set(target.others) & set(graft.others) - theirs - {SIDECAR} - _unrecorded_card(manifest)
    for name in sorted(both & set(CONTEXT_FILES)):  # `publish` removes paths from them
        before = read_json(path / name)
        expected = before if kept else CONTEXT_FILES[name](before, context.rope.context)
        check_equal(name, without_paths(expected), without_paths(read_json(graft.path / name)))
    for name in sorted(both - set(CONTEXT_FILES)):
        check_equal(f"the digest of {name}", file_digest(path / name), file_digest(graft.path / name))
    check_equal("the digest of the target", manifest["target"]["digest"], identity(target, digests)["digest"])
    return f"is the target of the merge: {manifest['target']['name']}"
