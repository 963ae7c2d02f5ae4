"""How a published adapter or graft is used: code and commands, complete but for the user's own models."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pprint import pformat
from typing import Any

from contextgraft.formats.model_card.markdown import code_block, escape

REPOSITORY = "OWNER/NAME"  # in cards of folders that are not published; `publish` puts the repository there
FOLDER = "adapter"  # name of the folder that the commands for servers read
FINE_TUNE = "YOUR_FINE_TUNE"


@dataclass(frozen=True)
class ServerCommand:
    """A command quoted for a POSIX shell; None if the server cannot take the adapter: `note` says why."""

    server: str
    command: str | None
    note: str | None = None


@dataclass(frozen=True)
class AdapterUsage:
    """What the snippets of an adapter's card contain.

    `base` and `revision` are those of adapter_config.json. `config` are the keys of config.json that give a
    model the donor's RoPE and attention settings; `dense` is the number of tensors that only contextgraft
    changes, `mergekit` whether that program can apply the factors.
    """

    base: str
    revision: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    servers: tuple[ServerCommand, ...] = ()
    dense: int = 0
    mergekit: bool = True


def adapter_usage(usage: AdapterUsage | None) -> str:
    """The sections of an adapter's card with code and commands; without `usage` only the first."""
    merge = f"contextgraft merge --adapter hf:{REPOSITORY} --target {FINE_TUNE} --out graft"
    sections = [
        f"{FINE_TUNE} is any fine-tune of the base, `hf:OWNER/MODEL` or a folder. `merge` writes it with the "
        "long context and with the donor's RoPE settings:",
        code_block(merge),
    ]
    if usage is None:
        return "\n\n".join(sections)
    sections += ["### PEFT", _peft_words(usage), code_block(_peft(usage), "python")]
    sections += ["### Servers", *_servers(usage.servers, f"hf download {REPOSITORY} --local-dir {FOLDER}")]
    if usage.mergekit:
        sections += ["### mergekit", *_mergekit(usage)]
    return "\n\n".join(sections)


def graft_usage(servers: Sequence[ServerCommand]) -> str:
    """The sections of a graft's card with code and commands."""
    python = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{REPOSITORY}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{REPOSITORY}")'
    )
    verify = f"contextgraft fetch hf:{REPOSITORY} --out graft\ncontextgraft verify graft"
    words = "`config.json` has the donor's settings; loading the model needs no extra options:"
    blocks = [
        words,
        code_block(python, "python"),
        "`verify` checks it against its record:",
        code_block(verify),
    ]
    if servers:
        blocks += ["### Servers", *_servers(servers, f"hf download {REPOSITORY} --local-dir graft")]
    return "\n\n".join(blocks)


def _peft_words(usage: AdapterUsage) -> str:
    words = (
        "PEFT does not change RoPE settings: the base is loaded with the donor's (transformers 5). A "
        "fine-tune can be loaded in place of the base."
    )
    if usage.dense:
        words += (
            f" PEFT does not apply the deltas of {usage.dense} norms and biases, which only `contextgraft "
            "merge` does: the results differ a little."
        )
    return words


def _peft(usage: AdapterUsage) -> str:
    settings = pformat(dict(usage.config), width=100, sort_dicts=True)
    revision = f", revision={json.dumps(usage.revision)}" if usage.revision else ""
    return (
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM\n\n"
        f"settings = {settings}\n"
        f"base = AutoModelForCausalLM.from_pretrained({json.dumps(usage.base)}{revision}, **settings)\n"
        f'model = PeftModel.from_pretrained(base, "{REPOSITORY}")'
    )


def _servers(servers: Sequence[ServerCommand], download: str) -> list[str]:
    """One block with a command for each server, and what each needs in addition."""
    lines, notes = [download], []
    for item in servers:
        lines += [f"# {item.server}", item.command] if item.command else []
        notes += [f"- {escape(item.server)}: {escape(item.note)}"] if item.note else []
    return [code_block("\n".join(lines)), *(["\n".join(notes)] if notes else [])]


def _mergekit(usage: AdapterUsage) -> list[str]:
    config = (
        f"# mergekit-yaml config.yaml graft\nmodels:\n  - model: {FINE_TUNE}+{REPOSITORY}\n"
        "    parameters:\n      weight: 1.0\nmerge_method: linear\ndtype: bfloat16"
    )
    return [
        "mergekit applies the factors only. `config.json` of its output must be given these settings by "
        "hand, without which it has no long context:",
        code_block(config, "yaml"),
        code_block(json.dumps(dict(usage.config), indent=2, sort_keys=True), "json"),
    ]
