"""Write the study, its sheet and what they need: from names of models to files that Snakemake runs."""

import json
import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import yaml

from contextgraft.adapter.extract.rank_spec import TensorSelection
from contextgraft.checkpoint.atomic import publish_file
from contextgraft.checkpoint.model_folder import ModelFolder, open_model
from contextgraft.checkpoint.replaceable import OutputExists, check_apart
from contextgraft.config.base import validate
from contextgraft.config.study import StudyConfig
from contextgraft.config.target_sheet import parse_targets
from contextgraft.config.text_file import is_file, path_exists
from contextgraft.errors import InputError, SeveralMistakes
from contextgraft.planning.adapters import check_ranks
from contextgraft.planning.new_study.facts import (
    LONGEST_SHORT_PROMPT,
    LONGEST_WINDOW,
    RECIPES,
    BaseFacts,
    DonorFacts,
    check_prompts,
    prompt_lengths,
    read_base,
    read_donor,
)
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.open_headers import open_model_headers
from contextgraft.sources.resolve import check_source, locate, on_hub

HERE = Path(__file__).parent
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
LINE_ENDS = re.compile(r"[\t\r\n\v\f\x1c-\x1e\x85\u2028\u2029]")  # and the tab
CHAT_FORMAT = "needle_chat.yaml"
SHIPPED_FORMAT = "# format: FILE.yaml # wording of needles and questions; by default the shipped one"


@dataclass(frozen=True)
class NewStudy:
    """The models of a study that is to be written; `fine_tunes` are names with their sources.

    `needle_format` is the YAML file of the needles; None means a shipped one.
    """

    name: str
    base: str
    donor: str
    fine_tunes: Mapping[str, str]
    ranks: Sequence[int] = ()
    lengths: Sequence[int] = ()
    needle_format: Path | None = None


def fine_tune_names(sources: Sequence[str]) -> dict[str, str]:
    """Each `NAME=SOURCE` or SOURCE by its name; without one, the end of the source is its name."""
    named: dict[str, str] = {}
    for text in sources:
        name, equals, source = text.partition("=")
        if not equals or path_exists(text):
            name, source = model_name(text), text
        if not name or not source:
            raise InputError("a fine-tune needs a source", expected="[NAME=]SOURCE", received=text)
        if name in named:
            raise InputError(
                f"two fine-tunes are named {name!r}", expected="NAME=SOURCE", received=text,
                remedy="give one of them another name",
            )  # fmt: skip
        named[name] = source
    return named


def model_name(source: str) -> str:
    """The end of a source, without its revision, as the name of a folder."""
    end = source.rstrip("/").rpartition("/")[2].rpartition(":")[2].partition("@")[0].removesuffix(".gguf")
    return NOT_IN_NAMES.sub("-", end).strip("-._") or "model"


def write_study(new: NewStudy, folder: Path, hub: Hub, *, replace: bool = False) -> list[Path]:
    """Read the configs of base and donor, and write the study into `folder`; returns the files.

    The first is the study. It is checked as Snakemake checks it. Existing files raise OutputError, unless
    `replace`, or if they are some of these files, as an interrupted run leaves them; sources that do not
    exist raise the errors of `open_model_headers`.
    """
    _check_characters(str(folder))
    for source in (new.base, new.donor, *new.fine_tunes.values()):
        _check_characters(source)
        if source != new.donor or not _trained(new):
            check_source(source)
    for source in new.fine_tunes.values():
        if not on_hub(source) and (folder_of := locate(source)).is_dir():
            open_model(folder_of)
    with tempfile.TemporaryDirectory(prefix="contextgraft-") as cache:
        model = open_model_headers(new.base, Path(cache) / "base", hub)
        check_ranks(new.ranks, model.tensors.values(), TensorSelection())
        base, donor = read_base(model), read_donor(new.donor, Path(cache) / "donor", hub)
        _check_prompts(new, model, base)
    if 0 < donor.longest < base.context:
        raise InputError(
            "the donor's context is shorter than the base's", path=new.donor,
            expected=f"at least {base.context:,} tokens", received=f"{donor.longest:,}",
            remedy="exchange --base and --donor, if they were confused",
        )  # fmt: skip
    beyond = [length for length in new.lengths if 0 < donor.longest < length]
    if beyond:
        hub.progress.log(
            f"warning: prompts of {max(beyond):,} tokens are beyond the donor's context of {donor.longest:,}"
        )
    files = _files(new, folder, base, donor)
    for path in files:
        check_apart(path, map(Path, (new.base, new.donor, *new.fine_tunes.values())))
    existing = [path for path in files if path.exists()]
    begun = len(existing) < len(files) and all(_has_text(path, files[path]) for path in existing)
    if existing and not replace and not begun:
        raise OutputExists(existing[0], other="choose another --name")
    _check(files)
    for path, text in files.items():
        with publish_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(files)


