"""The results as Markdown tables: costs, goals and floors; and as a picture."""

import json

from floors import floors, linear_weights
from goals import COPY, EXTRACT, MERGE, PEFT, TINY, Results, goal_table
from measure import Cost
from results import Measured
from shapes import SHAPES

LOADING = "import torch, nothing else"


def markdown(measured: Measured) -> str:
    """A table of costs, one of goals and one of floors."""
    results, machine = measured.costs, measured.machine
    lines = [
        "| shape | work | wall s | CPU s | kernel s "
        "| resident MB | anonymous MB | disk MB | others' cores | runs |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_cost_row(shape, name, cost) for shape, costs in results.items() for name, cost in costs.items()),
        "",
        _quiet_line(results),
        "",
        *goal_table(results),
        "",
        *_more_ratios(results),
        f"- floors: one core computes {machine.flops / 1e9:.0f} GFLOP/s in float32 and hashes "
        f"{machine.hashed / 1e9:.1f} GB/s; {machine.cores} cores",
        "",
        "| shape | work | floor by disk, s | by processor, s | measured, s | ratio to the higher floor |",
        "|---|---|---|---|---|---|",
        *(f"| {shape} {row}" for shape, costs in results.items() for row in _floors(measured, shape)),
    ]
    return "\n".join(lines)


def _floors(measured: Measured, shape: str) -> list[str]:
    weights = linear_weights(*SHAPES[shape][:3])
    return floors(measured.costs[shape], weights, measured.sizes[shape], measured.machine)


def _cost_row(shape: str, name: str, cost: Cost) -> str:
    memory = f"{cost.resident:.0f} | {cost.anonymous:.0f} | {cost.disk:.0f}"
    times = f"{cost.wall:.1f} | {cost.cpu:.1f} | {cost.system:.1f}"
    return f"| {shape} | {name} | {times} | {memory} | {cost.others:.1f} | {cost.runs} |"


def _quiet_line(results: Results) -> str:
    costs = [cost for of_shape in results.values() for cost in of_shape.values()]
    loud = sum(not cost.is_quiet for cost in costs)
    if not loud:
        return "No other program was busy during any run that counts."
    return f"**Other programs were busy during {loud} of {len(costs)} rows: their times are not to be used.**"


def _more_ratios(results: Results) -> list[str]:
    """Ratios without a goal."""
    lines = [
        f"- {shape}: wall time of merge over cp -r, warm cache: {costs[MERGE].wall / costs[COPY].wall:.2f}; "
        f"PEFT over merge: {costs[PEFT].wall / costs[MERGE].wall:.1f}"
        for shape, costs in results.items()
        if COPY in costs
    ]
    if TINY in results:
        lines.append(f"- importing PyTorch alone: {results[TINY][LOADING].cpu:.1f} CPU s")
    if {"1B", "8B"} <= results.keys():
        for work in (EXTRACT, MERGE):
            small, large = (results[shape][work].anonymous for shape in ("1B", "8B"))
            lines.append(f"- {work}: peak anonymous memory of 8B over 1B: {large / small:.2f}")
    return lines


def plot(results: Results) -> str:
    """Bars of wall time by program, a panel a shape, on a logarithmic axis; SVG."""
    import vl_convert as vlc  # here: the memory of this process counts as that of the measured programs

    values = [
        {"shape": shape, "work": name, "seconds": round(cost.wall, 2), "ours": _ours(name)}
        for shape, costs in results.items()
        for name, cost in costs.items()
    ]
    name = {"field": "work", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 240}}
    length = {
        "field": "seconds",
        "type": "quantitative",
        "scale": {"type": "log"},
        "title": "wall seconds",
    }
    colour = {
        "field": "ours",
        "type": "nominal",
        "title": None,
        "scale": {"domain": ["contextgraft", "peer"], "range": ["#0b6e99", "#b8b8b8"]},
    }
    bars = {
        "mark": {"type": "bar", "height": 14},
        "encoding": {"y": name, "x": length, "x2": {"datum": 0.1}, "color": colour},
    }
    text = {
        "mark": {"type": "text", "align": "left", "dx": 4},
        "encoding": {"y": name, "x": length, "text": {"field": "seconds", "format": ".1f"}},
    }
    spec = {
        "data": {"values": values},
        "facet": {"row": {"field": "shape", "title": None, "sort": list(results)}},
        "spec": {"width": 480, "layer": [bars, text]},
        "resolve": {"scale": {"y": "independent"}},
        "config": {"background": "white", "font": "sans-serif"},
    }
    svg: str = vlc.vegalite_to_svg(json.dumps(spec))
    return svg


def _ours(name: str) -> str:
    return "contextgraft" if name.startswith(("extract", "merge,", "merge ")) or name == MERGE else "peer"
