"""Write the generated pages of the documentation: every command from its help, every key from the schema.

Usage: python scripts/reference.py [--check]. With --check nothing is written; exit code 1 if a page is old.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from contextgraft.cli.main import VERBS, cli
from contextgraft.config.study import StudyConfig

DOCS = Path(__file__).resolve().parents[1] / "docs"
WIDTH = 80  # columns of a page of the site, and of a terminal
COMMANDS = """# Commands

This page is generated from the help of the commands (`python scripts/reference.py`); `--help` prints the
same text.

Every option also has an environment variable: `CONTEXTGRAFT_`, the command and the option in upper case
with underscores, such as `CONTEXTGRAFT_MERGE_THREADS=4` for `contextgraft merge --threads 4`. The option
wins where both are given. A flag is set by `1`; an option that may be repeated takes several values with
spaces between them.

Exit codes: 0, done, also if it had been done before; 1, evaluated, but prompts failed, or a check does
not hold; 2, a mistake, in one line; 130, interrupted: the same command resumes.

Completion of commands and options in bash: `eval "$(_CONTEXTGRAFT_COMPLETE=bash_source contextgraft)"`;
in zsh and fish the same with `zsh_source` and `fish_source`.
"""
CONFIGURATION = """# Keys of a study

This page is generated from the JSON schema of a study, `config/schema.json` (`python
scripts/reference.py`), which editors can use, too. `contextgraft init` writes a study; [the
workflow](workflow.md) explains how it is run. A key with a default may be left out.
"""


def commands(
    parent: click.Group, context: click.Context
) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Every command with its context; of a group its subcommands follow."""
    for name in parent.list_commands(context):
        command = parent.get_command(context, name)
        if command is None or command.hidden:
            continue
        own = click.Context(
            command, info_name=name, parent=context, terminal_width=WIDTH, max_content_width=WIDTH
        )
        yield command, own
        if isinstance(command, click.Group):
            yield from commands(command, own)


def commands_page() -> str:
    """The text of docs/commands.md."""
    top = click.Context(cli, info_name="contextgraft", terminal_width=WIDTH, max_content_width=WIDTH)
    sections = [COMMANDS, block(cli.get_help(top))]
    for command, context in commands(cli, top):
        path = context.command_path.removeprefix("contextgraft ")
        sections += [f"## {path}", block(command.get_help(context))]
    assert all(f"## {verb}\n" in "\n".join(sections) + "\n" for verb in VERBS)
    return "\n\n".join(section.strip() for section in sections) + "\n"


def block(text: str) -> str:
    """Lines as they are in a terminal."""
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"```text\n{lines}\n```"


def configuration_page() -> str:
    """The text of docs/configuration.md."""
    schema = StudyConfig.model_json_schema()
    lines = [CONFIGURATION.strip(), ""]
    for title, section in sections(schema, schema, ""):
        rows = [row(name, spec, schema, section) for name, spec in section["properties"].items()]
        lines += [f"## {title}", "", "| key | values | default | meaning |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def sections(spec: Mapping[str, Any], schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Every object of the schema, by the path of its key."""
    yield path or "The study", spec
    for name, value in spec["properties"].items():
        for option in (value, *value.get("anyOf", ())):
            reference = option.get("$ref")
            if reference:
                inner = schema["$defs"][reference.rpartition("/")[2]]
                yield from sections(inner, schema, f"{path}.{name}" if path else name)


def row(name: str, spec: Mapping[str, Any], schema: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    """One key as a row of a Markdown table."""
    required = name in section.get("required", ())
    default = "required" if required else f"`{shown(spec.get('default'))}`"
    options = [option for option in (spec, *spec.get("anyOf", ())) if "$ref" in option]
    inner = [schema["$defs"][option["$ref"].rpartition("/")[2]] for option in options]
    if inner and not required and spec.get("default") is not None:
        default = "its own defaults"
    text = spec.get("description") or next((item.get("description", "") for item in inner), "")
    cells = [f"`{name}`", values(spec), default, " ".join(text.split())]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def values(spec: Mapping[str, Any]) -> str:
    """Which values a key takes, in words."""
    if "enum" in spec:
        return ", ".join(f"`{shown(value)}`" for value in spec["enum"])
    if "const" in spec:
        return f"`{shown(spec['const'])}`"
    if "$ref" in spec:
        return "section"
    if "anyOf" in spec:
        return " or ".join(dict.fromkeys(values(option) for option in spec["anyOf"]))
    if spec.get("type") == "array":
        return f"list of {values(spec.get('items', {}))}"
    return {"null": "empty", "object": "section"}.get(spec.get("type", ""), spec.get("type", "any"))


def shown(value: Any) -> str:
    """A default as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    return '""' if value == "" else str(value)


PAGES = {"commands.md": commands_page, "configuration.md": configuration_page}


def main() -> None:
    """Write the pages, or check them."""
    texts = {DOCS / name: page() for name, page in PAGES.items()}
    if "--check" in sys.argv:
        old = [path.name for path, text in texts.items() if path.read_text() != text]
        sys.exit(f"out of date: {', '.join(old)}; run python scripts/reference.py" if old else 0)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
