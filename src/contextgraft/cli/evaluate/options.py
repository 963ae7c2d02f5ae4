"""The options of `contextgraft evaluate` and `contextgraft replay`, and the value that each one sets."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import click
from click.types import OptionHelpExtra
from typing_extensions import override

from contextgraft.cli.option_types import COUNT, Choice, NumberList, RealNumber, WholeNumber
from contextgraft.cli.options import PATH, SuiteChoice
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

LENGTHS = NumberList(COUNT, "INT,...")
VALUES = ("number", "word", "uuid")
OF_SKILLS = ("skill", "long_skill", "repetition")
OF_TEXTS = ("long_skill", "repetition", "perplexity", "long_perplexity", "divergence")
OF_FORMAT = ("needle", *OF_TEXTS)
OF_LENGTHS = ("needle", "ruler", "long_skill", "repetition", "perplexity", "long_perplexity")


class SectionOption(click.Option):
    """An option whose help shows the default of a section; pydantic (0.3 s) is imported only for the help."""

    def __init__(self, *arguments: Any, section: str, field: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.section, self.field = section, field

    @override
    def get_help_extra(self, ctx: click.Context) -> OptionHelpExtra:
        from contextgraft.config.evaluation import SECTIONS

        extra = super().get_help_extra(ctx)
        default = SECTIONS[self.section].model_fields[self.field].get_default()
        if default not in (None, []):
            values = default if isinstance(default, list) else [default]
            shown = (f"{value:g}" if isinstance(value, float) else str(value) for value in values)
            extra["default"] = ",".join(shown)
        return extra


class ChatChoice(Choice):
    """auto, yes or no; yes and no are the configuration's true and false."""

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return {"yes": True, "no": False}.get(super().convert(value, param, ctx), value)


class ConfigFlag(NamedTuple):
    """An option that sets one value of the configuration: `section` is None for a value outside sections.

    `suites` are those that read the value; empty for all.
    """

    section: str | None
    field: str
    name: str
    suites: tuple[str, ...]
    option: Decorator


def flag(
    section: str | None,
    field: str,
    *names: str,
    text: str,
    default: str = "",
    suites: tuple[str, ...] | None = None,
    **settings: Any,
) -> ConfigFlag:
    """An option whose help begins with its suites and shows the default of the configuration.

    Without `suites`, the suite of its section reads the value.
    """
    name = f"{section}_{field}" if section else field
    if settings.get("is_flag"):
        settings["default"] = None  # not given: the configuration decides
    read_by = ((section,) if section else ()) if suites is None else suites
    words = f"{', '.join(read_by)}: {text}" if read_by else text
    if default:
        words = f"{words} [default: {default}]"
    elif section and "default" not in settings:
        settings |= {"cls": SectionOption, "section": section, "field": field}
    option = click.option(*names, name, help=words, **settings)
    return ConfigFlag(section, field, names[0], read_by, option)


