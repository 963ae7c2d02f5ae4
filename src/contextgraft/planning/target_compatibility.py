"""Which fine-tunes of a sheet fit a base, from configs, tokenizers and safetensors headers alone."""

import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from contextgraft.adapter.analysis.compatibility import (
    Compatibility,
    VocabularyMatch,
    check_compatibility,
    reasons,
)
from contextgraft.checkpoint.full_precision import check_full_precision
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.config import target_sheet
from contextgraft.config.resolved_study import source_with_revision
from contextgraft.config.target_sheet import TargetRow
from contextgraft.config.text_file import split_lines
from contextgraft.errors import ConfigError, ContextgraftError, mistakes_of
from contextgraft.planning.config_only import is_config_only, open_config_only
from contextgraft.rope import settings
from contextgraft.rope.settings import RopeSettings
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.open_headers import open_model_headers

FITS, DIFFERS, REFUSED, TRAINED = "fits", "differs", "refused", "trained"
USABLE = (FITS, TRAINED)


@dataclass(frozen=True)
class TargetCheck:
    """Result for one line of the sheet: verdict, reasons, and the comparison if the model was readable."""

    line: int
    name: str
    source: str
    verdict: str
    reasons: tuple[str, ...] = ()
    compatibility: Compatibility | None = None


def check_targets(sheet: Path, base: str, headers: Path | None, hub: Hub, threads: int) -> list[TargetCheck]:
    """Check every target, in the order of the sheet; raise only if the base or the sheet cannot be read.

    Headers are kept in the folder `headers`, one subfolder per target; without it they are deleted.
    """
    with _headers_folder(headers) as folder:
        ancestor = _open(base, folder / "base", hub)
        check_full_precision(ancestor, "a comparison with fine-tunes")
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(partial(_check, ancestor, folder, hub), _lines(sheet)))


def _open(source: str, cache: Path, hub: Hub) -> ModelFolder:
    """The headers of a source; of a config without weights, what it describes."""
    if is_config_only(Path(source)):
        return open_config_only(Path(source))
    return open_model_headers(source, cache, hub)


@contextmanager
def _headers_folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="contextgraft-") as temporary:
        yield Path(temporary)


def _lines(path: Path) -> list[TargetCheck | tuple[int, TargetRow]]:
    """Each line of a sheet, parsed separately: a target with its line number, or a refused check."""
    lines = split_lines(target_sheet.read_sheet(path))
    used = [number - 1 for number, _ in target_sheet.data_lines(lines)]
    if len(used) < 2:
        target_sheet.parse_targets("\n".join(lines), path)  # raises the error for an empty sheet
    head = used[0]
    target_sheet.check_header(target_sheet.cells(lines[head]), f"{path}:{head + 1}")
    seen: dict[str, int] = {}
    rows: list[TargetCheck | tuple[int, TargetRow]] = []
    for number in used[1:]:
        # Blank lines keep the line numbers of error messages right.
        alone = [""] * head + [lines[head]] + [""] * (number - head - 1) + [lines[number]]
        try:
            (target,) = target_sheet.parse_targets("\n".join(alone), path)
            if seen.setdefault(target.name, number) != number:
                raise ConfigError(
                    f"the name {target.name!r} is already used on line {seen[target.name] + 1}",
                    path=f"{path}:{number + 1}",
                )
            rows.append((number + 1, target))
        except ConfigError as error:
            cells = dict(
                zip(target_sheet.cells(lines[head]), target_sheet.cells(lines[number]), strict=False)
            )
            name, source = cells.get("name", ""), cells.get("source", "")
            facts = tuple(map(str, mistakes_of(error)))
            rows.append(TargetCheck(number + 1, name, source, REFUSED, facts))
    return rows