def _check_prompts(new: NewStudy, model: ModelFolder, base: BaseFacts) -> None:
    """Raise InputError, in the words of `init`, if the base's tokenizer cannot hold the study's prompts."""
    shipped = HERE / CHAT_FORMAT if base.has_chat else None
    try:
        check_prompts(model, new.needle_format or shipped, min(new.lengths, default=base.context))
    except SeveralMistakes:
        raise
    except InputError as error:
        raise InputError(str(error).replace(str(model.path), new.base)) from None


def _has_text(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _check_characters(path: str) -> None:
    """Raise InputError for what no cell of a sheet, and no comment of a study, can hold."""
    if LINE_ENDS.search(path):
        raise InputError(
            "a tab or a line end in a source or a folder", received=repr(path)[:200], remedy="rename it"
        )


def _check(files: Mapping[Path, str]) -> None:
    """Raise ConfigError for a study or a sheet that Snakemake would reject; their files are not opened."""
    (study, text), (sheet, rows), *_ = files.items()
    validate(StudyConfig, yaml.safe_load(text), study)
    parse_targets(rows, sheet)


def _trained(new: NewStudy) -> bool:
    return new.donor.endswith(RECIPES)


def _files(new: NewStudy, folder: Path, base: BaseFacts, donor: DonorFacts) -> dict[Path, str]:
    study, sheet = folder / f"{new.name}.yaml", folder / f"{new.name}.tsv"
    shape, needle = folder / f"{new.name}-base.json", folder / f"{new.name}-needle.yaml"
    own_config = is_file(Path(new.base) / "config.json")
    paths = {"path": study, "sheet": sheet, "needle": needle, "shape": shape}
    files = {study: _study(new, base, donor, paths)}
    files[sheet] = (HERE / "sheet.tsv").read_text() + "".join(
        f"{name}\t{source}\n" for name, source in new.fine_tunes.items()
    )
    if base.has_chat and not new.needle_format:
        files[needle] = (HERE / CHAT_FORMAT).read_text()
    if not own_config:
        files[shape] = json.dumps(base.config, indent=2, sort_keys=True) + "\n"
    return files


def _study(new: NewStudy, base: BaseFacts, donor: DonorFacts, paths: Mapping[str, Path]) -> str:
    lengths = list(new.lengths) or prompt_lengths(base.context, donor.longest)
    own_config = Path(new.base) / "config.json"
    shape = own_config if is_file(own_config) else paths["shape"]
    format_ = SHIPPED_FORMAT
    if new.needle_format:
        format_ = f"format: {_yaml(new.needle_format)} # wording of needles and questions"
    elif base.has_chat:
        format_ = f"format: {_yaml(paths['needle'])} # in the base's chat template"
    return Template((HERE / "study.yaml").read_text()).substitute(
        name=new.name,
        study=_yaml(new.name),
        base_name=model_name(new.base),
        donor_name=model_name(new.donor),
        study_word=shlex.quote(str(paths["path"])),
        sheet_word=shlex.quote(str(paths["sheet"])),
        base_word=shlex.quote(new.base),
        sheet=_yaml(paths["sheet"]),
        base=_yaml(new.base),
        donor=_donor(new, donor),
        shape=f"shape: {_yaml(shape)} # config.json of the base: resources of jobs are computed from it",
        ranks=list(new.ranks or base.ranks),
        format=f"    {format_}",
        lengths=lengths,
        lengths_why=f"the base's context is {base.context:,}, the donor's {donor.longest:,}",
        windows=sorted({min(length, LONGEST_WINDOW) for length in (lengths[0], lengths[-1])}),
        short=max(1, min(base.context // 2, LONGEST_SHORT_PROMPT)),
    )


def _donor(new: NewStudy, donor: DonorFacts) -> str:
    if _trained(new):
        return f"donor: {{train: {_yaml(new.donor)}}} # trained from the base by this recipe"
    promised = f"theta: {donor.theta:.17g}, max_positions: {donor.positions}"
    return f"donor: {{source: {_yaml(new.donor)}, {promised}}} # a donor with other values is refused"


def _yaml(value: object) -> str:
    """A string as it is written inside a list or a mapping of YAML."""
    return yaml.safe_dump([str(value)], default_flow_style=True, allow_unicode=True, width=10**6)[1:-2]
