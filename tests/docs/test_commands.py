"""Every `contextgraft …` in the documentation names a verb and options that exist."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from contextgraft.cli.main import VERBS, cli

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ROOT / "docs/commands.md"  # of the help itself
PAGES = [
    ROOT / "README.md",
    *sorted(set((ROOT / "docs").glob("*.md")) - {GENERATED}),
    *sorted(ROOT.glob("*/README.md")),
]
COMMAND = re.compile(r"(?:^|[`$ ])contextgraft +((?:--?[a-z]|[a-z]+\b|\[).*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def commands(text: str) -> Iterator[str]:
    """What follows `contextgraft` in code: of blocks whole lines, continued ones joined; else inline code."""
    joined = re.sub(r"\\\n\s*", " ", text)
    fenced = re.findall(r"^```([a-z]*)\n(.*?)^```", joined, re.DOTALL | re.MULTILINE)
    blocks = [block for language, block in fenced if language != "python"]
    prose = re.sub(r"^```.*?^```", "", joined, flags=re.DOTALL | re.MULTILINE)
    code = [line for block in blocks for line in block.splitlines()]
    code += [" ".join(inline.split()) for inline in re.findall(r"`([^`]+)`", prose)]
    for line in code:
        if match := COMMAND.search(line.partition(" # ")[0]):
            yield match[1]


def verb_of(command: str) -> str:
    """The first word that is no option and no option's value."""
    return next((word for word in command.split() if word in VERBS), "")


@cache
def options(verb: str) -> dict[str, click.Parameter]:
    """The options of a verb with those of its subcommands, and of the command itself under no name."""
    command = cli.get_command(click.Context(cli), verb) if verb else cli
    assert command is not None
    shown = [command]
    if isinstance(command, click.Group) and verb:
        context = click.Context(command)
        shown += filter(None, (command.get_command(context, name) for name in command.list_commands(context)))
    params = [param for each in shown for param in each.params]
    words = {word: param for param in params for word in (*param.opts, *param.secondary_opts)}
    return {**words, **dict.fromkeys(["--help"], click.Option(["--help"]))}


def found() -> list[tuple[str, str]]:
    """Page and command."""
    return [(str(page.relative_to(ROOT)), each) for page in PAGES for each in commands(page.read_text())]


def test_the_documentation_shows_every_verb() -> None:
    shown = {verb_of(command) for _, command in found()}
    assert set(VERBS) - shown == set()


@pytest.mark.parametrize("page", sorted({page for page, _ in found()}))
def test_verbs_and_options_of_a_page_exist(page: str) -> None:
    wrong = []
    for where, command in found():
        if where != page:
            continue
        verb = verb_of(command)
        known = {**options(""), **options(verb)}
        wrong += [f"{command}: {word}" for word in OPTION.findall(command) if word not in known]
        wrong += [] if verb or command.startswith("-") else [f"{command}: no such verb"]
        wrong += [
            f"{command}: {word} {value}"
            for word, value in re.findall(r"(--[a-z][a-z0-9-]*)[ =]([\w.,-]+)", command)
            if not chosen(known.get(word), value)
        ]
    assert wrong == []


def chosen(option: click.Parameter | None, value: str) -> bool:
    """Whether a value is one of an option's choices, if it has any and the value is no placeholder."""
    kind = getattr(option, "type", None)
    return not isinstance(kind, click.Choice) or value.isupper() or value in kind.choices


@pytest.mark.parametrize("page", ["evaluation", "formats", "hub", "queries", "report"])
def test_options_that_stand_alone_are_some_verbs(page: str) -> None:
    known = {word for verb in ("", *VERBS) for word in options(verb)}
    text = (ROOT / "docs" / f"{page}.md").read_text()
    alone = set(re.findall(r"`(--[a-z][a-z0-9-]*)", text))
    assert alone - known == set()


def test_what_is_gone_would_be_found() -> None:
    text = "```\n$ contextgraft report all \\\n    --gone x\n```\nand `contextgraft nothing --out x`"
    assert [verb_of(command) for command in commands(text)] == ["report", ""]
    assert OPTION.findall(next(commands(text))) == ["--gone"]
    assert "--gone" not in options("report")
    assert not chosen(options("evaluate")["--suite"], "gone")


def test_the_design_lists_every_verb_in_their_order() -> None:
    table = (ROOT / "docs/design.md").read_text().split("## The commands")[1].split("\n## ")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE) == list(VERBS)


def test_links_between_pages_lead_to_something() -> None:
    lost = []
    for page in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
            path, _, heading = target.partition("#")
            file = (page.parent / path) if path else page
            anchors = headings(file.read_text()) if file.suffix == ".md" and file.exists() else set()
            if not file.exists() or (heading and heading not in anchors):
                lost.append(f"{page.name}: {target}")
    assert lost == []


def headings(text: str) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
