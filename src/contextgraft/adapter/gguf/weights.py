"""The weights of llama.cpp that the tensors of an adapter change."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from contextgraft.adapter.gguf.llama_cpp import (
    ARCHITECTURES,
    NO_ADAPTER,
    STACKED_EXPERTS,
    VARIANTS,
    LlamaCppArchitecture,
    RowSelection,
    find_architecture,
)
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.errors import InputError
from contextgraft.formats.architecture import architecture
from contextgraft.formats.model.parameters import EXPERT, module_parameters
from contextgraft.formats.model.tied_head import head_state
from contextgraft.formats.peft import module_of
from contextgraft.formats.tensor_names import comparable, is_stacked, layer_of, rows_are_tokens

FEED_FORWARD = re.compile(r"\.feed_forward\.(?=experts)")  # Jamba's experts, which gguf maps as Qwen's


@dataclass(frozen=True)
class GgufWeight:
    """A weight of llama.cpp, and the adapter's tensors that have its factors.

    `tensors` is one, or one for each expert that has factors, by its number; `experts` is then the number of
    experts, else 0. `swapped`: PEFT's inputs of stacked experts are llama.cpp's outputs.
    """

    name: str
    tensors: Mapping[int, str]
    rows: RowSelection = RowSelection.ALL
    experts: int = 0
    swapped: bool = False


@dataclass(frozen=True)
class GgufLayout:
    """How llama.cpp stores what an adapter changes."""

    architecture: LlamaCppArchitecture
    config: Mapping[str, Any]
    weights: tuple[GgufWeight, ...]


def gguf_layout(tensors: Collection[str], base: ModelFolder) -> GgufLayout:
    """The weights in llama.cpp of the tensors of an adapter on `base`.

    An architecture or module that an adapter in GGUF cannot have raises InputError, and embeddings of a base
    that ties them: llama.cpp aborts on those.
    """
    model_type = str(architecture(base.config).get("model_type"))
    found = find_architecture(model_type, base.tensors)
    if found is None:
        raise InputError(
            f"no GGUF adapter can be written for {model_type}: "
            + NO_ADAPTER.get(model_type, "it was not compared with llama.cpp"),
            path=base.path, expected=", ".join(sorted({*ARCHITECTURES, *VARIANTS})), received=model_type,
            remedy="leave --gguf out",
        )  # fmt: skip
    if any(rows_are_tokens(tensor) for tensor in tensors) and head_state(base).is_tied:
        raise InputError(
            "llama.cpp aborts on an adapter of embeddings that input and output share",
            path=base.path, remedy="leave --gguf or --embeddings out, or convert a graft instead",
        )  # fmt: skip
    return GgufLayout(found, base.config, tuple(_weights(tensors, base, found)))


def _weights(
    tensors: Collection[str], base: ModelFolder, found: LlamaCppArchitecture
) -> Iterator[GgufWeight]:
    names = _Names(found, int(architecture(base.config)["num_hidden_layers"]), base.path)
    stacks: dict[str, dict[int, str]] = {}
    inputs_first = _inputs_first(base)
    for tensor in sorted(tensors):
        number = EXPERT.search(tensor)
        if number is None:
            as_stored = module_of(tensor).endswith(found.inputs_first)
            swapped = inputs_first.get(tensor, as_stored) != as_stored
            for name, rows in names.of(tensor).items():
                yield GgufWeight(name, {0: tensor}, rows, swapped=swapped)
        else:
            stacks.setdefault(EXPERT.sub(".experts.", tensor), {})[int(number[1])] = tensor
    numbers = [(EXPERT.sub(".experts.", comparable(name)), EXPERT.search(name)) for name in base.tensors]
    for merged, members in stacks.items():
        experts = sum(number is not None and name == comparable(merged) for name, number in numbers)
        for name, rows in names.of(merged).items():
            yield GgufWeight(name, members, rows, experts)


def _inputs_first(base: ModelFolder) -> dict[str, bool]:
    """Of each tensor of stacked experts, in memory, whether PEFT takes [experts, inputs, outputs]."""
    stacked = {name for name, info in base.tensors.items() if is_stacked(info)}
    parameters = module_parameters(base).items() if stacked else ()
    return {parameter.name: parameter.inputs_first for name, parameter in parameters if name in stacked}


@dataclass(frozen=True)
class _Names:
    """Names of weights in llama.cpp; `path` is named in errors."""

    architecture: LlamaCppArchitecture
    layers: int
    path: Path

    def of(self, tensor: str) -> dict[str, RowSelection]:
        """The weights that a tensor is stored as; InputError if llama.cpp has none for it."""
        module = module_of(tensor)
        for end, split in {**STACKED_EXPERTS, **self.architecture.split}.items():
            if module.endswith(f".{end}"):
                return {f"blk.{layer_of(tensor)}.{name}.weight": rows for name, rows in split.items()}
        by_name = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
        table = gguf.get_tensor_name_map(by_name[self.architecture.name], self.layers)
        short = module_of(comparable(tensor))
        known = (module, f"model.{short}", short, FEED_FORWARD.sub(".mlp.", module))
        name = next(filter(None, map(table.get_name, known)), None)
        if name is None:
            raise InputError(
                f"module {module!r} cannot be stored in a GGUF adapter of {self.architecture.name}, "
                "which has no such weight",
                path=self.path, remedy="leave --gguf out, or --exclude it",
            )  # fmt: skip
        return {f"{name}.weight": RowSelection.ALL}
