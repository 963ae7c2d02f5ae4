"""What a study consists of: its models, where each comes from, and the files its recipes name."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextgraft.config.base import Frozen, read_yaml, validate
from contextgraft.config.study import Pipeline
from contextgraft.config.target_sheet import FineTune, read
from contextgraft.errors import ConfigError


class Origin(Frozen):
    """How one model of the study comes to be: fetched from `source`, or trained from the base by `recipe`."""

    source: str | None = None
    recipe: str | None = None
    seed: int | None = None


def donor_name(seed: int) -> str:
    """Name of the donor of one seed."""
    return f"donor-s{seed}"


def source_with_revision(target: FineTune) -> str:
    """The source as `contextgraft fetch` takes it."""
    return f"{target.source}@{target.revision}" if target.revision else target.source


def origins(study: Pipeline, targets: tuple[FineTune, ...]) -> dict[str, Origin]:
    """Every model of the study by its name: the base, the donors, the fine-tunes."""
    donor = study.donor
    models = {"base": Origin(source=study.base)}
    for seed in study.donor_seeds:
        trained = Origin(recipe=donor.train, seed=seed)
        models[donor_name(seed)] = trained if donor.train else Origin(source=donor.source)
    for target in targets:
        fetched = Origin(source=source_with_revision(target))
        models[target.name] = Origin(recipe=target.recipe) if target.recipe else fetched
    return models


def texts(value: Any) -> Iterator[str]:
    """Every string inside parsed YAML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def companions(recipe: Path) -> tuple[Path, ...]:
    """A recipe and the files beside it that it names, directly or through another: what it depends on."""
    found: dict[Path, None] = {}
    waiting = [recipe]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = None
        if path.suffix in {".yaml", ".yml"}:
            named = (
                path.parent / text for text in texts(read_yaml(path)) if len(text) < 256 and "\n" not in text
            )
            waiting.extend(sorted({file for file in named if file.is_file()}))
    return tuple(sorted(found))


@dataclass(frozen=True)
class Study:
    """A checked configuration with its sheet: all that the workflow needs to know."""

    settings: Pipeline
    targets: dict[str, FineTune]
    origins: dict[str, Origin]

    def needle_format(self, target: str) -> str:
        """Needle format in which a fine-tune is asked."""
        return self.targets[target].needle or self.settings.evaluation.needle.format

    def kept(self, target: str) -> bool:
        """Whether the grafts of a fine-tune stay after they were evaluated."""
        own = self.targets[target].keep
        return self.settings.keep_grafts if own is None else own == "yes"

    def question_files(self, needle: str, skills: Sequence[str] = ()) -> list[str]:
        """Every file that decides what is asked in a needle format, with skills that are files."""
        asked = self.settings.evaluation
        ruler = [asked.ruler.qa_1, asked.ruler.qa_2] if asked.ruler else []
        named = [*asked.needle.haystacks, *(file for file in ruler if file), *skills]
        return [*self.files(needle), *(file for file in named if Path(file).is_file())]

    def files(self, recipe: str) -> list[str]:
        """A recipe and every file it names, as paths."""
        return [str(path) for path in companions(Path(recipe))]


def load(config: Mapping[str, Any], source: Path | str, needle_kinds: Collection[str]) -> Study:
    """Check a parsed configuration, its sheet, and the files they name; else ConfigError or InputError.

    `needle_kinds` are the names that evaluation.needle.kinds may have.
    """
    settings = validate(Pipeline, dict(config), source)
    check_needle_kinds(settings, needle_kinds, source)
    targets = read(Path(settings.fine_tunes))
    check_files(settings, targets, source)
    return Study(settings, {target.name: target for target in targets}, origins(settings, targets))


def check_needle_kinds(settings: Pipeline, known: Collection[str], source: Path | str) -> None:
    """Every kind of needle question must be a known one."""
    for kind in settings.evaluation.needle.kinds:
        if kind not in known:
            raise ConfigError(
                "evaluation.needle.kinds: unknown kind of question",
                path=source,
                expected=f"one of {', '.join(known)}",
                received=kind,
            )


def check_files(settings: Pipeline, targets: tuple[FineTune, ...], source: Path | str) -> None:
    """Every recipe, format and skill that is named must be a file."""
    ruler = settings.evaluation.ruler
    named = {
        "donor.train": settings.donor.train,
        "evaluation.needle.format": settings.evaluation.needle.format,
        "evaluation.ruler.qa_1": ruler.qa_1 if ruler else None,
        "evaluation.ruler.qa_2": ruler.qa_2 if ruler else None,
    }
    for key, value in named.items():
        check_file(value, key, source)
    for target in targets:
        files = [("source", target.recipe), ("needle", target.needle)]
        for key, value in [*files, *(("skill", file) for file in target.skill_files)]:
            check_file(value, f"{key} of {target.name}", settings.fine_tunes)


def check_file(value: str | None, key: str, where: Path | str) -> None:
    """One named file, if one is named."""
    if value is not None and not Path(value).is_file():
        raise ConfigError(
            f"{key} names a file that is not there",
            path=where,
            received=value,
            remedy="paths are relative to the working folder",
        )
