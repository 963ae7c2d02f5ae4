"""What models are evaluated on: the section `evaluation` of a study, and of `contextgraft evaluate --config`.

The flags of `contextgraft evaluate` set single values of the same models. Each suite has a section.
"""

from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, model_validator

from contextgraft.config.base import Count, File, Frozen, Name, Seed, Tokens
from contextgraft.config.control_names import THETA_ONLY, ControlName
from contextgraft.config.ruler_tasks import RULER_TASKS, Task
from contextgraft.config.server.backend import ServerBackend
from contextgraft.errors import with_suggestion

Depth = Annotated[float, Field(ge=0, le=100)]
Lengths = Annotated[list[Tokens], Field(min_length=1)]
Chat = Literal["auto"] | bool  # auto: the model's chat template, if it has one
Dtype = Literal["float32", "bfloat16", "float16", "auto"]
Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class NeedleSection(Frozen):
    """Needles in a haystack: a grid of lengths and depths, once for each kind and haystack."""

    format: File | None = Field(
        default=None, description="needle format (YAML); the shipped one if not given"
    )
    lengths: Lengths | None = Field(default=None, description="prompt and answer, in tokens")
    depths: Annotated[list[Depth], Field(min_length=1)] = Field(
        default=[0.0, 25.0, 50.0, 75.0, 100.0], description="position of the needle in the text, in percent"
    )
    samples: Count = Field(default=20, description="prompts per cell (length and depth)")
    distractors: Annotated[int, Field(ge=0, le=10**6)] = Field(
        default=0, description="other needles in the same text"
    )
    kinds: Annotated[list[Name], Field(min_length=1)] = Field(
        default=["single"],
        description="kinds of questions; the format needs a section of its name for each but single",
        examples=[["single", "chain"]],
    )
    count: Count | None = Field(
        default=None,
        description="values of a key, keys of a question, names of a chain; default: the kind's own",
    )
    haystacks: list[str] = Field(
        default=[], description="prose, speeches, noise, needles, code, or a file; default: the format's own"
    )
    values: str | None = Field(
        default=None, description="number, word or uuid; the format's own if not given"
    )
    seed: Seed | None = Field(default=None, description="seed of all prompts that are drawn; default: 0")


class RulerSection(Frozen):
    """RULER's synthetic tasks; QA tasks only if their data set is given."""

    tasks: list[Task] | None = Field(
        default=None, description="names of tasks; default: all that need no data"
    )
    lengths: Lengths | None = Field(default=None, description="tokens, with answer; default: needle.lengths")
    samples: Count | None = Field(
        default=None,
        description="prompts per task and length, in RULER itself 500; needle.samples if not given",
    )
    qa_1: File | None = Field(default=None, description="SQuAD as JSON, for the task qa_1")
    qa_2: File | None = Field(default=None, description="HotpotQA as JSON, for the task qa_2")

    @property
    def selected_tasks(self) -> tuple[str, ...]:
        """The tasks that are named, else all but those that need data and have none."""
        data: dict[str, str | None] = {"qa_1": self.qa_1, "qa_2": self.qa_2}
        return tuple(self.tasks or (task for task in RULER_TASKS if data.get(task, task) is not None))


class SkillSection(Frozen):
    """What fine-tunes were made for; in a study, the sheet names the skills of each fine-tune."""

    skills: list[File] = Field(
        default=[], description="skill files (JSONL), or tasks of lm-evaluation-harness by YAML file or name"
    )
    samples: Count | None = Field(default=None, description="prompts per skill; default: all that it has")
    trust_tasks: bool = Field(
        default=False,
        description="true: task files of lm-evaluation-harness (YAML) may be read. Such a file runs code "
        "(!function, templates): trust it like a program",
    )


