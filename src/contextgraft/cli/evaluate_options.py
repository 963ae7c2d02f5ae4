"""The options of `contextgraft evaluate`, as click reads them and as the command uses them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from contextgraft.cli.options import COUNT, NumberList
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS, SINGLE

SUITES = ("needle", "ruler", "skill", "perplexity", "divergence")
VALUES = ("number", "word", "uuid")


@dataclass(frozen=True)
class Options:
    """What was typed."""

    models: tuple[str, ...]
    suites: tuple[str, ...]
    format_path: Path | None
    lengths: tuple[int, ...] | None
    depths: tuple[float, ...]
    samples: int
    distractors: int
    kinds: tuple[str, ...]
    count: int | None
    haystacks: tuple[str, ...]
    values: str | None
    ruler_tasks: tuple[str, ...]
    ruler_lengths: tuple[int, ...] | None
    ruler_samples: int | None
    qa_1: Path | None
    qa_2: Path | None
    skills: tuple[str, ...]
    skill_samples: int | None
    text: str | None
    perplexity_lengths: tuple[int, ...] | None
    documents: int
    divergence_length: int
    divergence_prompts: int
    reference: str | None
    seed: int
    backend: str
    url: str | None
    model_name: str | None
    batch_size: int
    prefill_chunk: int
    threads: int | None
    device: str
    dtype: str
    out: Path | None
    allow_refused: bool
    plan: bool
    replay: str | None
    show_prompt: bool
    as_json: bool


LENGTHS = NumberList(COUNT, "INT,...")

ASKED = [
    click.option(
        "--suite",
        "suites",
        type=click.Choice(SUITES),
        multiple=True,
        help="What to ask or measure; repeatable.",
    ),
    click.option(
        "--format",
        "format_path",
        type=click.Path(path_type=Path),
        help="Needle format (YAML); a shipped one if not given.",
    ),
    click.option("--lengths", type=LENGTHS, help="needle: prompt and answer together, in tokens."),
    click.option(
        "--depths",
        type=NumberList(click.FloatRange(0, 100), "PERCENT,..."),
        default="0,25,50,75,100",
        show_default=True,
        help="needle: its place in the text.",
    ),
    click.option(
        "--samples", type=COUNT, default=20, show_default=True, help="needle: prompts a length and depth."
    ),
    click.option(
        "--distractors",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="needle: others in the same text; as many as depths less one let all depths share a text.",
    ),
    click.option(
        "--kind",
        "kinds",
        type=click.Choice(tuple(NEEDLE_KINDS)),
        multiple=True,
        default=(SINGLE,),
        show_default=True,
        help="needle: what is asked for; repeatable.",
    ),
    click.option(
        "--count",
        type=COUNT,
        help="needle: values of a key, keys of a question, or names of a chain; the kind's own if not given.",
    ),
    click.option(
        "--haystack",
        "haystacks",
        multiple=True,
        help="needle: prose, noise, needles, code, or a file; the format's if not given; repeatable.",
    ),
    click.option(
        "--values", type=click.Choice(VALUES), help="needle: what is hidden; the format's if not given."
    ),
    click.option(
        "--ruler-task",
        "ruler_tasks",
        multiple=True,
        help="ruler: a task, such as vt; repeatable; all that need no data if not given.",
    ),
    click.option("--ruler-lengths", type=LENGTHS, help="ruler: in tokens; --lengths if not given."),
    click.option(
        "--ruler-samples", type=COUNT, help="ruler: prompts a task and length; --samples if not given."
    ),
    click.option(
        "--qa-1", "qa_1", type=click.Path(path_type=Path), help="ruler: SQuAD (JSON); asks qa_1 of it."
    ),
    click.option(
        "--qa-2", "qa_2", type=click.Path(path_type=Path), help="ruler: HotpotQA (JSON); asks qa_2 of it."
    ),
    click.option(
        "--skill",
        "skills",
        multiple=True,
        help="skill: a file (JSONL), or a task of lm-eval by its YAML file or name; repeatable.",
    ),
    click.option(
        "--skill-samples",
        type=COUNT,
        help="skill: questions of each, drawn by seed; all if not given.",
    ),
    click.option(
        "--text",
        help="perplexity, divergence: a UTF-8 file, or a shipped text by name; the format's if not given; "
        "divergence: lines of a skill (JSONL) too.",
    ),
    click.option(
        "--perplexity-lengths", type=LENGTHS, help="perplexity: tokens of a window; --lengths if not given."
    ),
    click.option(
        "--documents", type=COUNT, default=8, show_default=True, help="perplexity: windows a length."
    ),
    click.option(
        "--divergence-length",
        type=COUNT,
        default=64,
        show_default=True,
        help="divergence: tokens a prompt.",
    ),
    click.option(
        "--divergence-prompts",
        type=COUNT,
        default=32,
        show_default=True,
        help="divergence: prompts.",
    ),
    click.option("--reference", metavar="LABEL", help="divergence: from this model; the first if not given."),
    click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all that is drawn."
    ),
]
ENGINE = [
    click.option(
        "--backend",
        type=click.Choice(["hf", "openai", "vllm"]),
        default="hf",
        show_default=True,
        help="What answers: transformers here, a server that speaks OpenAI's completions, vLLM here.",
    ),
    click.option("--url", help="openai: address, such as http://127.0.0.1:8000/v1/completions."),
    click.option("--model-name", help="openai: the server's name for the model; its folder if not given."),
    click.option(
        "--batch-size",
        type=COUNT,
        default=64,
        show_default=True,
        help="Most prompts at once; fewer where they are long.",
    ),
    click.option(
        "--prefill-chunk",
        type=COUNT,
        default=2048,
        show_default=True,
        help="hf: most tokens of a prompt at once.",
    ),
    click.option("--threads", type=COUNT, help="Processor threads; all if not given."),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda:1, or cuda: all GPUs."),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16", "float16", "auto"]),
        default="float32",
        show_default=True,
        help="What to compute in; auto: as the model is stored.",
    ),
]
RESULT = [
    click.option("--out", type=click.Path(path_type=Path), help="Parquet file to write."),
    click.option(
        "--allow-refused",
        is_flag=True,
        help="A model that cannot be asked gets one row that says why, and the others go on.",
    ),
    click.option("--plan", is_flag=True, help="Say what would be asked, and what it costs; load no weights."),
    click.option(
        "--replay",
        metavar="FILE:ROW",
        help="Ask row ROW, counted from 0, of a table of samples again, and compare; of a divergence, the "
        "reference's folder stands behind the model's.",
    ),
    click.option("--show-prompt", is_flag=True, help="replay: print the prompt too."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
]


def options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command all the options, in the order of the help."""
    for option in reversed([*ASKED, *ENGINE, *RESULT]):
        function = option(function)
    return function
