"""A study resolved from its configuration: its models, their origins, and the files that it references."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contextgraft.config.base import Frozen, read_yaml, validate
from contextgraft.config.control_names import OF_NO_DONOR
from contextgraft.config.evaluation import OF_SKILLS, EvaluationConfig
from contextgraft.config.mistakes import MistakeCollector
from contextgraft.config.server.served_study import check_served
from contextgraft.config.study import Kept, StudyConfig
from contextgraft.config.target_sheet import (
    SHORT_DONOR,
    TASKS_RUN_CODE,
    TargetRow,
    is_task_file,
    read_targets,
    skill_file,
)
from contextgraft.config.text_file import is_file, path_exists
from contextgraft.errors import ConfigError, InputError, did_you_mean


class Origin(Frozen):
    """The origin of one model: fetched from `source`, or trained from the base by `recipe`."""

    source: str | None = None
    recipe: str | None = None
    seed: int | None = None


def donor_name(seed: int) -> str:
    """Name of the donor of one seed."""
    return f"donor-s{seed}"


def source_with_revision(target: TargetRow) -> str:
    """The source as an argument of `contextgraft fetch`."""
    return f"{target.source}@{target.revision}" if target.revision else target.source


def origins(study: StudyConfig, targets: tuple[TargetRow, ...]) -> dict[str, Origin]:
    """Every model of the study by its name: the base, the donors, the fine-tunes."""
    donor = study.donor
    models = {"base": Origin(source=study.base)}
    for seed in study.donor_seeds:
        trained = Origin(recipe=donor.train, seed=seed)
        models[donor_name(seed)] = trained if donor.train else Origin(source=donor.source)
    short = study.short_donor_origin
    if short is not None:
        trained = Origin(recipe=short.train, seed=study.donor_seeds[0])
        models[SHORT_DONOR] = trained if short.train else Origin(source=short.source)
    for target in targets:
        fetched = Origin(source=source_with_revision(target))
        models[target.name] = Origin(recipe=target.recipe) if target.recipe else fetched
    return models


def strings_in(value: Any) -> Iterator[str]:
    """Every string inside parsed YAML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings_in(item)


def referenced_files(recipe: Path) -> tuple[Path, ...]:
    """A recipe and the files that it names, directly or through another: what it depends on.

    Names are relative to the folder of the file that has them.
    """
    visited: dict[Path, None] = {}
    waiting = [recipe]
    while waiting:
        path = waiting.pop()
        if path in visited:
            continue
        visited[path] = None
        if path.suffix in {".yaml", ".yml"}:
            names = (text for text in strings_in(read_yaml(path)) if len(text) < 256 and "\n" not in text)
            waiting.extend(sorted({path.parent / name for name in names if is_file(path.parent / name)}))
    return tuple(sorted(visited))


@dataclass(frozen=True)
class ResolvedStudy:
    """A checked configuration with the rows of its sheet and the origin of each model.

    `source` is the file of the configuration, for messages. `named_files` are the files that each recipe
    names: hundreds of fine-tunes share one, which is read once.
    """

    settings: StudyConfig
    targets: dict[str, TargetRow]
    origins: dict[str, Origin]
    source: str = "the study"
    named_files: dict[str, list[str]] = field(default_factory=dict, compare=False, repr=False)

    def needle_format(self, target: str) -> str | None:
        """Needle format with which a fine-tune is evaluated; None for the shipped one."""
        return self.targets[target].needle or self.settings.evaluation.needle.format

    def skills(self, target: str) -> list[str]:
        """The skills of a fine-tune: those of all, then those of its line in the sheet."""
        return [*self.settings.evaluation.skill.skills, *self.targets[target].skills]

    def kept_grafts(self, target: str) -> Kept:
        """Which grafts of a fine-tune are kept."""
        return self.targets[target].keep or self.settings.keep_grafts

    def evaluation(self, target: str | None = None) -> EvaluationConfig:
        """What a fine-tune and its grafts are evaluated on, or for None the base and the donors.

        The sheet has a fine-tune's needle format and skills; divergence is measured from the fine-tune.
        """
        values = self.settings.evaluation.prompts
        skill, divergence = values.pop("skill"), values.pop("divergence", None)
        row = self.targets.get(target or "")
        if values.get("suites") and not (row and (skill["skills"] or row.skills)):
            values["suites"] = [suite for suite in values["suites"] if suite not in OF_SKILLS]
        if target is None:
            return EvaluationConfig.model_validate(values)
        if target not in self.targets:
            raise InputError(
                "the study has no such fine-tune", expected=", ".join(self.targets), received=target,
                remedy=did_you_mean(target, self.targets),
            )  # fmt: skip
        values["needle"] |= {"format": self.needle_format(target)}
        if skills := self.skills(target):
            values["skill"] = {**skill, "skills": skills}
        if divergence is not None:
            values["divergence"] = {**divergence, "reference": target}
        return EvaluationConfig.model_validate(values)

    def question_files(self, target: str | None = None) -> list[str]:
        """Every file that the questions for a fine-tune, or for base and donors, depend on."""
        config = self.evaluation(target)
        ruler = [config.ruler.qa_1, config.ruler.qa_2] if config.ruler else []
        skills = config.skill.skills if config.skill else []
        named = [*config.needles.haystacks, *ruler, *skills, config.text]
        formats = [] if config.needles.format is None else self.files(config.needles.format)
        folders = [Path(name) for name in named if name and path_exists(name)]
        inside = [str(file) for folder in folders for file in sorted(folder.glob("*.txt"))]
        return [*formats, *(file for file in named if file and is_file(file)), *inside]

    def files(self, recipe: str) -> list[str]:
        """Paths of a recipe and of every file it references."""
        if recipe not in self.named_files:
            self.named_files[recipe] = [str(path) for path in referenced_files(Path(recipe))]
        return self.named_files[recipe]


