"""Whether a model can be the target of any adapter: what `merge` checks without knowing the adapter."""

from collections.abc import Collection, Iterator

from contextgraft.adapter.merge.fitted_entries import BASE_LAYER
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.errors import CheckpointError, MismatchError
from contextgraft.formats.model.runtime_names import HEADED, not_loaded
from contextgraft.formats.model.tied_head import class_name, lacks_head, vocabulary_size
from contextgraft.formats.tensor_names import FLOATS, input_embedding, output_embedding, without_wrappers


def check_names_and_head(target: ModelFolder) -> None:
    """Raise CheckpointError for names that no reader knows and the graft would keep, and a missing head."""
    for name in target.tensors:
        plain = without_wrappers(name)
        if plain != name or BASE_LAYER in name or ".lora_A." in name:
            raise CheckpointError(
                f"has a tensor with a name that no reader loads: {name!r}",
                path=target.path, expected=f"{plain.replace(BASE_LAYER, '.')!r}",
                remedy="a wrapper of training (torch.compile, FSDP, PEFT) added to the names: unwrap the "
                "model and save it again",
            )  # fmt: skip
    if lacks_head(target):
        raise CheckpointError(
            "has no output layer: its config does not tie it to the input embeddings, and it is not stored",
            path=target.path, expected="lm_head, or tie_word_embeddings true", received="neither",
            remedy="fetch the target again, or set tie_word_embeddings if its base is tied",
        )  # fmt: skip


def check_has_head(target: ModelFolder, head: str) -> None:
    """Raise MismatchError where an adapter changes an output layer and the target's class has none."""
    name = class_name(target)
    if head not in target.tensors and name is not None and not name.endswith(HEADED):
        raise MismatchError(
            f"has no output layer (its class is {name}), and the adapter changes one",
            path=target.path, expected=f"{head!r}", received="no such tensor",
            remedy="extract the adapter with --embeddings input, or without --embeddings",
        )  # fmt: skip


def unknown_names(target: ModelFolder, names: Collection[str]) -> Iterator[str]:
    """A warning of tensors of these names that the target's class does not load.

    Names of towers and of wrappers are legitimate in some classes only. Imports transformers for any name.
    """
    lost = sorted(not_loaded(target.config, [name for name in names if name in target.tensors]))
    if lost:
        others = f", nor {len(lost) - 1} more" if lost[1:] else ""
        yield (
            f"{target.path}: transformers loads no tensor named {lost[0]!r} into its class "
            f"({target.config.get('model_type')}){others}: the target does not load as "
            "it is, and neither will the graft; save it again with save_pretrained"
        )


def check_takes_delta(target: ModelFolder, name: str, other: str) -> None:
    """Raise MismatchError for a tensor of a precision to which no delta is added (F64)."""
    if target[name].dtype not in FLOATS:
        raise MismatchError(
            f"tensor {name!r} cannot take a delta",
            path=target.path,
            expected=f"{', '.join(FLOATS)}, as {other} needs",
            received=target[name].dtype,
            remedy="use the target in another precision",
        )


def check_vocabulary(target: ModelFolder) -> None:
    """Raise MismatchError if config and embeddings of the target disagree; it may have other tokens."""
    size = vocabulary_size(target.config)
    name, head = input_embedding(target.tensors), output_embedding(target.tensors)
    rows = [target[end].rows for end in (name, head) if end is not None]
    if name is None or size is None or size in rows:  # Mllama's input has more rows
        return
    raise MismatchError(
        f"config.json and tensor {name!r} disagree about the vocabulary",
        path=target.path,
        expected=f"{size} rows (vocab_size)",
        received=f"{target[name].rows}",
        remedy="the target is damaged: fetch it again",
    )
