"""The configuration of one study: what `snakemake` reads, as frozen models.

config/schema.json is generated from these models.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, WithJsonSchema, model_validator

from contextgraft.config.base import Count, File, Frozen, Name, Seed
from contextgraft.config.cluster import Cluster
from contextgraft.config.control_names import FROM_SHORT_DONOR
from contextgraft.config.evaluation import StudyEvaluation


def _source(value: str) -> str:
    if re.search(r"\s", value) and (value.startswith("hf:") or "/" not in value):
        raise ValueError("only a path may contain spaces; write it with a slash, as in './my model'")
    return value


# a path may contain spaces, but no tabs and line ends
ModelSource = Annotated[str, Field(min_length=1, pattern=r"^\S(?:[^\t\r\n]*\S)?$"), AfterValidator(_source)]


class DonorOrigin(Frozen):
    """The origin of a donor: exactly one of `train` and `source`."""

    train: File | None = Field(
        None,
        description="training recipe (YAML): the donor is trained from the base, once for each donor seed",
    )
    source: ModelSource | None = Field(None, description="any source of `contextgraft fetch`; used unchanged")

    @model_validator(mode="after")
    def one_way(self) -> Self:
        """Exactly one of train and source."""
        if (self.train is None) == (self.source is None):
            raise ValueError(
                "give exactly one of train (a recipe) and source (any source of `contextgraft fetch`)"
            )
        return self


class Donor(DonorOrigin):
    """The long-context model, and what its config.json must have."""

    theta: Annotated[float, Field(gt=0)] | None = Field(
        None, description="RoPE theta that its config.json must have; extract rejects any other"
    )
    max_positions: PositiveInt | None = Field(
        None, description="max_position_embeddings that its config.json must have; extract rejects any other"
    )


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


def _keep_grafts(value: Any) -> Any:
    return KEPT_BY_FLAG.get(value, value) if isinstance(value, bool | str) else value


Kept = Literal["recommended", "all", "none"]
KEPT_BY_FLAG: dict[bool | str, Kept] = {True: "all", False: "none", "yes": "all", "no": "none"}
KeepGrafts = Annotated[
    Kept,
    BeforeValidator(_keep_grafts),
    WithJsonSchema({"enum": ["recommended", "all", "none", True, False]}),
]


class TrainingLaunch(Frozen):
    """Nodes and processes of one training; by default computed from the sizes of model and cluster."""

    nodes: Count | None = Field(default=None, description="nodes of one training")
    processes: Count | None = Field(
        default=None, description="processes on each node, started by torchrun; by default one for each GPU"
    )


class Threads(Frozen):
    """CPU threads of one job; with fewer threads more jobs run at the same time."""

    train: Count = 2
    extract: Count = 2
    merge: Count = 1
    evaluate: Count = 1


class StudyConfig(Frozen):
    """One study: models, adapters, evaluation, resources."""

    study: Name = Field(description="name of the folders data/<study> and results/<study>")
    base: ModelSource = Field(description="the common ancestor: any source of `contextgraft fetch`")
    donor: Donor
    donor_seeds: Annotated[list[Seed], Field(min_length=1)] = Field(
        [1], description="one donor is trained for each"
    )
    short_donor: ModelSource | DonorOrigin | None = Field(
        None,
        description="for the control short_donor: a model trained from the base as long as the donor and "
        "with its theta, but on short texts only. A source, or {train: RECIPE.yaml}, trained with the first "
        "seed",
    )
    fine_tunes: File = Field(description="the sheet of fine-tunes (TSV)")
    ranks: Annotated[list[Count], Field(min_length=1)] = Field(
        description="adapter ranks, all from one extraction"
    )
    evaluation: StudyEvaluation
    threads: Threads = Threads()
    shape: File | None = Field(
        None, description="config.json of the base, from which the resources of cluster jobs are computed"
    )
    training: TrainingLaunch = TrainingLaunch()
    cluster: Cluster = Field(Cluster(), description="hardware of the cluster")
    extraction: ExtractionConfig = Field(
        ExtractionConfig(), description="which tensors the adapters have, and the program that factorises"
    )
    keep_grafts: KeepGrafts = Field(
        "recommended",
        description="which grafts are written, verified and kept: the one of the rank that the report "
        "recommends, all, or none; every graft is evaluated in memory, and records are always kept. true is "
        "all, false is none. Without needles no rank is recommended. The column keep of the sheet says it "
        "for one fine-tune",
    )
    note: str | None = Field(
        None, description="a sentence at the top of the report, for example what the models are"
    )

    @model_validator(mode="after")
    def consistent(self) -> Self:
        """No list repeats a value; a fetched donor has one seed and is not the base."""
        lists = {"donor_seeds": self.donor_seeds, "ranks": self.ranks}
        mistakes = [
            f"{name} repeats a value" for name, values in lists.items() if len(set(values)) != len(values)
        ]
        if self.donor.source is not None and len(self.donor_seeds) > 1:
            mistakes.append("a fetched donor has one seed: give donor_seeds one value, or train the donor")
        if self.donor.source == self.base:
            mistakes.append("base and donor are the same model: the donor is the one with the longer context")
        named = FROM_SHORT_DONOR in self.evaluation.controls
        if named != (self.short_donor is not None):
            mistakes.append(
                "evaluation.controls names short_donor: give its model as the key short_donor of the study"
                if named
                else "short_donor is given: add short_donor to evaluation.controls, or remove the key"
            )
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    @property
    def short_donor_origin(self) -> DonorOrigin | None:
        """The origin of the donor trained on short texts only; a plain text is its source."""
        given = self.short_donor
        return DonorOrigin(train=None, source=given) if isinstance(given, str) else given