class LongSkillSection(Frozen):
    """Whether a skill is kept at length: the prompts of skill files behind a long text."""

    lengths: Lengths | None = Field(default=None, description="tokens, with answer; default: needle.lengths")
    samples: Count = Field(default=20, description="prompts per skill and length, at most as many as it has")
    texts: Count | None = Field(
        default=None,
        exclude_if=lambda texts: texts is None,
        description="how many texts the prompts of a length share, each read once; default: one a prompt",
    )


class RepetitionSection(Frozen):
    """Whether long answers end by themselves and do not repeat: prompts of skill files, short and long."""

    lengths: Lengths | None = Field(
        default=None, description="long prompts with their answers, in tokens; default: needle.lengths"
    )
    samples: Count = Field(default=20, description="prompts per skill and length, at most as many as it has")
    tokens: Tokens = Field(default=256, description="most tokens of an answer")


class PerplexitySection(Frozen):
    """Perplexity by position, on the text of the needle format's haystack or on `text`."""

    lengths: Lengths | None = Field(
        default=None, description="windows of text, in tokens; default: needle.lengths"
    )
    documents: Count = Field(default=8, description="windows per length")


class LongPerplexitySection(PerplexitySection):
    """LongPPL: the loss on tokens that a reference model predicts well only with the far context."""

    short: Tokens = Field(default=4096, description="tokens of the short context; below the lengths")
    reference: File | None = Field(
        default=None, description="folder of the model that chooses the tokens, such as the donor; needed"
    )


class DivergenceSection(Frozen):
    """Distance of next-token predictions from those of a reference model, on short prompts of the text."""

    length: Tokens = Field(default=64, description="tokens of a prompt; within the base's context")
    prompts: Count = Field(default=32, description="number of prompts")
    chat: bool = Field(
        default=False, description="also on as many prompts in the model's chat template, which it must have"
    )
    reference: str | None = Field(
        default=None,
        description="label of the reference model; in a study the fine-tune; else the first model",
    )


SECTIONS: dict[str, type[Frozen]] = {
    "needle": NeedleSection,
    "ruler": RulerSection,
    "skill": SkillSection,
    "long_skill": LongSkillSection,
    "repetition": RepetitionSection,
    "perplexity": PerplexitySection,
    "long_perplexity": LongPerplexitySection,
    "divergence": DivergenceSection,
}


OF_SKILLS = ("skill", "long_skill", "repetition")  # sections without a suite where there are no skills


def _known_suite(name: str) -> str:
    if name not in SECTIONS:
        known = f"no such suite; give one of {', '.join(SECTIONS)}"
        raise ValueError(with_suggestion(known, name, SECTIONS))
    return name


SuiteName = Annotated[Name, AfterValidator(_known_suite)]


