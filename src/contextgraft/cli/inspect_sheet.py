"""`contextgraft inspect --sheet`: which targets of a sheet fit a base, before anything large is fetched."""

import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from contextgraft.adapter.analysis.compatibility import Descent, Tokens, descent
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.config import target_sheet
from contextgraft.config.resolved_study import source_with_revision
from contextgraft.config.target_sheet import FineTune
from contextgraft.errors import ConfigError, ContextgraftError, InputError
from contextgraft.rope import settings
from contextgraft.rope.settings import RopeSettings
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.open_headers import peek

FITS, DIFFERS, REFUSED, TRAINED = "fits", "differs", "refused", "trained"
GOOD = (FITS, TRAINED)
SHOWN = 3  # tensors named in a reason; JSON has all


@dataclass(frozen=True)
class Row:
    """One line of the sheet: a verdict, the reasons for it, and what was found if the model could be read."""

    line: int
    name: str
    source: str
    verdict: str
    reasons: tuple[str, ...] = ()
    found: Descent | None = None


def inspect(path: Path, base: str, place: Path | None, hub: Hub, threads: int) -> list[Row]:
    """One row a target, in the order of the sheet; only a base or a sheet that cannot be read raises.

    Headers are kept in `place`, a folder a target; without it they are thrown away.
    """
    with _kept(place) as folder:
        ancestor = peek(base, folder / "base", hub)
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(partial(_row, ancestor, folder, hub), _lines(path)))


@contextmanager
def _kept(place: Path | None) -> Iterator[Path]:
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="contextgraft-") as folder:
        yield Path(folder)


def _lines(path: Path) -> list[Row | tuple[int, FineTune]]:
    """Every line of a sheet by itself: a target with its number, or the row that refuses it."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot read the sheet of fine-tunes", path=path, received=str(error)) from None
    used = [number for number, line in enumerate(lines) if line.strip() and not line.startswith("#")]
    if len(used) < 2:
        target_sheet.parse("\n".join(lines), path)  # says what an empty sheet lacks
    head = used[0]
    target_sheet.check_header(target_sheet.cells(lines[head]), f"{path}:{head + 1}")
    seen: dict[str, int] = {}
    rows: list[Row | tuple[int, FineTune]] = []
    for number in used[1:]:
        alone = [""] * head + [lines[head]] + [""] * (number - head - 1) + [lines[number]]  # numbers stay
        try:
            (target,) = target_sheet.parse("\n".join(alone), path)
            if seen.setdefault(target.name, number) != number:
                raise ConfigError(
                    f"the name {target.name!r} stands on line {seen[target.name] + 1} already",
                    path=f"{path}:{number + 1}",
                )
            rows.append((number + 1, target))
        except ConfigError as error:
            cells = dict(
                zip(target_sheet.cells(lines[head]), target_sheet.cells(lines[number]), strict=False)
            )
            name, source = cells.get("name", ""), cells.get("source", "")
            rows.append(Row(number + 1, name, source, REFUSED, (str(error),)))
    return rows


def _row(base: ModelFolder, folder: Path, hub: Hub, line: Row | tuple[int, FineTune]) -> Row:
    if isinstance(line, Row):
        return line
    number, target = line
    source = source_with_revision(target)
    if target.recipe is not None:
        return Row(number, target.name, source, TRAINED, (f"from the base, by {target.recipe}",))
    try:
        found = descent(base, peek(source, folder / target.name, hub))
    except ContextgraftError as error:
        return Row(number, target.name, source, REFUSED, (str(error),))
    verdict = FITS if found.fits else DIFFERS
    return Row(number, target.name, source, verdict, tuple(reasons(found)), found)


def reasons(found: Descent) -> Iterator[str]:
    """Why a model does not fit its base; nothing for one that does."""
    for key, (expected, received) in found.architecture.items():
        yield f"{key} {received}, the base {expected}"
    if found.quantised:
        yield f"quantised ({found.quantised}): take the unquantised weights"
        return  # which have other names and shapes
    shapes = [f"{name} {list(b)}, the base {list(a)}" for name, (a, b) in found.shapes.items()]
    lists = (("shape of", shapes), ("lacks", list(found.missing)))
    for label, names in lists:
        if names and not found.architecture:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            yield f"{label} {', '.join(names[:SHOWN])}{more}"


def vocabulary(tokens: Tokens) -> str:
    """How a model's tokens stand to its base's, in a few words."""
    rows = f"{tokens.rows[1]} rows" + (
        "" if tokens.rows[0] == tokens.rows[1] else f" (base {tokens.rows[0]})"
    )
    tied = "" if tokens.tied[0] == tokens.tied[1] else (", tied" if tokens.tied[1] else ", not tied")
    words = tokens.tokens
    if words is None:
        return f"{rows}, tokens unknown{tied}"
    counts = ((len(words.only_model), "added"), (len(words.only_base), "gone"), (len(words.moved), "moved"))
    said = ", ".join(f"{count} {label}" for count, label in counts if count)
    return "as the base" if tokens.same else f"{rows}, {said or 'same tokens'}{tied}"


def rope(pair: tuple[RopeSettings, RopeSettings]) -> str:
    """A model's rotary settings, if they are not its base's."""
    base, own = pair
    if base == own:
        return "as the base"
    kind = "" if own.rope_type == "default" else f", {own.rope_type}"
    return f"theta {own.theta:g}, {own.max_positions:,} positions{kind}"


def evidence(found: Descent) -> list[str]:
    """What speaks for descent, or against it, as far as it is known without weights."""
    said = [f"{found.fitting} of {found.tensors} tensors have the base's shapes"]
    if found.files:
        said.append(f"{len(found.shared)} of {found.files} weight files are the base's own, byte for byte")
    if found.tokens.tokens is not None:
        said.append(f"{found.tokens.tokens.same} tokens at the base's places")
    if found.named:
        said.append(f"calls itself {found.named}")
    if found.added:
        said.append(f"{len(found.added)} tensors that the base lacks")
    return said


def to_json(rows: list[Row], base: str) -> dict[str, Any]:
    """All rows as plain JSON values."""
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in (*GOOD, DIFFERS, REFUSED)}
    return {"base": base, "counts": counts, "targets": [_facts(row) for row in rows]}


def _facts(row: Row) -> Mapping[str, Any]:
    facts: dict[str, Any] = {
        "line": row.line,
        "name": row.name,
        "source": row.source,
        "verdict": row.verdict,
        "reasons": list(row.reasons),
    }
    found = row.found
    if found is None:
        return facts
    words = found.tokens.tokens
    return facts | {
        "evidence": evidence(found),
        "architecture": {
            key: {"base": base, "model": own} for key, (base, own) in found.architecture.items()
        },
        "shapes": {
            name: {"base": list(base), "model": list(own)} for name, (base, own) in found.shapes.items()
        },
        "missing": list(found.missing),
        "added": list(found.added),
        "quantised": found.quantised,
        "rope": {"same": found.rope[0] == found.rope[1], **settings.to_json(found.rope[1])},
        "vocabulary": {
            "same": found.tokens.same,
            "rows": found.tokens.rows[1],
            "tied": found.tokens.tied[1],
            "tokens_same": None if words is None else words.same,
            "tokens_moved": None if words is None else len(words.moved),
            "tokens_only_base": None if words is None else len(words.only_base),
            "tokens_only_model": None if words is None else len(words.only_model),
        },
        "weight_files": found.files,
        "weight_files_of_the_base": list(found.shared),
    }
