"""`contextgraft plan evaluation`: what an evaluation costs on one kind of device."""

import click
from click.core import ParameterSource

from contextgraft.cli.option_types import COUNT, Choice, NumberList, RealNumber, WholeNumber
from contextgraft.cli.options import SuiteChoice, example, json_option, refuse_unread
from contextgraft.cli.output import print_json
from contextgraft.cli.plan_training import MOST, POSITIVE, device_options

READ_BY = {
    "depths": ("needle",),
    "distractors": ("needle",),
    "samples": ("needle", "ruler", "perplexity", "divergence"),
}  # suites that read an option
LONGEST = 2**40  # tokens: beyond any claim, and still a number that tables can show


@click.command(
    epilog=example("contextgraft plan evaluation llama3-8b --lengths 65536 --rank 32 --fine-tunes 3")
)
@click.argument("model", metavar="MODEL_OR_CONFIG")
@click.option(
    "--suite",
    "suites",
    type=SuiteChoice(without="skill"),  # whose prompts are short
    multiple=True,
    default=("needle",),
    show_default=True,
    help="What is evaluated; repeatable.",
)
@click.option(
    "--lengths",
    type=NumberList(WholeNumber(1, LONGEST), "INT,..."),
    default="131072,1048576",
    show_default=True,
    help="Length of prompt and answer, in tokens.",
)
@click.option(
    "--depths",
    type=NumberList(RealNumber(0, 100), "PERCENT,..."),
    default="0,25,50,75,100",
    show_default=True,
    help="Positions of the needle in the text.",
)
@click.option(
    "--samples",
    type=WholeNumber(1, MOST),
    default=20,
    show_default=True,
    help="Prompts for each length and depth, or length and task.",
)
@click.option(
    "--distractors",
    type=WholeNumber(0, MOST),
    default=0,
    show_default=True,
    help="Other needles in each text. With at least (number of depths - 1), one text serves all depths.",
)
@click.option("--rank", "ranks", type=COUNT, multiple=True, help="Rank of the grafts; repeatable.")
@click.option(
    "--fine-tunes", type=WholeNumber(1, MOST), default=1, show_default=True, help="Number of fine-tunes."
)
@click.option(
    "--dtype",
    type=Choice(["auto", "bfloat16", "float16", "float32"]),
    default="auto",
    show_default=True,
    help="Dtype of the computation; auto: as in the config.",
)
@device_options()
@click.option(
    "--bandwidth",
    type=POSITIVE,
    default=3.35e12,
    show_default="3.35e12",
    help="Bytes per second of the memory of one device.",
)
@json_option()
def command(
    *,
    model: str,
    suites: tuple[str, ...],
    lengths: tuple[int, ...],
    depths: tuple[float, ...],
    samples: int,
    distractors: int,
    ranks: tuple[int, ...],
    fine_tunes: int,
    dtype: str,
    device_flops: float,
    utilisation: float,
    bandwidth: float,
    device_memory: float,
    as_json: bool,
) -> None:
    """Print memory, hours and devices of an evaluation.

    MODEL_OR_CONFIG is a model folder, a config.json, or a shipped shape: llama3-8b, llama3-70b, smollm2-135m.
    Base and donor are evaluated once, each fine-tune alone, with theta only, and at each --rank.
    """
    source = click.get_current_context().get_parameter_source
    given = [name for name in READ_BY if source(name) is not ParameterSource.DEFAULT]
    refuse_unread({f"--{name}": READ_BY[name] for name in given}, suites)
    from contextgraft.planning.shapes.model_shape import read_model_shape

    shape = read_model_shape(model, dtype)
    from contextgraft.adapter.extract.rank_spec import TensorSelection
    from contextgraft.planning.adapters import check_ranks, tensor_infos

    check_ranks(ranks, tensor_infos(shape), TensorSelection())
    from contextgraft.planning.evaluation import PromptGrid, count_models, suite_costs, to_json
    from contextgraft.planning.hardware import Hardware

    hardware = Hardware(device_flops, utilisation, bandwidth, device_memory)
    grid = PromptGrid(lengths, depths, samples, distractors)
    models = count_models(fine_tunes, len(set(ranks)))
    costs = suite_costs(shape, hardware, grid, list(dict.fromkeys(suites)), models)
    if as_json:
        print_json(to_json(shape, hardware, grid, models, costs))
        return
    from contextgraft.cli.plan_tables import print_evaluation

    print_evaluation(shape, hardware, grid, models, costs)
