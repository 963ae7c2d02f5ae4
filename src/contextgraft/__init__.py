"""Graft the long context of one language model onto any fine-tune of the same base.

The names in `__all__` are the public interface, described in docs/api.md. They are imported when they are
first used, so that `import contextgraft` costs nothing. All other modules may change with any version.
"""

import importlib
from typing import TYPE_CHECKING

from contextgraft._version import __version__

if TYPE_CHECKING:
    from contextgraft.adapter.analysis.compare import AdapterDistance
    from contextgraft.adapter.lora.adapter import Adapter
    from contextgraft.adapter.merge.plan import MergePlan
    from contextgraft.adapter.verify.checks import Check
    from contextgraft.api import (
        align,
        compare,
        extract,
        fetch,
        merge,
        open_adapter,
        open_model,
        plan_merge,
        read_rope,
        verify,
    )
    from contextgraft.api_results import Comparison, ExtractedAdapter, MergeResult, Verification
    from contextgraft.checkpoint.model_folder import ModelFolder
    from contextgraft.errors import (
        CheckpointError,
        ContextgraftError,
        InputError,
        MismatchError,
        OutputError,
        SourceError,
        VerificationError,
    )
    from contextgraft.formats.alignment import AlignmentResult
    from contextgraft.rope.settings import RopeSettings

__all__ = [
    "Adapter",
    "AdapterDistance",
    "AlignmentResult",
    "Check",
    "CheckpointError",
    "Comparison",
    "ContextgraftError",
    "ExtractedAdapter",
    "InputError",
    "MergePlan",
    "MergeResult",
    "MismatchError",
    "ModelFolder",
    "OutputError",
    "RopeSettings",
    "SourceError",
    "Verification",
    "VerificationError",
    "__version__",
    "align",
    "compare",
    "extract",
    "fetch",
    "merge",
    "open_adapter",
    "open_model",
    "plan_merge",
    "read_rope",
    "verify",
]

_MODULES = {
    "Adapter": "adapter.lora.adapter",
    "AlignmentResult": "formats.alignment",
    "Check": "adapter.verify.checks",
    "Comparison": "api_results",
    "AdapterDistance": "adapter.analysis.compare",
    "ExtractedAdapter": "api_results",
    "MergePlan": "adapter.merge.plan",
    "MergeResult": "api_results",
    "ModelFolder": "checkpoint.model_folder",
    "RopeSettings": "rope.settings",
    "Verification": "api_results",
}


def __getattr__(name: str) -> object:
    """Import a public name from the module that defines it, once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES.get(name, "errors" if name.endswith("Error") else "api")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
