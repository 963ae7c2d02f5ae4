"""The configuration of one study: what `snakemake` reads, as frozen models.

config/schema.json is generated from these models.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from contextgraft.config.base import Frozen
from contextgraft.config.cluster import Cluster
from contextgraft.config.ruler_tasks import RULER_TASKS, Task

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
ModelSource = Annotated[str, Field(min_length=1, pattern=r"^\S+$")]
File = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Depth = Annotated[float, Field(ge=0, le=100)]
Lengths = Annotated[list[PositiveInt], Field(min_length=1)]


class Donor(Frozen):
    """The origin of the long-context model: exactly one of `train` and `source`."""

    train: File | None = Field(
        None,
        description="training recipe (YAML): the donor is trained from the base, once for each donor seed",
    )
    source: ModelSource | None = Field(None, description="any source of `contextgraft fetch`; used unchanged")

    theta: Annotated[float, Field(gt=0)] | None = Field(
        None, description="RoPE theta that its config.json must have; extract rejects any other"
    )
    max_positions: PositiveInt | None = Field(
        None, description="max_position_embeddings that its config.json must have; extract rejects any other"
    )

    @model_validator(mode="after")
    def one_way(self) -> Self:
        """Exactly one of train and source."""
        if (self.train is None) == (self.source is None):
            raise ValueError(
                "give exactly one of train (a recipe) and source (any source of `contextgraft fetch`)"
            )
        return self


class Needles(Frozen):
    """The needle grid that every model of the study is asked."""

    format: File = Field(
        description="needle format (YAML) of the base and the donors, and of fine-tunes that name none"
    )
    lengths: Lengths = Field(description="prompt and answer together, in tokens")
    depths: Annotated[list[Depth], Field(min_length=1)] = Field(
        description="place of the needle in the text, in percent"
    )
    samples: PositiveInt = Field(description="prompts a cell (length and depth)")
    distractors: Annotated[int, Field(ge=0)] = Field(0, description="other needles in the same text")
    kinds: Annotated[list[Name], Field(min_length=1)] = Field(
        ["single"],
        description="kinds of questions; the format needs a section of its name for each but single",
        examples=[["single", "chain"]],
    )
    count: PositiveInt | None = Field(
        None,
        description="values of a key, keys of a question, names of a chain; each kind's own if not given",
    )
    haystacks: list[str] = Field(
        [], description="prose, noise, needles, code, or a file; the format's own if none is given"
    )
    seed: Seed = Field(description="seed of the prompts: one that no choice was made on")


class Ruler(Frozen):
    """RULER's synthetic tasks, asked of every model; QA tasks only where their data is named."""

    tasks: list[Task] | None = Field(None, description="names of tasks; all that need no data if not given")
    lengths: Lengths = Field(description="prompt and answer together, in tokens")
    samples: PositiveInt = Field(description="prompts a task and length; RULER itself takes 500")
    qa_1: File | None = Field(None, description="SQuAD as JSON: asks qa_1 of it")
    qa_2: File | None = Field(None, description="HotpotQA as JSON: asks qa_2 of it")

    @property
    def asked(self) -> tuple[str, ...]:
        """The tasks that are named, else all but those that need data and have none."""
        data: dict[str, str | None] = {"qa_1": self.qa_1, "qa_2": self.qa_2}
        return tuple(self.tasks or (task for task in RULER_TASKS if data.get(task, task) is not None))


class Perplexity(Frozen):
    """Perplexity by position, on the text that the needle format hides its needles in."""

    lengths: Lengths = Field(description="windows of text, in tokens")
    documents: PositiveInt = Field(description="windows a length")


class Divergence(Frozen):
    """How far a graft's next-token predictions are from the untouched fine-tune's, on short prompts."""

    length: PositiveInt = Field(description="tokens of a prompt; within the base's context")
    prompts: PositiveInt = Field(description="how many")


class Skills(Frozen):
    """How the fine-tunes' own skills are asked."""

    samples: PositiveInt = Field(description="prompts a skill; at most as many as its file has")


class Evaluation(Frozen):
    """What every model of the study is asked."""

    needle: Needles
    skill: Skills
    ruler: Ruler | None = None
    perplexity: Perplexity | None = None
    divergence: Divergence | None = None
    batch_size: PositiveInt = Field(1, description="prompts at once")


class ExtractionConfig(Frozen):
    """Which tensors the adapters have, and the program that factorises; by default all linear layers."""

    embeddings: Literal["both", "input", "output"] | None = Field(
        default=None,
        description="also factorise embed_tokens (input), lm_head (output) or both; rows aligned by token",
    )
    include: str = Field(default="", description="regular expression: only tensors whose name it matches")
    exclude: str | None = Field(
        default=None, description="regular expression: without the tensors whose name it matches"
    )
    backend: Literal["contextgraft", "mergekit"] = Field(
        default="contextgraft",
        description="mergekit: its own command, one run for each rank, as for the published adapters",
    )


class TrainingLaunch(Frozen):
    """Nodes and processes of one training; by default computed from the sizes of model and cluster."""

    nodes: PositiveInt | None = Field(default=None, description="nodes of one training")
    processes: PositiveInt | None = Field(
        default=None, description="processes on each node, started by torchrun; by default one for each GPU"
    )


class Threads(Frozen):
    """CPU threads of one job; with fewer threads more jobs run at the same time."""

    train: PositiveInt = 2
    extract: PositiveInt = 2
    merge: PositiveInt = 1
    evaluate: PositiveInt = 1


class StudyConfig(Frozen):
    """One study: models, adapters, evaluation, resources."""

    study: Name = Field(description="name of the folders data/<study> and results/<study>")
    base: ModelSource = Field(description="the common ancestor: any source of `contextgraft fetch`")
    donor: Donor
    donor_seeds: Annotated[list[Seed], Field(min_length=1)] = Field(
        [1], description="one donor is trained for each"
    )
    fine_tunes: File = Field(description="the sheet of fine-tunes (TSV)")
    ranks: Annotated[list[PositiveInt], Field(min_length=1)] = Field(
        description="adapter ranks, all from one extraction"
    )
    evaluation: Evaluation
    threads: Threads = Threads()
    shape: File | None = Field(
        None, description="config.json of the base, from which the resources of cluster jobs are computed"
    )
    training: TrainingLaunch = TrainingLaunch()
    cluster: Cluster = Field(Cluster(), description="hardware of the cluster")
    extraction: ExtractionConfig = Field(
        ExtractionConfig(), description="which tensors the adapters have, and the program that factorises"
    )
    keep_grafts: bool = Field(
        True,
        description="false: the weights of a graft are deleted after its evaluation and verification, unless "
        "the sheet says keep; adapters and records are always kept",
    )
    note: str | None = Field(
        None, description="a sentence at the top of the report, for example what the models are"
    )

    @model_validator(mode="after")
    def consistent(self) -> Self:
        """No list repeats a value, and a fetched donor has one seed."""
        needle = self.evaluation.needle
        lists: dict[str, list[int] | list[float]] = {
            "donor_seeds": self.donor_seeds,
            "ranks": self.ranks,
            "lengths": needle.lengths,
            "depths": needle.depths,
            "ruler.lengths": self.evaluation.ruler.lengths if self.evaluation.ruler else [],
            "perplexity.lengths": self.evaluation.perplexity.lengths if self.evaluation.perplexity else [],
        }
        for name, values in lists.items():
            if len(set(values)) != len(values):
                raise ValueError(f"{name} repeats a value")
        if self.donor.source is not None and len(self.donor_seeds) > 1:
            raise ValueError("a fetched donor has one seed: give donor_seeds one value, or train the donor")
        return self
