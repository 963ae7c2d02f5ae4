"""The process that reads pickles: torch's weights-only loader, within limits of memory, time and file size.

Started by `contextgraft.sources.pickles.process` with a request as JSON on standard input; the answer is JSON
on standard output, {} or {"error": ..., "received": ...}.
"""

import json
import re
import resource
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from contextgraft.checkpoint.reader import NAMES
from contextgraft.checkpoint.writer import Spec, order, write_tensors
from contextgraft.errors import OutputError
from contextgraft.formats.model.limited_process import lower_limit
from contextgraft.formats.tensor_names import input_embedding, output_embedding

ZIP = b"PK\x03\x04"
PICKLE = b"\x80"  # first byte of a pickle of protocol 2 or newer
GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
DETAIL = re.compile(r"(?:WeightsUnpickler error: |\n\n\n)(.+)")
LIBRARY_BYTES = 1 << 30  # address space that torch may still need after its import
OPEN_FILES = 64
# keys under which trainers put the tensors, next to an epoch, an optimiser's state and others
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")


@dataclass(eq=False)  # not frozen: Python sets the traceback of an exception
class UnusableError(Exception):
    """A file that does not hold plain tensors."""

    what: str
    received: str
    remedy: str | None = None


def main() -> None:
    """Convert the files of the request; every failure is an answer."""
    request = json.load(sys.stdin)
    _limit(request["memory"], request["seconds"], request["file_bytes"])
    torch.set_num_threads(1)
    print(json.dumps(convert(request)))


def convert(request: Mapping[str, Any]) -> dict[str, Any]:
    """Write the outputs of a request, one after another; returns the answer."""
    for output in request["outputs"]:
        answer = _convert(output, drop_tied_head=request["drop_tied_head"])
        if answer:
            return {**answer, "path": output["path"]}
    return {}


def _convert(output: Mapping[str, Any], *, drop_tied_head: bool) -> dict[str, Any]:
    """Write one output; what went wrong, or nothing."""
    try:
        _write(output, drop_tied_head=drop_tied_head)
        answer: dict[str, Any] = {}
    except UnusableError as error:
        answer = {"error": error.what, "received": error.received, "remedy": error.remedy}
    except OutputError as error:
        answer = {"error": "output", "received": str(error)}
    except MemoryError:
        answer = {"error": "memory"}
    except Exception as error:  # torch raises anything for a malformed file
        answer = _explain(str(error))
    return answer


def _limit(memory: int, seconds: int, file_bytes: int) -> None:
    """Limits for this process, in addition to the address space that it has now; smaller ones stay."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    space = used + LIBRARY_BYTES + memory
    for kind, value in (
        (resource.RLIMIT_AS, space),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        lower_limit(kind, value)


def _write(output: Mapping[str, Any], *, drop_tied_head: bool) -> None:
    """The tensors of one file as safetensors."""
    tensors = _load(Path(output["path"]), output["prefix"])
    if drop_tied_head:
        _drop_tied_head(tensors)
    specs: dict[str, Spec] = {name: (value.dtype, tuple(value.shape)) for name, value in tensors.items()}
    write_tensors(Path(output["out"]), specs, (tensors[name] for name in order(specs)))


def _load(path: Path, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors of one file by name; `prefix` is put before names that lack it."""
    with path.open("rb") as file:
        head = file.read(40)
    mmap = head.startswith(ZIP)  # older files cannot be mapped
    if not mmap and not head.startswith(PICKLE):  # a pointer of Git LFS, a page of HTML
        raise UnusableError("cannot be read as tensors", repr(head)[2:-1] or "nothing")
    if mmap:
        _check_not_compressed(path)
    content = torch.serialization.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    if not isinstance(content, dict) or not content:
        raise UnusableError("does not hold tensors by name", type(content).__name__)
    return dict(_tensor(str(name), value, prefix) for name, value in _unwrapped(content).items())


def _unwrapped(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The tensors by name of a trainer's checkpoint, which holds them under one known key."""
    values = content.values()
    if any(isinstance(value, torch.Tensor) for value in values) or not any(map(_is_mapping, values)):
        return content
    inner = [str(key) for key, value in content.items() if _holds_tensors(value)]
    known = [key for key in inner if key in WRAPPERS]
    if known and len(inner) == 1:
        return _unwrapped(content[known[0]])
    key = inner[0] if inner else "KEY"
    raise UnusableError(
        "does not hold tensors by name, nor under one key of those that trainers use",
        f"{', '.join(map(str, content))[:200]}; with tensors in {', '.join(inner)[:200] or 'none'}",
        f"save the model's tensors alone, where it was made: torch.save(checkpoint[{key!r}], FILE)",
    )


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _holds_tensors(value: Any, depth: int = 2) -> bool:
    """Whether a value is a mapping of names to tensors only, at most `depth` wrappers around them."""
    if not isinstance(value, Mapping) or not value:
        return False
    if all(isinstance(inner, torch.Tensor) for inner in value.values()):
        return True
    return depth > 0 and len(value) == 1 and all(_holds_tensors(inner, depth - 1) for inner in value.values())


def _check_not_compressed(path: Path) -> None:
    """Torch never compresses, and a mapped file would be read as it is."""
    with zipfile.ZipFile(path) as archive:
        packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise UnusableError("is compressed, as torch never writes it", packed[0][:200])


def _tensor(name: str, value: Any, prefix: str) -> tuple[str, torch.Tensor]:
    """A plain tensor and its name; anything else raises UnusableError."""
    if not isinstance(value, torch.Tensor):
        raise UnusableError(f"holds something else than tensors, at {name[:200]!r}", type(value).__name__)
    plain = value.layout is torch.strided and value.device.type == "cpu" and value.dtype in NAMES
    if not plain or value.is_quantized:
        raise UnusableError(
            f"tensor {name[:200]!r} has no form of safetensors", f"{value.dtype}, {value.layout}"
        )
    if value.numel() * value.itemsize > max(value.untyped_storage().nbytes(), 1):
        raise UnusableError(
            f"tensor {name[:200]!r} is larger than its data", f"shape {list(value.shape)}"[:80]
        )
    return (name if name.startswith(prefix) else prefix + name), value.detach()


def _drop_tied_head(tensors: dict[str, torch.Tensor]) -> None:
    """Remove lm_head where it shares the memory of the input embeddings, as `save_pretrained` does."""
    embedding, head = input_embedding(tensors), output_embedding(tensors)
    if embedding is None or head is None or not tensors[head].numel():
        return
    sides = [(t.data_ptr(), t.shape, t.stride(), t.dtype) for t in (tensors[embedding], tensors[head])]
    if sides[0] == sides[1]:
        del tensors[head]


def _explain(text: str) -> dict[str, Any]:
    """The answer for an error of torch's: memory, code in the pickle, or a malformed file."""
    if "allocate memory" in text:
        return {"error": "memory"}
    if code := GLOBAL.findall(text):
        return {"error": "code", "received": code[0][:200]}
    detail = DETAIL.search(text)
    return {
        "error": "cannot be read as tensors",
        "received": (detail[1] if detail else text)[:200] or "nothing",
    }


if __name__ == "__main__":
    main()
