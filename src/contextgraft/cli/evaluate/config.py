"""What `contextgraft evaluate` and `contextgraft replay` evaluate: a configuration, changed by options."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contextgraft.cli.evaluate.options import given_flags
from contextgraft.cli.options import refuse_unread
from contextgraft.errors import ConfigError, InputError

if TYPE_CHECKING:
    from contextgraft.config.evaluation import EvaluationConfig
    from contextgraft.evaluation.backends.registry import BackendConfig

COMMAND_LINE = "command line"


def evaluation_config(params: Mapping[str, Any]) -> "EvaluationConfig":
    """The configuration of --config, changed by the other options; without --config, that of the options.

    Without --suite, the suites are those of --config.
    """
    from contextgraft.config.base import validate
    from contextgraft.config.evaluation import SECTIONS, EvaluationConfig

    base = read_config(params["config_path"], params["fine_tune"])
    merged = base.model_dump(exclude_none=True)
    for flag, value in given_flags(params):
        values = merged if flag.section is None else merged.setdefault(flag.section, {})
        values[flag.field] = value
    suites = list(params.get("suites", ()))
    if not suites:
        flagged = validate(EvaluationConfig, merged, COMMAND_LINE)
        known = base.suites or [name for name in SECTIONS if getattr(base, name)]
        suites = [name for name in flagged.selected_suites if name in known]
    return validate(EvaluationConfig, {**merged, "suites": suites}, COMMAND_LINE)


def asked_config(params: Mapping[str, Any]) -> "EvaluationConfig":
    """The configuration of what is evaluated; UsageError for an option that none of its suites reads."""
    config = evaluation_config(params)
    refuse_unread({flag.name: flag.suites for flag, _ in given_flags(params)}, config.suites or ())
    return config


def read_config(path: Path | None, fine_tune: str | None) -> "EvaluationConfig":
    """The section `evaluation` of a study, or of a file that has only this section or its content.

    With `fine_tune`, what the study evaluates for that fine-tune.
    """
    from contextgraft.config.base import read_yaml, validate
    from contextgraft.config.evaluation import EvaluationConfig, StudyEvaluation

    if path is None:
        if fine_tune is not None:
            raise InputError("--fine-tune needs a study", remedy="pass --config STUDY.yaml")
        return EvaluationConfig()
    if fine_tune is not None:
        from contextgraft.planning.study import read_study

        return read_study(path).evaluation(fine_tune)
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(
            "not a configuration", path=path, expected="the section evaluation", received=type(data).__name__
        )
    section = data.get("evaluation", data)
    if "study" not in data:
        return validate(EvaluationConfig, section, path)
    return EvaluationConfig.model_validate(validate(StudyEvaluation, section, path).prompts)


def backend_config(params: Mapping[str, Any], config: "EvaluationConfig") -> "BackendConfig":
    """The backend, device, dtype and batch size that the options select.

    --backend and --url override the section `backend` of --config.
    """
    from contextgraft.evaluation.backends.registry import BackendConfig

    names = ("backend", "device", "prefill_chunk", "url", "model_name")
    given = {name: params[name] for name in names} | {"dtype": config.dtype or BackendConfig.dtype}
    server = config.backend
    if server is not None and (params["backend"], params["url"]) == ("hf", None):
        started = {"backend": "serve", "server": server}
        given |= (
            started if server.serve else {"backend": "openai", "url": server.url, "model_name": server.model}
        )
    return BackendConfig(**given, batch_size=config.batch_size or BackendConfig.batch_size)


def split_label(model: str) -> tuple[str | None, Path]:
    """LABEL=DIR, or DIR alone; a folder whose own path contains "=" is recognised too."""
    label, equals, folder = model.partition("=")
    if equals and not Path(model).exists():
        return label, Path(folder)
    return None, Path(model)


def check_folder(label: str | None, folder: Path) -> None:
    """Raise InputError for an empty label or a folder that does not exist."""
    from contextgraft.checkpoint.model_folder import check_model_folder

    if label == "":
        raise InputError("the label is empty", path=folder, expected="LABEL=DIR")
    check_model_folder(folder)
