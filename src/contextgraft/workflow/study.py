"""A study as the workflow runs it: its files, the resources of its jobs, the arguments of its commands."""

from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Self

from contextgraft.checkpoint.model_folder import read_json
from contextgraft.config.base import read_yaml
from contextgraft.config.resolved_study import ResolvedStudy, donor_name, load_study
from contextgraft.errors import ConfigError, OutputError
from contextgraft.planning.slurm import SLURM_RESOURCES, study_requests
from contextgraft.planning.study import peak_here, plan_study, study_shape
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS
from contextgraft.workflow.arguments import control_labels, control_models, labelled, repeated
from contextgraft.workflow.paths import StudyPaths, folder_of
from contextgraft.workflow.reference_files import reference_files

THETA_ONLY = "theta-only"  # the control: the donor's RoPE settings, the fine-tune's weights
RECOMMENDED = "recommended"  # the graft of the rank that the report recommends
LAUNCHER = "scripts/slurm-torchrun.sh"


def check_input_file(file: str) -> None:
    """Raise ConfigError for a file name in which Snakemake would replace a word in braces."""
    if "{" in file:
        raise ConfigError(
            "a file of the study has a brace in its name, which Snakemake reads as a wildcard",
            path=file, remedy="rename it",
        )  # fmt: skip


