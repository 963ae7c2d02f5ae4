"""`contextgraft merge --mergekit`: adapters, target and scales from a configuration of mergekit."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contextgraft.cli.options import PATH
from contextgraft.cli.output import echo
from contextgraft.errors import MismatchError

if TYPE_CHECKING:
    from contextgraft.adapter.merge.plan import MergePlan
    from contextgraft.adapter.mergekit.equivalent import MergekitMerge

PARAMETERS = {"adapters": "--adapter", "targets": "--target", "scales": "--scale"}
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}
WIDER = ("F32", "F64")  # dtypes of the computation that lose nothing


def _read(context: click.Context, _: click.Parameter, path: Path | None) -> "MergekitMerge | None":
    """The merge of the file, whose values become the defaults of the other options."""
    if path is None:
        return None
    from contextgraft.adapter.mergekit.equivalent import read_mergekit

    merge = read_mergekit(path)
    adapters = {str(source): scale for source, scale in merge.adapters.items()}
    defaults: dict[str, Any] = {
        "adapters": list(adapters), "targets": [str(merge.target)], "scales": list(adapters.values())
    }  # fmt: skip
    context.default_map = {**(context.default_map or {}), **defaults}
    return merge


MERGEKIT_OPTION = click.option(
    "--mergekit",
    type=PATH,
    metavar="FILE",
    is_eager=True,
    callback=_read,
    help="Configuration of mergekit-yaml in place of --adapter, --target and --scale: linear, "
    "task_arithmetic or passthrough of MODEL+ADAPTER; one that means something else is refused.",
)


def show_equivalent(merge: "MergekitMerge | None", context: click.Context) -> None:
    """Print the same merge in the words of this command; UsageError if options of it were given, too."""
    if merge is None:
        return
    typed = click.core.ParameterSource.DEFAULT_MAP
    given = [option for name, option in PARAMETERS.items() if context.get_parameter_source(name) != typed]
    if given:
        raise click.UsageError(f"--mergekit cannot be combined with {', '.join(given)}")
    from shlex import join

    scaled = [
        word
        for source, scale in merge.adapters.items()
        for word in ("--adapter", str(source), "--scale", repr(scale))
    ]
    echo(f"merge: this configuration is: {join(['--target', str(merge.target), *scaled])}", err=True)


def check_dtypes(merge: "MergekitMerge", plan: "MergePlan") -> None:
    """MismatchError if mergekit would store or compute in another dtype than that of the target."""
    stored = sorted({plan.target[change.source].dtype for change in plan.fit.changes.values()})
    names = [name.removeprefix("torch.") for name in (merge.dtype, merge.out_dtype) if name]
    codes = [DTYPES.get(name, name) for name in names]
    written = codes[-1:] if merge.dtype or merge.out_dtype else []
    wrong = [code for code in codes if [code] != stored and code not in WIDER]
    wrong += [code for code in written if [code] != stored]
    if wrong:
        raise MismatchError(
            "mergekit would convert the weights, which contextgraft keeps in the target's dtype",
            path=plan.target.path, expected=f"dtype: {', '.join(stored)}", received=" and ".join(names),
            remedy="remove dtype and out_dtype from the configuration if the target's dtype is meant",
        )  # fmt: skip
