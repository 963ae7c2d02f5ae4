"""What cannot work is reported before the first job: sources, recipes, skills, tasks, theta, lengths."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from contextgraft.checkpoint.model_folder import SIDECAR, ModelFolder, read_json
from contextgraft.config.evaluation import EvaluationConfig
from contextgraft.config.mistakes import MistakeCollector
from contextgraft.config.resolved_study import ResolvedStudy, donor_name
from contextgraft.config.target_sheet import JSONL, SHORT_DONOR, is_task_file
from contextgraft.config.training import load_recipe
from contextgraft.errors import ConfigError, ContextgraftError, SourceError
from contextgraft.evaluation.suites import SUITES
from contextgraft.planning.study import check_study_ranks
from contextgraft.rope import settings as rope_settings
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.open_headers import open_model_headers
from contextgraft.sources.resolve import check_source
from contextgraft.training.schedule import stage_thetas

PROMPT_SUITES = ("needle", "ruler")  # whose prompts have a given length
LONGEST_CHECKED = 2**17  # tokens


def check_study(study: ResolvedStudy, models: Path, hub: Hub, *, base_evaluated: bool = False) -> None:
    """Raise ConfigError, or SeveralMistakes, for what would fail in a later job.

    `models` is the folder of models that an earlier run fetched; one from the study's source of today is
    read there. Of other base and donor models the config and the tokenizer are read; without a connection to
    the hub, what depends on them is not checked. What is wrong with one fine-tune's model is not reported:
    the study continues without it. Lengths of prompts are not checked again where base and donors are
    evaluated already.
    """
    collector = MistakeCollector()
    for recipe in dict.fromkeys(origin.recipe for origin in study.origins.values() if origin.recipe):
        with collector.check():
            load_recipe(Path(recipe))
    collector.add(_wrong_tasks(study))
    like = {(study.needle_format(name), row.skills): name for name, row in study.targets.items()}
    for target in (None, *like.values()):  # fine-tunes with equal questions are checked once
        config = _without_tasks(study.evaluation(target))
        with collector.check():
            for suite in config.selected_suites:
                SUITES[suite].build(config)
    with tempfile.TemporaryDirectory(prefix="contextgraft-") as cache:
        opener = _HeaderOpener(study, models, Path(cache), hub, collector)
        base, short = opener.open("base", "base"), None
        if base is not None:
            collector.add(_beyond_full_rank(study, base))
        if base is not None and not collector.mistakes and not base_evaluated:
            collector.add(_unfit_lengths(study, base))
        donor = None
        if study.settings.donor.source is not None:
            donor = opener.open("donor.source", donor_name(study.settings.donor_seeds[0]))
            collector.add(_broken_promises(study, donor) if donor else ())
        if SHORT_DONOR in study.origins and study.origins[SHORT_DONOR].source is not None:
            short = opener.open("short_donor", SHORT_DONOR)
        if SHORT_DONOR in study.origins and not collector.mistakes:
            collector.add(_other_theta(study, base, donor, short))
    collector.raise_mistakes()


@dataclass(frozen=True)
class _HeaderOpener:
    """Opens models of a study by their headers, and collects why one cannot be opened."""

    study: ResolvedStudy
    models: Path
    cache: Path
    hub: Hub
    collector: MistakeCollector

    def open(self, key: str, name: str) -> ModelFolder | None:
        """The headers of one model; None, without a mistake, if the hub cannot be reached."""
        source, fetched = self.study.origins[name].source, self.models / name
        assert source is not None
        try:
            if (fetched / SIDECAR).exists() and read_json(fetched / SIDECAR).get("source") == source:
                source = str(fetched)  # nothing has to be read from the hub again
            check_source(source)
            return open_model_headers(source, self.cache / name, self.hub)
        except SourceError as error:
            self.hub.progress.log(f"{key} is not checked before the first job: {error}")
        except ContextgraftError as error:
            self.collector.add([ConfigError(f"{key}: {error}", path=self.study.source)])
        return None


def _without_tasks(config: EvaluationConfig) -> EvaluationConfig:
    """The configuration without tasks of lm-evaluation-harness, which may load data sets."""
    if config.skill is None:
        return config
    files = [skill for skill in config.skill.skills if skill.endswith(JSONL)]
    return config.with_section("skill", skills=files)


def _wrong_tasks(study: ResolvedStudy) -> Iterator[ConfigError]:
    """A mistake for each task of lm-evaluation-harness that it does not have."""
    settings = study.settings
    named = {study.source: settings.evaluation.skill.skills}
    named |= {f"{settings.fine_tunes}: {name}": list(row.skills) for name, row in study.targets.items()}
    tasks = {
        (where, skill)
        for where, skills in named.items()
        for skill in skills
        if not skill.endswith(JSONL) and not is_task_file(skill)
    }
    if not tasks:
        return
    from contextgraft.evaluation.suites.lm_eval.task import similar_tasks, split_metric, task_names

    known = task_names()
    for where, skill in sorted(tasks):
        task, _ = split_metric(skill)
        if task not in known:
            close = similar_tasks(task, known)
            yield ConfigError(
                "skill: lm-evaluation-harness has no task of this name",
                path=where,
                expected=f"{' or '.join(close)}, for example" if close else "a name of `lm_eval ls tasks`",
                received=task,
                remedy="correct the name, or give a file (.jsonl)",
            )


def _beyond_full_rank(study: ResolvedStudy, base: ModelFolder) -> Iterator[ConfigError]:
    """A mistake for ranks that no module can have, or for weights of the base that get no factors."""
    try:
        check_study_ranks(study, base.tensors.values())
    except ConfigError as error:
        yield error
    except ContextgraftError as error:
        yield ConfigError(f"base: {error}", path=study.source)


def _unfit_lengths(study: ResolvedStudy, base: ModelFolder) -> Iterator[ConfigError]:
    """A mistake for each suite whose shortest prompts do not fit their length with the base's tokenizer.

    Formats of single fine-tunes may have words that only their own tokenizer has: they are not checked.
    """
    from contextgraft.evaluation.backends.tokenizer import load_tokenizer

    config = study.evaluation()
    try:
        tokenizer = load_tokenizer(base.path)
        for suite in set(PROMPT_SUITES) & set(config.selected_suites):
            shortest = min(getattr(config, suite).lengths or config.needles.lengths or [1])
            if shortest > LONGEST_CHECKED:  # the words of any format fit, and the text would take minutes
                continue
            reduced = config.with_section(suite, lengths=[shortest], samples=1)
            for question_set in SUITES[suite].build(reduced).question_sets:
                question_set.questions(tokenizer, config.common_seed)
    except ContextgraftError as error:
        yield ConfigError(f"evaluation: {error}", path=study.source)


def _other_theta(
    study: ResolvedStudy, base: ModelFolder | None, donor: ModelFolder | None, short: ModelFolder | None
) -> Iterator[ConfigError]:
    """A mistake for a short donor that has another theta than the donor, or is trained to one."""
    name = donor_name(study.settings.donor_seeds[0])
    expected = _final_theta(study, name, base, donor) or study.settings.donor.theta
    received = _final_theta(study, SHORT_DONOR, base, short)
    if expected is not None and received is not None and expected != received:
        yield ConfigError(
            "short_donor: its theta is another than the donor's",
            path=study.source,
            expected=f"{expected:.17g}",
            received=f"{received:.17g}",
            remedy="name a model with the donor's theta, or give its recipe's last stage the donor's `theta`",
        )


def _final_theta(
    study: ResolvedStudy, name: str, base: ModelFolder | None, model: ModelFolder | None
) -> float | None:
    """Theta of a model by its config, or by its recipe and the base's; None if these cannot be read."""
    if model is not None:
        return rope_settings.read(model.config, model.path).theta
    recipe = study.origins[name].recipe
    if recipe is None or base is None:
        return None
    from contextgraft.training.model import head_dim

    rope = rope_settings.read(base.config, base.path)
    return stage_thetas(load_recipe(Path(recipe)), rope, head_dim(base.config))[-1]


def _broken_promises(study: ResolvedStudy, donor: ModelFolder) -> Iterator[ConfigError]:
    """A mistake for theta and positions that the donor's config does not have."""
    promised, rope = study.settings.donor, rope_settings.read(donor.config, donor.path)
    for key, expected, received in (
        ("theta", promised.theta, rope.theta),
        ("max_positions", promised.max_positions, rope.max_positions),
    ):
        if expected is not None and expected != received:
            yield ConfigError(
                f"donor.{key}: the donor's config has another value",
                path=study.source,
                expected=f"{expected:.17g}",
                received=f"{received:.17g} in {donor.path}",
                remedy="name the right donor, or correct the value",
            )
