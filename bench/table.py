"""The results as a Markdown table with their ratios, and as a picture."""

import json

import vl_convert as vlc
from measure import Cost

Results = dict[str, dict[str, Cost]]
MERGEKIT, PEFT = "mergekit-extract-lora, 1 rank", "PEFT merge_and_unload"
LOADING = "import torch, nothing else"
RATIOS = (  # shape, ours, theirs, figure, how often theirs would have to run, sentence
    ("1B", "extract, 4 ranks", MERGEKIT, "cpu", 4, "CPU time of mergekit, four ranks, over ours"),
    ("1B", "merge", PEFT, "wall", 1, "1B: wall time of PEFT over merge"),
    ("8B", "merge", PEFT, "wall", 1, "8B: wall time of PEFT over merge"),
)
OVER = (
    ("merge", "cp -r", "wall time of merge over cp -r, warm cache"),
    (
        "merge, cold, to disk",
        "cp -r, cold, to disk",
        "wall time of merge over cp -r, cold cache, to the disk",
    ),
    (
        "extract, 4 ranks, cold",
        "read both models, cold",
        "wall time of extract over reading both models, cold",
    ),
)


def markdown(results: Results) -> str:
    """One table of costs, one list of ratios."""
    rows = [
        "| shape | work | wall s | CPU s | peak resident MB | peak anonymous MB | runs |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {shape} | {name} | {c.wall:.1f} | {c.cpu:.1f} | {c.resident:.0f} | {c.anonymous:.0f} | {c.runs} |"
        for shape, costs in results.items()
        for name, c in costs.items()
    ]
    return "\n".join([*rows, "", *(f"- {line}" for line in ratios(results))])


def ratios(results: Results) -> list[str]:
    """The comparisons that the goals are about, as far as both sides were run."""
    lines = []
    for shape, ours, theirs, figure, times, text in RATIOS:
        if theirs in results.get(shape, {}):
            sides = [getattr(results[shape][name], figure) for name in (ours, theirs)]
            lines.append(f"{text}: {times * sides[1] / sides[0]:.1f}")
    for shape, costs in results.items():
        lines += [
            f"{shape}: {text}: {costs[ours].wall / costs[theirs].wall:.2f}"
            for ours, theirs, text in OVER
            if theirs in costs
        ]
        if LOADING in costs:  # a program that uses PyTorch and writes the bytes cannot be faster
            copy, peft = costs["cp -r"].wall, costs[PEFT].wall
            floor = costs[LOADING].wall + copy
            lines.append(
                f"{shape}: loading PyTorch and cp -r together, without arithmetic: "
                f"{floor / copy:.2f} times cp -r, {peft / floor:.1f} times less than PEFT"
            )
    if {"1B", "8B"} <= results.keys():
        for work in ("extract, 4 ranks", "merge"):
            small, large = (results[shape][work].anonymous for shape in ("1B", "8B"))
            lines.append(f"{work}: peak anonymous memory of 8B over 1B: {large / small:.2f}")
    return lines


def plot(results: Results) -> str:
    """Bars of wall time by program, a panel a shape, on a logarithmic axis; SVG."""
    values = [
        {"shape": shape, "work": name, "seconds": round(cost.wall, 2), "ours": _ours(name)}
        for shape, costs in results.items()
        for name, cost in costs.items()
    ]
    place = {"field": "work", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 240}}
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
        "encoding": {"y": place, "x": length, "x2": {"datum": 0.1}, "color": colour},
    }
    text = {
        "mark": {"type": "text", "align": "left", "dx": 4},
        "encoding": {"y": place, "x": length, "text": {"field": "seconds", "format": ".1f"}},
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
    return "contextgraft" if name.startswith(("extract", "merge,")) or name == "merge" else "peer"
