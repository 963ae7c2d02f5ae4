"""What `contextgraft evaluate --adapter` writes in addition to its table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contextgraft.checkpoint.model_folder import SIDECAR
from contextgraft.cli.output import echo
from contextgraft.errors import ContextgraftError, Refused, first_names

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class GraftOutputs:
    """Folders of records and files of alignments by label; the base of the adapters; the recommendation."""

    records: Mapping[str, Path]
    alignments: Mapping[str, Path]
    base: Path | None
    recommendation: Path | None


def graft_outputs(params: Mapping[str, Any]) -> GraftOutputs:
    """The outputs that the options name; click.UsageError for options that do not belong together."""
    outputs = GraftOutputs(
        labelled_paths("--record", params["records"]),
        labelled_paths("--alignment", params["alignments"]),
        params["base"],
        params["recommendation"],
    )
    if (outputs.records or outputs.alignments or outputs.recommendation) and not params["adapters"]:
        raise click.UsageError("--record, --alignment and --recommendation need an --adapter")
    if bool(outputs.alignments) != (outputs.base is not None):
        raise click.UsageError("--alignment and --base need each other")
    return outputs


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


def remove_outputs(outputs: GraftOutputs) -> None:
    """Remove what an earlier run wrote, which would not belong to the new table."""
    records = [folder / SIDECAR for folder in outputs.records.values()]
    recommendation = [outputs.recommendation] if outputs.recommendation else []
    for file in (*records, *outputs.alignments.values(), *recommendation):
        file.unlink(missing_ok=True)


def write_graft_outputs(outputs: GraftOutputs, table: "pa.Table", samples: Path) -> None:
    """Write what is made from the samples: records of refused grafts, and the recommendation.

    Failed prompts would become a permanent "no rank": there is no recommendation until they are repeated.
    """
    from contextgraft.formats.samples import complete

    record_refusals(table, outputs.records)
    if outputs.recommendation is not None and complete(table):
        write_recommendation(samples, outputs.recommendation)


def record_refusals(table: "pa.Table", records: Mapping[str, Path]) -> None:
    """Record the grafts without a record: their target was refused, as the table says."""
    from contextgraft.evaluation.sample_rows import refused_rows
    from contextgraft.formats.refusal import record_refusal

    refused = {label: (verb, reason) for label, verb, reason in refused_rows(table)}
    for label, folder in records.items():
        if label in refused and not (folder / SIDECAR).exists():
            verb, reason = refused[label]
            folder.mkdir(parents=True, exist_ok=True)
            record_refusal(folder, verb, Refused(folder, verb, reason))


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
    from contextgraft.adapter.compute.tensor_pool import same_thread_count
    from contextgraft.adapter.lora.adapter import open_adapter
    from contextgraft.formats import alignment
    from contextgraft.formats.refusal import is_final

    for label, file in outputs.alignments.items():
        try:
            assert outputs.base is not None  # graft_outputs
            adapter = open_adapter(adapters[label])
            with same_thread_count():
                result = align_adapter(adapter, outputs.base, target, threads=threads)
            alignment.write(result, file)
        except ContextgraftError as error:
            if not allow_refused or not is_final(error):
                raise
            alignment.write_nothing(file)
            echo(f"evaluate: not aligned: {error}", err=True)


def write_recommendation(samples: Path, out: Path) -> None:
    """Write which rank the report recommends, as JSON."""
    from contextgraft.checkpoint.atomic import write_json
    from contextgraft.report.recommendation import recommend

    write_json(out, recommend([samples]))


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