CONFIG_FLAGS = (
    flag("needle", "format", "--format", suites=OF_FORMAT, text="format (YAML).", default="a shipped one"),
    flag(
        *("needle", "lengths", "--lengths"),
        type=LENGTHS,
        suites=OF_LENGTHS,
        text="length of prompt and answer, in tokens.",
    ),
    flag(
        *("needle", "depths", "--depths"),
        type=NumberList(RealNumber(0, 100), "PERCENT,..."),
        text="position of the needle in the text.",
    ),
    flag(
        *("needle", "samples", "--samples"),
        type=COUNT,
        suites=("needle", "ruler"),
        text="prompts per length and depth.",
    ),
    flag(
        *("needle", "distractors", "--distractors"),
        type=WholeNumber(min=0),
        text="number of distractor needles per prompt. With at least (number of depths - 1), one text is "
        "reused for all depths, which is about 5x cheaper.",
    ),
    flag(
        *("needle", "kinds", "--kind"),
        type=Choice(tuple(NEEDLE_KINDS)),
        multiple=True,
        text="kind of question; repeatable.",
    ),
    flag(
        *("needle", "count", "--count"),
        type=COUNT,
        text="values of a key, keys of a question, or names of a chain.",
        default="the kind's own",
    ),
    flag(
        *("needle", "haystacks", "--haystack"),
        multiple=True,
        text="prose, speeches, noise, needles, code, or a file; repeatable.",
        default="the format's",
    ),
    flag(
        *("needle", "values", "--values"),
        type=Choice(VALUES),
        text="what the needles hide.",
        default="the format's",
    ),
    flag(
        *("ruler", "tasks", "--ruler-task"),
        multiple=True,
        text="a task, such as vt; repeatable.",
        default="all that need no data",
    ),
    flag(
        *("ruler", "lengths", "--ruler-lengths"),
        type=LENGTHS,
        text="length of prompt and answer, in tokens.",
        default="--lengths",
    ),
    flag(
        *("ruler", "samples", "--ruler-samples"),
        type=COUNT,
        text="prompts per task and length.",
        default="--samples",
    ),
    flag("ruler", "qa_1", "--qa-1", text="SQuAD (JSON), for the task qa_1."),
    flag("ruler", "qa_2", "--qa-2", text="HotpotQA (JSON), for the task qa_2."),
    flag(
        *("skill", "skills", "--skill"),
        multiple=True,
        suites=OF_SKILLS,
        text="a file (JSONL), or a task of lm-evaluation-harness by its YAML file or name; repeatable.",
    ),
    flag(
        *("skill", "trust_tasks", "--trust-tasks"),
        is_flag=True,
        text="read task files (YAML) of lm-evaluation-harness, which run code: trust them like a program.",
    ),
    flag("skill", "samples", "--skill-samples", type=COUNT, text="prompts per skill.", default="all"),
    flag(
        *(None, "text", "--text"),
        suites=OF_TEXTS,
        text="a UTF-8 file, or a shipped text by name; for divergence also a skill file (JSONL).",
        default="the needle format's haystack",
    ),
    flag(
        *("perplexity", "lengths", "--perplexity-lengths"),
        type=LENGTHS,
        text="length of a window of text, in tokens.",
        default="--lengths",
    ),
    flag("perplexity", "documents", "--documents", type=COUNT, text="windows per length."),
    flag("divergence", "length", "--divergence-length", type=COUNT, text="tokens of a prompt."),
    flag("divergence", "prompts", "--divergence-prompts", type=COUNT, text="number of prompts."),
    flag(
        *("divergence", "reference", "--reference"),
        metavar="LABEL",
        text="label of the reference model.",
        default="the first model",
    ),
    flag(
        *(None, "seed", "--seed"),
        type=WholeNumber(min=0),
        text="Seed of everything that is sampled.",
        default="0",
    ),
    flag(
        *(None, "chat", "--chat"),
        type=ChatChoice(["auto", "yes", "no"]),
        suites=("needle", "ruler", *OF_SKILLS),
        text="whether to use the model's chat template; auto: if it has one.",
        default="needles as their format says, RULER auto, skills no",
    ),
    flag(
        *(None, "batch_size", "--batch-size"),
        type=COUNT,
        text="Most prompts per batch; fewer if they are long.",
        default="64",
    ),
    flag(
        *(None, "dtype", "--dtype"),
        type=Choice(["float32", "bfloat16", "float16", "auto"]),
        text="Precision of the computation; auto: as the model is stored.",
        default="float32",
    ),
)
REPLAY_FLAGS = (
    "format", "haystacks", "values", "qa_1", "qa_2", "skills", "trust_tasks", "text", "chat", "dtype",
)  # fmt: skip

CONFIG_OPTIONS = (
    click.option(
        "--config",
        "config_path",
        type=PATH,
        help="Study (YAML), or a file that has its section `evaluation` only; other options override it.",
    ),
    click.option(
        "--fine-tune",
        metavar="NAME",
        help="Evaluate what --config says for this fine-tune of the study: its needle format and skills, "
        "divergence from it.",
    ),
)
SUITE_OPTION = click.option(
    "--suite",
    "suites",
    type=SuiteChoice(),
    multiple=True,
    help="What to evaluate; repeatable. [default: the suites of --config]",
)
BACKEND_OPTIONS = (
    click.option(
        "--backend",
        type=Choice(["hf", "openai", "vllm"]),
        default="hf",
        show_default=True,
        help="What runs the models: transformers in this process, a server with OpenAI's completions API, "
        "vLLM in this process.",
    ),
    click.option("--url", help="openai: address, such as http://127.0.0.1:8000/v1/completions."),
    click.option("--model-name", help="openai: the server's name for the model. [default: its folder]"),
    click.option(
        "--prefill-chunk",
        type=COUNT,
        default=2048,
        show_default=True,
        help="hf: most prompt tokens in one forward pass.",
    ),
    click.option("--threads", type=COUNT, help="CPU threads. [default: one per core]"),
    click.option(
        "--device",
        default="cpu",
        show_default=True,
        help="Device for the computation: cpu, cuda:1, or cuda for all GPUs.",
    ),
)


def option_groups(*groups: tuple[Decorator, ...]) -> Decorator:
    """Give a command all options of the groups, in the order of the help."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return decorate


def config_flags(fields: tuple[str, ...] | None = None) -> tuple[Decorator, ...]:
    """The options of these fields of the configuration and skill.samples, of all if None."""
    return tuple(
        entry.option
        for entry in CONFIG_FLAGS
        if fields is None or entry.field in fields or (entry.section, entry.field) == ("skill", "samples")
    )


def given_flags(params: Mapping[str, Any]) -> list[tuple[ConfigFlag, Any]]:
    """Each configuration option that was given, with its value."""
    given = []
    for entry in CONFIG_FLAGS:
        value = params.get(f"{entry.section}_{entry.field}" if entry.section else entry.field)
        if value is not None and value != ():
            given.append((entry, list(value) if isinstance(value, tuple) else value))
    return given