def _check(
    base: ModelFolder, folder: Path, hub: Hub, line: TargetCheck | tuple[int, TargetRow]
) -> TargetCheck:
    if isinstance(line, TargetCheck):
        return line
    number, target = line
    source = source_with_revision(target)
    if target.recipe is not None:
        return TargetCheck(number, target.name, source, TRAINED, (f"from the base, by {target.recipe}",))
    try:
        model = _open(source, folder / target.name, hub)
        match = check_compatibility(base, model)
    except ContextgraftError as error:
        return TargetCheck(number, target.name, source, REFUSED, (str(error),))
    match = replace(match, unread=tuple(str(side.path) for side in (base, model) if not side.shards))
    verdict = FITS if match.fits else DIFFERS
    return TargetCheck(number, target.name, source, verdict, tuple(reasons(match)), match)


def describe_vocabulary(tokens: VocabularyMatch) -> str:
    """Summary of the difference between the vocabularies of a model and its base."""
    rows = f"{tokens.rows[1]} rows" + (
        "" if tokens.rows[0] == tokens.rows[1] else f" (base {tokens.rows[0]})"
    )
    tied = "" if tokens.tied[0] == tokens.tied[1] else (", tied" if tokens.tied[1] else ", not tied")
    words = tokens.tokens
    if words is None:
        return f"{rows}, tokens unknown{tied}"
    counts = ((len(words.only_model), "added"), (len(words.only_base), "gone"), (len(words.moved), "moved"))
    facts = ", ".join(f"{count} {label}" for count, label in counts if count)
    return "as the base" if tokens.same else f"{rows}, {facts or 'same tokens'}{tied}"


def describe_rope(pair: tuple[RopeSettings, RopeSettings]) -> str:
    """Summary of the RoPE settings of a model where they differ from its base."""
    base, own = pair
    if base == own:
        return "as the base"
    kind = "" if own.rope_type == "default" else f", {own.rope_type}"
    return f"{own.description}{kind}"


def evidence(match: Compatibility) -> list[str]:
    """Facts for and against descent from the base that are known without the weights."""
    facts = [f"{match.fitting} of {match.tensors} tensors have the base's shapes"]
    facts += [
        f"not checked: {path} has no weights, its shapes are those of its config" for path in match.unread
    ]
    if match.files:
        facts.append(f"{len(match.shared)} of {match.files} weight files are the base's own, byte for byte")
    if match.tokens.tokens is not None:
        facts.append(f"{match.tokens.tokens.same} tokens with the base's ids")
    if match.named:
        facts.append(f"calls itself {match.named}")
    if match.added:
        facts.append(f"{len(match.added)} tensors that the base lacks")
    return facts


def to_json(rows: list[TargetCheck], base: str) -> dict[str, Any]:
    """All checks as plain JSON values."""
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in (*USABLE, DIFFERS, REFUSED)}
    return {"base": base, "counts": counts, "targets": [_facts(row) for row in rows]}


def _facts(row: TargetCheck) -> Mapping[str, Any]:
    facts: dict[str, Any] = {
        "line": row.line,
        "name": row.name,
        "source": row.source,
        "verdict": row.verdict,
        "reasons": list(row.reasons),
    }
    match = row.compatibility
    if match is None:
        return facts
    words = match.tokens.tokens
    return facts | {
        "evidence": evidence(match),
        "architecture": {
            key: {"base": base, "model": own} for key, (base, own) in match.architecture.items()
        },
        "shapes": {
            name: {"base": list(base), "model": list(own)} for name, (base, own) in match.shapes.items()
        },
        "missing": list(match.missing),
        "added": list(match.added),
        "quantised": match.quantised,
        "rope": {
            "same": match.rope[0] == match.rope[1],
            **settings.to_json(match.rope[1]),
        },
        "vocabulary": {
            "same": match.tokens.same,
            "rows": match.tokens.rows[1],
            "tied": match.tokens.tied[1],
            "tokens_same": None if words is None else words.same,
            "tokens_moved": None if words is None else len(words.moved),
            "tokens_only_base": None if words is None else len(words.only_base),
            "tokens_only_model": None if words is None else len(words.only_model),
        },
        "weight_files": match.files,
        "weight_files_of_the_base": list(match.shared),
    }
