"""The options of `contextgraft evaluate` for grafts in memory."""

import click

from contextgraft.cli.option_types import RealNumber
from contextgraft.cli.options import PATH, example

EXAMPLE = example(
    "contextgraft evaluate my-fine-tune --adapter adapters/r8 --adapter adapters/r32 \\",
    "    --control theta_only --suite needle --lengths 8192,65536 --out tune.parquet",
)
ADAPTER_OPTIONS = (
    click.option(
        "--adapter",
        "adapters",
        metavar="[LABEL=]ADAPTER",
        multiple=True,
        help="A PEFT LoRA folder, applied in memory to the first MODEL; repeatable: one graft for each.",
    ),
    click.option(
        "--scale",
        "scales",
        type=RealNumber(),
        multiple=True,
        help="Factor on the delta; repeatable: one graft for each adapter and scale. [default: 1]",
    ),
    click.option(
        "--control",
        "controls",
        metavar="[LABEL=]NAME[:ADAPTER]",
        multiple=True,
        help="A control row for the adapters of each donor, or for the donor of the adapter with the label "
        "ADAPTER; repeatable. theta_only: the donor's RoPE and "
        "attention settings, no weight changed; yarn, dynamic_ntk: the target's own RoPE, scaled to the "
        "donor's length; random: the largest adapter in random directions; old_theta: the largest adapter "
        "with the target's own theta; whole_delta: donor minus base at full rank (needs --base and --donor); "
        "short_donor: the same with a donor trained on short texts only (needs --base and --short-donor).",
    ),
    click.option(
        "--donor",
        "donors",
        type=PATH,
        multiple=True,
        help="The donor of the adapters, for whole_delta; repeatable: one for each donor.",
    ),
    click.option(
        "--short-donor",
        type=PATH,
        help="A donor trained as long, with the same theta, on short texts only, for short_donor.",
    ),
    click.option(
        "--record",
        "records",
        metavar="LABEL=DIR",
        multiple=True,
        help="Write the contextgraft.json that `merge` would write for the graft LABEL into DIR, which "
        "must be empty or hold only such a record; repeatable.",
    ),
    click.option(
        "--base",
        type=PATH,
        help="The base of the adapters, for --alignment, whole_delta and short_donor.",
    ),
    click.option(
        "--alignment",
        "alignments",
        metavar="LABEL=FILE",
        multiple=True,
        help="Write whether the fine-tune changed the base in the direction of the adapter LABEL, as "
        "`contextgraft align` does for a donor (Parquet); repeatable.",
    ),
    click.option(
        "--recommendation",
        type=PATH,
        metavar="FILE",
        help="Write the rank that the report recommends (JSON), for `contextgraft merge --recommended`.",
    ),
)