class StudyWorkflow:
    """One checked study. Arguments of commands are lists of words, to be quoted in a shell one by one."""

    resource_names = SLURM_RESOURCES

    def __init__(self, study: ResolvedStudy) -> None:
        self.study = study
        self.settings = study.settings
        self.paths = StudyPaths(self.settings.study)
        self.targets = list(study.targets)
        self.seeds = self.settings.donor_seeds
        self.ranks = sorted(self.settings.ranks)
        self.graft_kinds = [*(f"r{rank}" for rank in self.ranks), THETA_ONLY]
        self._kept = {"recommended": [RECOMMENDED], "all": self.graft_kinds, "none": list[str]()}
        self._requests = study_requests(study, study_shape(study))
        for file in dict.fromkeys((*self.question_files(), *self._files_of_models())):
            check_input_file(file)
        self.reference_files = reference_files(self.settings.evaluation, self.models(), study.source)

    @classmethod
    def load(cls, config: Mapping[str, Any], source: str, files: Iterable[Path] = ()) -> Self:
        """Check a parsed configuration that came from `source`; raises ConfigError or InputError.

        `files` are those that Snakemake read: it takes the last of two equal keys, which are a mistake.
        """
        for file in files:
            if file.suffix == ".json":
                read_json(file, unique=True)
            else:
                read_yaml(file)
        return cls(load_study(config, source, NEEDLE_KINDS))

    def models(self) -> list[str]:
        """Manifests of the base, the donors and the fine-tunes."""
        return [self.paths.model.format(model=model) for model in self.study.origins]

    def donors(self) -> list[str]:
        """Manifests of the donors, one for each seed."""
        return [self.paths.donor.format(seed=seed) for seed in self.seeds]

    def adapters(self) -> list[str]:
        """Manifests of the adapters, for each seed and rank."""
        return [self.paths.adapter.format(seed=seed, rank=rank) for seed in self.seeds for rank in self.ranks]

    def grafts(self) -> list[str]:
        """Manifests of the grafts that are kept."""
        return self._of_kept_grafts(self.paths.graft)

    def verdicts(self) -> list[str]:
        """Results of `contextgraft verify` for the grafts that are kept."""
        return self._of_kept_grafts(self.paths.verdict)

    def graft_records(self) -> list[str]:
        """Manifests that all evaluated grafts have, or would have."""
        return [file for target in self.targets for file in self._records(target).values()]

    def recommendations(self) -> list[str]:
        """The recommended rank of each fine-tune."""
        return [self.paths.recommendation.format(target=name) for name in self.targets]

    def alignments(self) -> list[str]:
        """Tables of how donor and fine-tune changed the base."""
        return self._of_targets(self.paths.alignment)

    def samples(self) -> list[str]:
        """Tables of samples: of base and donors first, then of each fine-tune with its grafts."""
        return [self.paths.base_samples, *(self.paths.samples.format(target=name) for name in self.targets)]

    def _of_kept_grafts(self, pattern: str) -> list[str]:
        return [
            pattern.format(seed=seed, target=target, kind=kind)
            for seed, target in product(self.seeds, self.targets)
            for kind in self._kept[self.study.kept_grafts(target)]
        ]

    def _of_targets(self, pattern: str) -> list[str]:
        return [pattern.format(seed=seed, target=name) for seed in self.seeds for name in self.targets]

    # Jobs.

    def resources(self, rule: str, model: str | None, attempt: int) -> dict[str, int | str | None]:
        """Resources of a rule's job at an attempt; `model` is the one that rule `train` trains."""
        return self._requests.resources(rule, model, attempt)

    def launcher(self, model: str) -> str:
        """The command that starts a training in several processes; empty for one process."""
        nodes, processes = self._requests.launch(model, self.settings.training.processes)
        return (
            "" if nodes * processes == 1 else f"{LAUNCHER} {nodes} {processes} {self.settings.threads.train}"
        )

    def check_disk(self, free: int) -> None:
        """Raise OutputError if the study, less what exists of it, needs more than `free` bytes."""
        existing = sum(path.stat().st_size for path in Path(self.paths.data).rglob("*") if path.is_file())
        missing = peak_here(plan_study(self.study)) - existing
        if missing > free:
            raise OutputError(
                "the disk is too small for the study",
                expected=f"{missing:,} bytes free",
                received=f"{free:,}",
                remedy="keep_grafts: none needs less; contextgraft plan study shows how much",
            )

    # Models that are fetched or trained.

    def fetched_models(self) -> list[str]:
        """Names of the models that have a source."""
        return [name for name, origin in self.study.origins.items() if origin.source]

    def trained_models(self) -> list[str]:
        """Names of the models that have a training recipe."""
        return [name for name, origin in self.study.origins.items() if origin.recipe]

    def source(self, model: str) -> str | None:
        """The source of a fetched model."""
        return self.study.origins[model].source

    def recipe(self, model: str) -> str | None:
        """The training recipe of a trained model."""
        return self.study.origins[model].recipe

    def recipe_files(self, model: str) -> list[str]:
        """The training recipe and the files that it names."""
        recipe = self.recipe(model)
        return [] if recipe is None else self.study.files(recipe)

    def _files_of_models(self) -> list[str]:
        recipes = [file for model in self.trained_models() for file in self.recipe_files(model)]
        return [*recipes, *(file for target in self.targets for file in self.question_files(target))]

    def seed_arguments(self, model: str) -> list[str]:
        """Donors differ by their seed; the seed of a fine-tune is in its recipe."""
        seed = self.study.origins[model].seed
        return [] if seed is None else ["--seed", str(seed)]

    def recipe_arguments(self, model: str) -> list[str]:
        """The training recipe as an option of `contextgraft train`."""
        recipe = self.recipe(model)
        return [] if recipe is None else repeated("--config", [recipe])

    def refusal_arguments(self, model: str, manifest: str) -> list[str]:
        """A fine-tune that is refused is recorded and the others continue; base and donors are required."""
        return ["--refusal", folder_of(manifest)] if model in self.study.targets else []

    def extract_arguments(self) -> list[str]:
        """Ranks, selection, program and expected donor of `contextgraft extract`."""
        extraction, donor = self.settings.extraction, self.settings.donor
        options = {
            "--embeddings": extraction.embeddings,
            "--include": extraction.include,
            "--exclude": extraction.exclude,
            "--backend": None if extraction.backend == "contextgraft" else extraction.backend,
            "--expect-theta": None if donor.theta is None else f"{donor.theta:.17g}",
            "--expect-positions": donor.max_positions,
        }
        given = [word for option, value in options.items() if value for word in repeated(option, [value])]
        return [*repeated("--rank", self.ranks), *given]

    # Grafts and their evaluation.

    def graft_adapters(self, seed: int, kind: str) -> list[str]:
        """Manifests of the adapters of which a graft is, or may be, made; of theta only any, so the first."""
        ranks = {RECOMMENDED: self.ranks, THETA_ONLY: self.ranks[:1]}.get(kind)
        names = [f"r{rank}" for rank in ranks] if ranks is not None else [kind]
        return [self._adapter(seed, name) for name in names]

    def graft_recommendation(self, target: str, kind: str) -> list[str]:
        """The recommendation that a graft depends on, if any."""
        return [self.paths.recommendation.format(target=target)] if kind == RECOMMENDED else []

    def merge_arguments(self, seed: int, target: str, kind: str) -> list[str]:
        """Adapters, scale and recommendation of `contextgraft merge`."""
        return [
            *repeated("--adapter", map(folder_of, self.graft_adapters(seed, kind))),
            *repeated("--scale", ["0"] if kind == THETA_ONLY else []),
            *repeated("--recommended", self.graft_recommendation(target, kind)),
        ]

    def graft_arguments(self, target: str) -> list[str]:
        """Adapters, controls and outputs of `contextgraft evaluate` for the grafts of a fine-tune."""

        def label(seed: int, kind: str) -> str:
            return f"{target}-s{seed}-{kind}"

        largest = f"r{self.ranks[-1]}"
        adapters = {
            label(seed, f"r{rank}"): folder_of(self._adapter(seed, f"r{rank}"))
            for seed, rank in product(self.seeds, self.ranks)
        }
        evaluation = self.settings.evaluation
        controls = control_labels(target, evaluation.all_controls, self.seeds, f"r{self.ranks[0]}")
        scales = evaluation.all_scales if len(evaluation.all_scales) > 1 else ()
        records = {label(*graft): folder_of(file) for graft, file in self._records(target).items()}
        alignments = {
            label(seed, largest): self.paths.alignment.format(seed=seed, target=target) for seed in self.seeds
        }
        return [
            *labelled("--adapter", adapters),
            *repeated("--scale", map(repr, scales)),
            *labelled("--control", controls),
            *(
                word
                for option, file in self._control_models()
                for word in repeated(option, [folder_of(file)])
            ),
            *labelled("--record", records),
            *repeated("--base", [folder_of(self.paths.base)]),
            *labelled("--alignment", alignments),
        ]

    def control_models(self) -> list[str]:
        """Manifests of the models that controls of full rank are made of, in addition to the base."""
        return [file for _, file in self._control_models()]

    def _control_models(self) -> list[tuple[str, str]]:
        return control_models(self.settings.evaluation.controls, self.paths, self.donors())

    def record_patterns(self) -> list[str]:
        """Records of all grafts of a fine-tune, whose name is a wildcard."""
        return list(self._records("{target}").values())

    def alignment_patterns(self) -> list[str]:
        """Alignments of a fine-tune, whose name is a wildcard."""
        return [self.paths.alignment.format(seed=seed, target="{target}") for seed in self.seeds]

    def _adapter(self, seed: int, kind: str) -> str:
        return self.paths.adapter.replace("r{rank}", kind).format(seed=seed)

    def _records(self, target: str) -> dict[tuple[int, str], str]:
        return {
            (seed, kind): self.paths.graft_record.format(seed=seed, target=target, kind=kind)
            for seed in self.seeds
            for kind in self.graft_kinds
        }

    def evaluated_target(self, target: str) -> str:
        """The fine-tune as argument of `contextgraft evaluate`: LABEL=FOLDER."""
        return f"{target}={folder_of(self.paths.target.format(target=target))}"

    def evaluated_base_models(self) -> list[str]:
        """The base and the donors as arguments of `contextgraft evaluate`."""
        donors = [
            f"{donor_name(seed)}={folder_of(self.paths.donor.format(seed=seed))}" for seed in self.seeds
        ]
        return [f"base={folder_of(self.paths.base)}", *donors]

    def question_files(self, target: str | None = None) -> list[str]:
        """Files that determine the questions for a fine-tune, or for base and donors."""
        return self.study.question_files(target)

    def evaluation_yaml(self, target: str | None = None) -> str:
        """What a fine-tune and its grafts, or base and donors, are evaluated on: `evaluate --config`."""
        return self.study.evaluation(target).to_yaml()

    def device_arguments(self) -> list[str]:
        """On what `contextgraft evaluate` runs the models."""
        dtype = [] if self.settings.evaluation.dtype else ["--dtype", "auto"]
        return ["--device", "cuda", *dtype] if self.settings.cluster.device == "cuda" else []

    def report_arguments(self) -> list[str]:
        """Adapters, grafts, alignments and the note of `contextgraft report`."""
        note = self.settings.note
        return [
            *repeated("--adapter", map(folder_of, self.adapters())),
            *repeated("--graft", [self.paths.graft_records]),
            *repeated("--alignment", self.alignments()),
            *repeated("--note", [note] if note else []),
        ]