def load_study(config: Mapping[str, Any], source: Path | str, needle_kinds: Collection[str]) -> ResolvedStudy:
    """Check a parsed configuration, its sheet, and the files they name; raises ConfigError or InputError.

    All mistakes are reported at once, as SeveralMistakes. `needle_kinds` are the allowed values of
    evaluation.needle.kinds.
    """
    collector, settings, targets = MistakeCollector(), None, None
    with collector.check():
        settings = validate(StudyConfig, dict(config), source)
        collector.add(check_needle_kinds(settings, needle_kinds, source))
    sheet = settings.fine_tunes if settings else config.get("fine_tunes")
    if sheet and isinstance(sheet, str) and "\0" not in sheet:
        with collector.check():
            targets = read_targets(Path(sheet))
    if settings:
        collector.add(check_labels(settings, targets or (), settings.fine_tunes))
        collector.add(check_files(settings, targets or (), source))
        collector.add(check_served(settings, targets or (), source))
    collector.raise_mistakes()
    assert settings is not None
    assert targets is not None
    names = {target.name: target for target in targets}
    return ResolvedStudy(settings, names, origins(settings, targets), str(source))


def check_needle_kinds(
    settings: StudyConfig, known: Collection[str], source: Path | str
) -> Iterator[ConfigError]:
    """A mistake for each kind of needle question that is not a known one."""
    for kind in settings.evaluation.needle.kinds:
        if kind not in known:
            yield ConfigError(
                "evaluation.needle.kinds: unknown kind of question",
                path=source,
                expected=f"one of {', '.join(known)}",
                received=kind,
                remedy=did_you_mean(kind, known),
            )


def graft_labels(settings: StudyConfig, target: str) -> Iterator[str]:
    """The labels of a fine-tune's grafts and controls; those of other scales have @, which names have not."""
    for seed in settings.donor_seeds:
        for rank in settings.ranks:
            yield f"{target}-s{seed}-r{rank}"
        for control in settings.evaluation.all_controls:
            if seed == settings.donor_seeds[0] or control not in OF_NO_DONOR:
                yield f"{target}-s{seed}-{control.replace('_', '-')}"


def check_labels(settings: StudyConfig, targets: Collection[TargetRow], sheet: str) -> Iterator[ConfigError]:
    """A mistake for each fine-tune named as a graft of another one: two models would have one label."""
    names = {target.name for target in targets}
    for other in sorted(names):
        for name in sorted(names.intersection(graft_labels(settings, other))):
            yield ConfigError(
                f"the name {name!r} is the label of a graft of {other!r}", path=sheet,
                remedy="choose another name",
            )  # fmt: skip


def check_files(
    settings: StudyConfig, targets: tuple[TargetRow, ...], source: Path | str
) -> Iterator[ConfigError]:
    """A mistake for each named recipe, format and skill that is not a file, or may not be read."""
    ruler = settings.evaluation.ruler
    short = settings.short_donor_origin
    named = {
        "donor.train": settings.donor.train,
        "short_donor.train": short.train if short else None,
        "evaluation.needle.format": settings.evaluation.needle.format,
        "evaluation.ruler.qa_1": ruler.qa_1 if ruler else None,
        "evaluation.ruler.qa_2": ruler.qa_2 if ruler else None,
    }
    for key, value in named.items():
        yield from check_file(value, key, source)
    skill = settings.evaluation.skill
    yield from check_trusted(skill.skills, source, trusted=skill.trust_tasks)
    for name in skill.skills:
        yield from check_file(skill_file(name), "evaluation.skill.skills", source)
    for target in targets:
        yield from check_trusted(target.skills, settings.fine_tunes, trusted=skill.trust_tasks)
        files = [("source", target.recipe), ("needle", target.needle)]
        for key, value in [*files, *(("skill", file) for file in target.skill_files)]:
            yield from check_file(value, f"{key} of {target.name}", settings.fine_tunes)


def check_trusted(skills: Iterable[str], where: Path | str, *, trusted: bool) -> Iterator[ConfigError]:
    """A mistake for each task file of lm-evaluation-harness, unless the study trusts them."""
    for skill in skills:
        if is_task_file(skill) and not trusted:
            yield ConfigError(
                TASKS_RUN_CODE, path=where, received=skill,
                remedy="read the file, and then set evaluation.skill.trust_tasks: true in the study",
            )  # fmt: skip


def check_file(value: str | None, key: str, where: Path | str) -> Iterator[ConfigError]:
    """A mistake if a file is named and does not exist."""
    if value is not None and not is_file(value):
        yield ConfigError(
            f"{key} names a file that is not there",
            path=where,
            received=value,
            remedy="paths are relative to the working folder",
        )
