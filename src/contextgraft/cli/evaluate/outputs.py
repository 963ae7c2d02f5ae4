"""What `contextgraft evaluate --adapter` writes in addition to its table."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contextgraft.checkpoint.atomic import check_file_output, write_json
from contextgraft.checkpoint.model_folder import SIDECAR
from contextgraft.cli.evaluate.config import check_folder
from contextgraft.cli.evaluate.records import GraftRecords
from contextgraft.cli.graft_options import DEFAULTS, GraftOptions
from contextgraft.cli.output import echo
from contextgraft.errors import ContextgraftError, InputError, OutputError, first_names

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class GraftOutputs:
    """The records; files of alignments by label; the base of the adapters; the recommendation.

    `options` are those of all grafts, which the recommendation records.
    """

    records: GraftRecords
    alignments: Mapping[str, Path]
    base: Path | None
    recommendation: Path | None
    options: GraftOptions = DEFAULTS

    def files(self) -> list[Path]:
        """Every file that is written."""
        records = [folder / SIDECAR for folder in self.records.folders.values()]
        return [*records, *self.alignments.values(), *filter(None, [self.recommendation])]

    def check(self, *others: Path) -> None:
        """Raise OutputError for an output that cannot be written or would replace a file of another kind.

        Also for two outputs that are one file; `others` are outputs, too. InputError if the base does not
        exist.
        """
        from contextgraft.checkpoint.replaceable import check_json_replaceable

        self.records.check()
        paths = [file.resolve() for file in [*others, *self.files()]]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice is not None:
            raise OutputError(
                "two outputs are the same file", path=twice, remedy="give each a name of its own"
            )
        for file in self.files():
            check_file_output(file)
        if self.alignments:
            from contextgraft.formats.read_alignment import check_replaceable

            for file in self.alignments.values():
                check_replaceable(file)
        if self.recommendation is not None:
            check_json_replaceable(self.recommendation, ("rank", "reason"), "a recommendation")
        if self.base is not None:
            check_folder(None, self.base)

    @contextmanager
    def written_with(self, table: "pa.Table", samples: Path, *, target: Path | None = None) -> Iterator[None]:
        """Put a table, which is in the file `samples`, in place inside the block; then what is made of it.

        `target` is the fine-tune of the grafts.

        Those of an earlier run are removed before, so that a run that is killed leaves none of other rows.
        While prompts failed, no recommendation is written: it would say for good that no rank passes.
        """
        from contextgraft.formats.samples import complete
        from contextgraft.report.recommendation import recommend

        recommended = self.recommendation is not None and complete(table)
        content = recommend([samples]) if recommended else None
        if content is not None and content["rank"] is not None and target is not None:
            record = self.options.record(target)
            content |= {"options": record} if record else {}
        self.records.remove()
        if self.recommendation is not None:
            self.recommendation.unlink(missing_ok=True)
        yield
        self.records.write(table)
        if self.recommendation is not None and content is not None:
            write_json(self.recommendation, content)


def graft_outputs(params: Mapping[str, Any]) -> GraftOutputs:
    """The outputs that the options name; click.UsageError for options that do not belong together."""
    outputs = GraftOutputs(
        GraftRecords(labelled_paths("--record", params["records"])),
        labelled_paths("--alignment", params["alignments"]),
        params["base"],
        params["recommendation"],
        GraftOptions(*(params[key] for key in ("rope_from", "keep_rope", "rounding", "replace_modules"))),
    )
    if outputs.files() and not params["adapters"]:
        raise click.UsageError("--record, --alignment and --recommendation need an --adapter")
    if outputs.alignments and outputs.base is None:
        raise click.UsageError("--alignment needs --base")
    if outputs.base is not None and not outputs.alignments and not params["controls"]:
        raise click.UsageError("--base needs --alignment, or a --control of full rank")
    if outputs.options.keep_rope and params["controls"]:
        raise click.UsageError(
            "--control and --keep-rope cannot be combined: a control has the donor's settings"
        )
    return outputs


def check_outputs_apart(
    params: Mapping[str, Any], labelled: Iterable[tuple[str | None, Path]], outputs: GraftOutputs
) -> None:
    """Raise OutputError if an output is one of the models and adapters that are read, or inside one."""
    from contextgraft.checkpoint.replaceable import check_apart

    others = (params["base"], params["short_donor"], params["rope_from"])
    inputs = [*(folder for _, folder in labelled), *params["donors"], *filter(None, others)]
    for file in filter(None, (params["out"], *outputs.files())):
        check_apart(file, inputs)


def labelled_paths(option: str, words: Sequence[str]) -> dict[str, Path]:
    """LABEL=PATH as a mapping; click.BadParameter for another form, or a label that is repeated."""
    paths: dict[str, Path] = {}
    for word in words:
        label, _, path = word.partition("=")
        if not label or not path or label in paths:
            raise click.BadParameter(
                f"expected LABEL=PATH, each label once; received {word!r}", param_hint=option
            )
        paths[label] = Path(path)
    return paths


def write_alignments(
    outputs: GraftOutputs,
    adapters: Mapping[str, Path],
    target: Path,
    threads: int,
    *,
    allow_refused: bool,
) -> None:
    """Compare the delta of each named adapter with that of the fine-tune, and write the table."""
    from contextgraft.adapter.analysis.adapter_alignment import align_adapter
    from contextgraft.adapter.lora.adapter import open_adapter
    from contextgraft.formats import alignment
    from contextgraft.formats.refusal import is_final

    for label, file in outputs.alignments.items():
        file.unlink(missing_ok=True)  # of an earlier run
        try:
            assert outputs.base is not None  # graft_outputs
            adapter = open_adapter(adapters[label])
            result = align_adapter(adapter, outputs.base, target, threads=threads)
            alignment.write(result, file)
        except ContextgraftError as error:
            if not allow_refused or not is_final(error):
                raise
            alignment.write_nothing(file)
            echo(f"evaluate: not aligned: {error}", err=True)


def missing_recommendation(outputs: GraftOutputs, table: "pa.Table") -> str:
    """Why the requested recommendation was not written: prompts failed; else empty."""
    from contextgraft.formats.samples import failed_rows

    failed = failed_rows(table)
    if outputs.recommendation is None or not failed:
        return ""
    models = list(dict.fromkeys(row["model"] for row in failed))
    return (
        f"{outputs.recommendation}: not written, because {len(failed)} of {table.num_rows} prompts failed "
        f"({first_names(models, 3)}: {failed[0]['reason']}); the same command repeats only these"
    )


def check_out(out: Path | None) -> Path:
    """The output file, if it can be written."""
    if out is None:
        raise InputError("--out is required", remedy="pass --out samples.parquet")
    folder = out.absolute().parent
    if not folder.is_dir():
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        remedy = f"mkdir -p {out.parent}" if existing.is_dir() else f"{existing} is a file: name another path"
        raise OutputError("its folder does not exist", path=out, remedy=remedy)
    if out.is_dir():
        raise OutputError("is a folder", path=out, expected="a Parquet file to write")
    return out
