"""Parse what follows `vllm serve` or `sglang serve` by the server's own parser; print what it understood.

Usage: parse_command.py vllm|sglang FOLDER LIBRARIES WORD... Libraries that only the engine needs are replaced
where the files of the server import them.
"""

import argparse
import importlib.abc
import importlib.machinery
import json
import multiprocessing.connection
import os
import sys
import types
from typing import Any
from unittest.mock import MagicMock

import torch
import transformers

SERVER, FOLDER, LIBRARIES = sys.argv[1:4]
LOADED = {*sys.modules, torch.__name__, transformers.__name__, multiprocessing.connection.__name__}


class Replaced(types.ModuleType):
    """A module whose every name is a mock."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.__dict__.setdefault(name, MagicMock(name=f"{self.__name__}.{name}"))


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Asked last: what is not installed, and the server's compiled modules."""

    def __init__(self) -> None:
        self.packages: set[str] = set()

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        top, last = name.partition(".")[0], name.rpartition(".")[2]
        if top in sys.stdlib_module_names or name in LOADED or (top == SERVER and not last.startswith("_")):
            return None
        if importer() != SERVER and top not in self.packages:
            return None
        if top != SERVER:
            self.packages.add(top)
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        return Replaced(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def importer() -> str:
    """The package whose import statement is carried out."""
    frame: Any = sys._getframe(2)
    while frame is not None and "importlib" in frame.f_code.co_filename:
        frame = frame.f_back
    return "" if frame is None else str(frame.f_globals.get("__name__", "")).partition(".")[0]


def vllm(words: list[str]) -> dict[str, Any]:
    from vllm.entrypoints.common.cli_args import make_arg_parser  # type: ignore[import-not-found]
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # type: ignore[import-not-found]

    found = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
    lora = [(module.name, module.path) for module in found.lora_modules or []]
    return {
        "model": found.model_tag, "revision": found.revision, "lora": lora, "rank": found.max_lora_rank,
        "override": found.hf_overrides, "length": found.max_model_len, "enabled": found.enable_lora,
    }  # fmt: skip


def sglang(words: list[str]) -> dict[str, Any]:
    from sglang.srt.server_args import ServerArgs  # type: ignore[import-not-found]

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    found = parser.parse_args(words)
    lora = [
        (item["lora_name"], item["lora_path"]) if isinstance(item, dict) else tuple(item.split("=", 1))
        for item in found.lora_paths or []
    ]
    return {
        "model": found.model_path, "revision": found.revision, "lora": lora,
        "override": json.loads(found.json_model_override_args), "length": found.context_length,
    }  # fmt: skip


os.environ["VLLM_TARGET_DEVICE"] = "cpu"
sys.path[:0] = [FOLDER, LIBRARIES]
sys.meta_path.append(Finder())
print(json.dumps({"vllm": vllm, "sglang": sglang}[SERVER](sys.argv[4:])))
