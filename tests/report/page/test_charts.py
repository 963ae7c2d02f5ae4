"""Charts: colours, places of labels, grey squares, and SVG that belongs to the page."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextgraft.report.build import Report
from contextgraft.report.charts import heatmap, ranks
from contextgraft.report.charts.heatmap import HeatmapSquare
from contextgraft.report.charts.label_positions import spaced
from contextgraft.report.charts.svg import inline
from contextgraft.report.charts.theme import GREY, HEAT, PALETTE, heat
from contextgraft.report.statistics.cells import Cell, ModelKey, NeedleCondition
from contextgraft.report.statistics.proportion import Difference, Proportion
from contextgraft.report.statistics.study_table import ModelRow, TargetResult
from contextgraft.report.statistics.verdict import Evidence, RankEvidence, Verdict, VerdictOutcome

NOTHING = Cell(Proportion())


@pytest.mark.parametrize(
    ("share", "colour"), [(0.0, HEAT[0]), (0.5, HEAT[1]), (1.0, HEAT[2]), (0.25, "#ee8054")]
)
def test_the_heat_scale_is_the_conventional_one(share: float, colour: str) -> None:
    assert heat(share) == colour.lower()


@given(st.lists(st.floats(0, 1), max_size=8).map(sorted))
def test_labels_keep_apart_inside_and_in_order(values: list[float]) -> None:
    places = spaced(values, 0.1)
    assert len(places) == len(values)
    assert all(right - left >= 0.1 - 1e-9 for left, right in pairwise(places))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)


def test_labels_with_room_stay_where_they_are() -> None:
    assert spaced([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])


def test_labels_of_one_value_spread_evenly_around_it() -> None:
    assert spaced([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])


def target(*steps: float) -> TargetResult:
    own = ModelRow(ModelKey("alone"), "alone", None, NOTHING, NOTHING, NOTHING)
    rows = [
        ModelRow(
            ModelKey("graft", "d", 2**place),
            "g",
            None,
            NOTHING,
            NOTHING,
            NOTHING,
            Difference(step, step - 9, step + 9),
        )
        for place, step in enumerate(steps)
    ]
    verdict = Verdict(
        VerdictOutcome.UNKNOWN, None, None, Evidence(NOTHING, NOTHING), Evidence(NOTHING, NOTHING)
    )
    scores = RankEvidence(own.evidence, {row.model.rank: row.evidence for row in rows})
    return TargetResult("name", "d", NeedleCondition("n", 0), (own, own, *rows), verdict, scores, scores)


@pytest.mark.parametrize(
    ("steps", "loss", "gain"), [((0.0, -3.0), 12, 4), ((-56.5, -99.2), 100, 4), ((30.0, -12.0), 12, 50)]
)
def test_the_skill_axis_holds_every_graft(steps: tuple[float, ...], loss: float, gain: float) -> None:
    shared = ranks.axes([target(*steps)])
    assert (shared.loss, shared.gain) == (loss, gain)
    values = ranks.spec(target(*steps), shared, None)["vconcat"][1]["layer"][1]["data"]["values"]
    assert all(-loss <= value["low"] <= value["share"] <= value["high"] <= gain for value in values)


def grid(*proportions: Proportion) -> list[HeatmapSquare]:
    return [
        HeatmapSquare(1024, 25.0 * place, Cell(proportion)) for place, proportion in enumerate(proportions)
    ]


def test_squares_without_a_score_are_grey_and_say_why() -> None:
    truncated = Proportion(truncated=20, reason="prompt of 1,100 tokens over the limit of 1,024")
    values = heatmap.spec(grid(Proportion(n=20, hits=0), truncated, Proportion()))["data"]["values"]
    assert [value["fill"] for value in values] == [heat(0), GREY, GREY]
    assert [value["size"] for value in values] == ["n=20", "20 truncated", "not evaluated"]
    assert values[1]["text"].endswith("20 truncated: prompt of 1,100 tokens over the limit of 1,024")


def test_squares_partly_scored_say_of_how_many() -> None:
    (value,) = heatmap.spec(grid(Proportion(n=15, hits=15, failed=5)))["data"]["values"]
    assert (value["fill"], value["size"]) == (heat(1), "n=15 of 20")


def test_lengths_are_labelled_with_the_tokens_prompts_really_had() -> None:
    squares = grid(
        Proportion(n=1, hits=1, shortest=1018, longest=1019),
        Proportion(n=1, hits=1, shortest=1019, longest=1020),
    )
    assert {value["tokens"] for value in heatmap.spec(squares)["data"]["values"]} == {"1,024|(1,018–1,020)"}


def test_depth_0_is_on_top() -> None:
    encoding = heatmap.spec(grid(Proportion(n=1, hits=1), Proportion(n=1, hits=1)))["encoding"]
    assert encoding["y"]["sort"] == [0.0, 25.0]


def test_files_are_well_formed_on_white_and_named(report: Report) -> None:
    charts = {name: text for name, text in report.texts.items() if name.endswith(".svg")}
    assert {
        "charts/effect_of_rank.svg",
        "charts/energy_by_rank.svg",
        "charts/heatmap_style_graft_r8.svg",
    } <= set(charts)
    for text in charts.values():
        root = ElementTree.fromstring(text)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert root[0].get("fill") == "#ffffff"


def test_parts_of_the_page_have_its_variables_and_one_scale(report: Report) -> None:
    part = inline(report.texts["charts/effect_of_rank.svg"], 5000)
    assert 'stroke="var(--needle)"' in part
    assert not [colour for colour in PALETTE.values() if f'"{colour}"' in part]
    assert 'viewBox="0 0 5000 ' in part


def test_every_colour_is_one_variable_of_the_page(report: Report) -> None:
    page = report.texts["index.html"]
    assert len(set(PALETTE.values())) == len(PALETTE)
    for name, colour in PALETTE.items():
        assert f"--{name}: {colour};" in page
        assert page.count(f"--{name}: ") == 2, "light and dark"