class EvaluationConfig(Frozen):
    """What models are evaluated on: a section per suite, and what the suites have in common."""

    suites: list[SuiteName] | None = Field(
        default=None, description="suites to evaluate; default: all that have a section"
    )
    needle: NeedleSection | None = None
    ruler: RulerSection | None = None
    skill: SkillSection | None = None
    long_skill: LongSkillSection | None = None
    repetition: RepetitionSection | None = None
    perplexity: PerplexitySection | None = None
    long_perplexity: LongPerplexitySection | None = None
    divergence: DivergenceSection | None = None
    text: str | None = Field(
        default=None,
        description="text of perplexity and divergence: a UTF-8 file, or a shipped text by name; the needle "
        "format's haystack by default; for divergence also a skill file (JSONL)",
    )
    seed: Seed | None = Field(
        default=None, description="seed of everything that is drawn; default: needle.seed"
    )
    batch_size: Count | None = Field(default=None, description="prompts per batch")
    chat: Chat | None = Field(
        default=None,
        description="whether needles, RULER and skills use the model's chat template; auto: if it has one. "
        "Default: needles as their format says, RULER auto, skills not",
    )
    dtype: Dtype | None = Field(default=None, description="precision; auto: as stored. Default: float32")
    backend: ServerBackend | None = Field(default=None, description="a server; default: in this process")

    @property
    def selected_suites(self) -> tuple[str, ...]:
        """The suites to evaluate, in the order of the sections; without a skill there are none of skills."""
        values = {name: getattr(self, name) for name in type(self).model_fields if name != "backend"}
        sections = [name for name, value in values.items() if isinstance(value, Frozen)]
        given = [name for name in sections if name not in OF_SKILLS or (self.skill and self.skill.skills)]
        if self.suites is None:
            return tuple(given)
        order = [*SECTIONS, *sections]
        return tuple(sorted(dict.fromkeys(self.suites), key=lambda name: (*order, name).index(name)))

    @property
    def common_seed(self) -> int:
        """The seed of everything that is drawn."""
        needle_seed = self.needle.seed if self.needle else None
        return next((seed for seed in (self.seed, needle_seed) if seed is not None), 0)

    @property
    def needles(self) -> NeedleSection:
        """The section `needle`, or its defaults."""
        return self.needle or NeedleSection()

    def with_section(self, name: str, **values: Any) -> Self:
        """The same with other values in one section, which has its defaults if it was not given."""
        section = getattr(self, name) or SECTIONS[name]()
        return self.model_copy(update={name: section.model_copy(update=values)})

    def to_yaml(self) -> str:
        """The configuration as YAML, without what is not given."""
        return yaml.safe_dump(
            self.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True
        )

    @model_validator(mode="after")
    def distinct(self) -> Self:
        """No list of numbers repeats a value."""
        lists: dict[str, list[int] | list[float]] = {
            "lengths": self.needles.lengths or [],
            "depths": self.needles.depths,
            "ruler.lengths": (self.ruler and self.ruler.lengths) or [],
            "long_skill.lengths": (self.long_skill and self.long_skill.lengths) or [],
            "repetition.lengths": (self.repetition and self.repetition.lengths) or [],
            "perplexity.lengths": (self.perplexity and self.perplexity.lengths) or [],
            "long_perplexity.lengths": (self.long_perplexity and self.long_perplexity.lengths) or [],
        }
        for name, values in lists.items():
            if len(set(values)) != len(values):
                raise ValueError(f"{name} repeats a value")
        return self


class StudyNeedleSection(NeedleSection):
    """The needle grid of a study, whose lengths must be given."""

    lengths: Lengths = Field(description="prompt and answer, in tokens")


class StudyEvaluation(EvaluationConfig):
    """What every model of a study is evaluated on, and which grafts and control rows each fine-tune gets."""

    suites: Annotated[list[SuiteName], Field(min_length=1)] | None = Field(
        default=None, description="suites to evaluate; default: all that have a section"
    )
    needle: StudyNeedleSection
    skill: SkillSection = SkillSection()
    batch_size: Count = Field(default=1, description="prompts per batch")
    controls: list[ControlName] = Field(
        default=[THETA_ONLY],
        description="control rows of each fine-tune, made in memory; theta_only is always among them. "
        "short_donor needs the study's key short_donor",
    )
    scales: list[Scale] = Field(
        default=[1.0],
        description="factors on the delta of every adapter; 1, the graft itself, is always among them",
    )

    @property
    def all_controls(self) -> tuple[ControlName, ...]:
        """Theta only, then the other controls."""
        return tuple(dict.fromkeys((THETA_ONLY, *self.controls)))

    @property
    def all_scales(self) -> tuple[float, ...]:
        """1, then the other scales."""
        return tuple(dict.fromkeys((1.0, *self.scales)))

    @property
    def prompts(self) -> dict[str, Any]:
        """What models are evaluated on, without which models: values of an EvaluationConfig."""
        return self.model_dump(exclude_none=True, exclude={"controls", "scales"})

    @model_validator(mode="after")
    def distinct_rows(self) -> Self:
        """No control and no scale is named twice."""
        numbers = {"controls": len(set(self.controls)), "scales": len(set(self.scales))}
        for name, number in numbers.items():
            if number != len(getattr(self, name)):
                raise ValueError(f"{name} repeats a value")
        return self
