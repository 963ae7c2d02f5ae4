"""Architecture, RoPE and sizes of a model, from its config and headers alone: no weight is read."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from contextgraft.checkpoint.full_precision import quantisation
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.formats.model.vocabulary import VocabularyDifference, read_vocabulary
from contextgraft.formats.tensor_names import input_embedding, output_embedding
from contextgraft.rope import settings
from contextgraft.rope.text_section import text_section

if TYPE_CHECKING:
    from contextgraft.adapter.analysis.distance import KindDistance, ModelDistance

SHOWN = 10  # names of a list in text output; JSON has all


def summary(folder: ModelFolder) -> dict[str, Any]:
    """Architecture, RoPE, sizes; `bytes` of tensor data, `parameters` as stored (tied once)."""
    config = text_section(folder.config)
    rope = settings.read_any_length(folder.config, folder.path)
    by_layer_type = {"theta": dict(rope.by_layer_type)} if rope.by_layer_type else {}
    vocabulary = read_vocabulary(folder)
    embedding = input_embedding(folder.tensors)
    heads = config.get("num_attention_heads")
    return {
        "path": str(folder.path),
        "architecture": (folder.config.get("architectures") or [folder.config.get("model_type", "unknown")])[
            0
        ],
        "layers": config.get("num_hidden_layers"),
        "hidden_size": config.get("hidden_size"),
        "heads": heads,
        "key_value_heads": config.get("num_key_value_heads", heads),
        "context": rope.context,
        "rope": settings.to_json(rope) | by_layer_type,
        "vocabulary": {
            "rows": folder[embedding].rows if embedding else config.get("vocab_size"),
            "tokens": None if vocabulary is None else len(vocabulary),
        },
        "tied_embeddings": output_embedding(folder.tensors) is None,
        "quantised": quantisation(folder),
        "dtypes": dict(sorted(Counter(info.dtype for info in folder.tensors.values()).items())),
        "tensors": len(folder.tensors),
        "shards": len(folder.shards),
        "parameters": sum(info.numel for info in folder.tensors.values()),
        "bytes": sum(info.bytes for info in folder.tensors.values()),
    }


def difference(distance: "ModelDistance", vocabulary: VocabularyDifference | None) -> dict[str, Any]:
    """The comparison with a base as plain JSON values."""
    return {
        "kinds": {kind.kind: kind_row(kind) for kind in distance.kinds},
        "tensors_changed": distance.changed,
        "only_base": list(distance.only_base),
        "only_model": list(distance.only_model),
        "shapes": {
            name: {"base": list(a), "model": list(b)} for name, (a, b) in sorted(distance.shapes.items())
        },
        "vocabulary": None
        if vocabulary is None
        else {
            "same": vocabulary.same,
            "moved": list(vocabulary.moved),
            "only_base": list(vocabulary.only_base),
            "only_model": list(vocabulary.only_model),
        },
    }


def kind_row(kind: "KindDistance") -> dict[str, Any]:
    """One kind of tensor as plain JSON values."""
    return {
        "tensors": kind.tensors,
        "changed": kind.changed,
        "base_norm": kind.base_norm,
        "delta_norm": kind.delta_norm,
        "relative": kind.relative,
    }


def summary_lines(info: dict[str, Any]) -> list[str]:
    """What `contextgraft inspect` prints about a model, from its summary."""
    rope, rows, tokens = info["rope"], info["vocabulary"]["rows"], info["vocabulary"]["tokens"]
    tied = "tied" if info["tied_embeddings"] else "not tied"
    extra = "".join(f", {key} {value}" for key, value in rope["extra"].items())
    return [
        f"model         {info['path']}",
        f"architecture  {info['architecture']}: {info['layers']} layers, hidden {info['hidden_size']},"
        f" {info['heads']} heads ({info['key_value_heads']} key-value)",
        f"rope          {_thetas(rope['theta'])}, {rope['rope_type']}{extra}",
        f"context       {f'{length:,} tokens' if (length := info['context']) else 'no limit'}",
        f"vocabulary    {rows:,} rows, {tokens or 'unknown'} tokens, embeddings {tied}",
        f"dtype         {', '.join(f'{dtype} x {count}' for dtype, count in info['dtypes'].items())}",
        *([f"quantised     {info['quantised']}: no delta can be added"] if info["quantised"] else []),
        f"size          {info['parameters']:,} parameters, {info['bytes']:,} bytes, {info['shards']} file(s)",
    ]


def _thetas(theta: Any) -> str:
    """One theta, or one for each layer type."""
    if not isinstance(theta, dict):
        return f"theta {theta:g}"
    return ", ".join(
        f"{name} theta {value['rope_theta']:g}" if value else f"{name} without RoPE"
        for name, value in theta.items()
    )


def difference_lines(info: dict[str, Any]) -> list[str]:
    """The comparison as lines of text."""
    lines = [f"{'kind':<24}{'tensors':>8}{'changed':>8}{'relative distance':>20}"]
    for kind, row in info["kinds"].items():
        relative = "-" if row["relative"] is None else f"{row['relative']:.4%}"
        lines.append(f"{kind:<24}{row['tensors']:>8}{row['changed']:>8}{relative:>20}")
    shapes = (f"{name} {sides['base']} -> {sides['model']}" for name, sides in info["shapes"].items())
    vocabulary = info["vocabulary"] or {}
    lists = {
        "shape differs": list(shapes),
        "only in the base": info["only_base"],
        "only in the model": info["only_model"],
        "tokens moved": vocabulary.get("moved", []),
        "tokens only in the base": vocabulary.get("only_base", []),
        "tokens only in the model": vocabulary.get("only_model", []),
    }
    return lines + [f"{label}: {len(names)}: {shortened(names)}" for label, names in lists.items() if names]


def shortened(names: list[str]) -> str:
    """The first names of a list, for one line, with "..." if there are more."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
