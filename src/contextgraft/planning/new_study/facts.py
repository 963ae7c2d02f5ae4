"""What the configs of base and donor say about a study: context lengths, chat template, possible ranks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextgraft.adapter.extract.rank_spec import SERVED_RANKS
from contextgraft.checkpoint.model_folder import ModelFolder, read_json
from contextgraft.config.training import load_recipe
from contextgraft.errors import CheckpointError, ContextgraftError, raise_read_error
from contextgraft.formats.model.vocabulary import TOKENIZER
from contextgraft.rope import settings
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.open_headers import open_model_headers

RECIPES = (".yaml", ".yml")
LENGTHS = 4  # of prompts: the base's context, the donor's, and two in between
USUAL_RANKS = (8, 32, 128)
LONGEST_WINDOW = 32768  # tokens of perplexity, of which the shipped text has some 95,000
LONGEST_SHORT_PROMPT = 4096
DEPTHS, DISTRACTORS = (0.0, 25.0, 50.0, 75.0, 100.0), 4  # of the study's needles, as in study.yaml


@dataclass(frozen=True)
class BaseFacts:
    """Of the base: its config, the length of its context, and whether it has a chat template."""

    config: dict[str, Any]
    context: int
    has_chat: bool
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class DonorFacts:
    """Of the donor: the longest length, and for a finished model what its config says of RoPE."""

    longest: int
    theta: float | None = None
    positions: int | None = None


def read_base(model: ModelFolder) -> BaseFacts:
    """What the base's config, tokenizer and headers say."""
    context = settings.read(model.config, model.path).context
    return BaseFacts(model.config, context, _has_chat(model), _ranks(model))


def read_donor(source: str, cache: Path, hub: Hub) -> DonorFacts:
    """Read the donor's config, or the lengths of the recipe that trains it."""
    if source.endswith(RECIPES):
        return DonorFacts(max(stage.context for stage in load_recipe(Path(source)).stages))
    model = open_model_headers(source, cache, hub)
    rope = settings.read(model.config, model.path)
    return DonorFacts(rope.context, rope.theta, rope.max_positions)


def prompt_lengths(base: int, donor: int) -> list[int]:
    """Lengths from the base's context to the donor's, in equal steps of their logarithm."""
    if donor <= base:
        return [base]
    steps = min(LENGTHS - 1, max(1, round(math.log2(donor / base))))
    between = (base * 2 ** round(math.log2(donor / base) * step / steps) for step in range(steps))
    return [*sorted({length for length in between if length < donor}), donor]


def check_prompts(model: ModelFolder, needle_format: Path | None, length: int) -> None:
    """Raise InputError if the model's tokenizer lacks words of a needle format, or no prompt fits a length.

    None is the shipped format. Not checked without a tokenizer.json, or with one that cannot be loaded: that
    is reported when the study is checked.
    """
    if TOKENIZER not in model.others:
        return
    from contextgraft.evaluation.backends.tokenizer import load_tokenizer
    from contextgraft.evaluation.suites.needle_grid import read_grid

    lengths = (min(length, LONGEST_WINDOW),)
    grid = read_grid(needle_format, lengths=lengths, depths=DEPTHS, samples=1, distractors=DISTRACTORS)
    try:
        tokenizer = load_tokenizer(model.path)
    except ContextgraftError as error:
        raise_read_error(error, model.path)
        return
    grid.questions(tokenizer, seed=0)


def _has_chat(model: ModelFolder) -> bool:
    if "chat_template.jinja" in model.others or "chat_template.json" in model.others:
        return True
    try:
        return bool(read_json(model.path / "tokenizer_config.json").get("chat_template"))
    except CheckpointError as error:
        raise_read_error(error, model.path)
        return False


def _ranks(model: ModelFolder) -> tuple[int, ...]:
    """The usual ranks, as far as the smallest side of a linear layer allows them; else the largest served."""
    sides = [
        min(info.shape) for name, info in model.tensors.items() if len(info.shape) == 2 and "layers" in name
    ]
    largest = min(sides, default=USUAL_RANKS[-1])
    return _at_most(USUAL_RANKS, largest) or _at_most(SERVED_RANKS, largest)[-1:] or (1,)


def _at_most(ranks: Sequence[int], largest: int) -> tuple[int, ...]:
    return tuple(rank for rank in ranks if rank <= largest)
