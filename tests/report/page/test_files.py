"""Files next to the page: pictures, tables for DVC's plots, model cards as the hub reads them."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from dvc_render import VegaRenderer  # type: ignore[import-untyped] # it ships no types
from huggingface_hub import ModelCard, ModelCardData

from contextgraft.formats.model_card.markdown import escape
from contextgraft.report.build import Report
from contextgraft.report.charts.svg import VEGA_LITE

PLOTS = {
    "rank": ("rank", "needles"),
    "heatmap": ("length", "needles"),
    "perplexity": ("position", "perplexity"),
}


def test_every_chart_is_a_picture_too(report: Report) -> None:
    charts = {name.removesuffix(".svg") for name in report.texts if name.startswith("charts/")}
    assert {name.removesuffix(".png") for name in report.pictures} == charts
    assert all(picture.startswith(b"\x89PNG\r\n") for picture in report.pictures.values())
    assert {"charts/matrix", "charts/energy_by_layer", "charts/perplexity_style_moby"} <= charts


def test_files_lead_nowhere(report: Report) -> None:
    for name, text in report.texts.items():
        if name.endswith(".svg"):
            assert "<a " not in text
            assert "href" not in text


def rows(report: Report, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(report.texts[f"plots/{name}.csv"])))


def test_tables_hold_the_figures(report: Report) -> None:
    (row,) = (row for row in rows(report, "rank") if (row["fine_tune"], row["rank"]) == ("style", "8"))
    assert (row["needles"], row["n"], row["skill"]) == ("0.965", "200", "0.99")
    (square,) = (
        row
        for row in rows(report, "heatmap")
        if (row["fine_tune"], row["model"], row["length"], row["depth"]) == ("style", "alone", "1024", "50.0")
    )
    assert (square["needles"], square["n"]) == ("0.0", "20")
    assert {row["position"] for row in rows(report, "perplexity")} == {"128", "256", "512", "1024"}


@pytest.mark.parametrize("name", sorted(PLOTS))
def test_dvc_fills_the_template_and_vega_draws_it(report: Report, tmp_path: Path, name: str) -> None:
    template = tmp_path / f"{name}.json"
    template.write_text(report.texts[f"plots/{name}.json"])
    x, y = PLOTS[name]
    data = [{**row, "rev": "workspace"} for row in rows(report, name)]
    drawn = VegaRenderer(data, name, template=str(template), x=x, y=y, title=name).get_filled_template()
    assert "<DVC_" not in json.dumps(drawn)
    assert drawn["data"]["values"] == data
    svg = vl_convert.vegalite_to_svg(drawn, vl_version=VEGA_LITE)
    assert "NaN" not in svg
    assert svg.count("aria-roledescription") > 10


def card(report: Report, name: str) -> ModelCard:
    return ModelCard(report.texts[f"cards/{name}.md"])


def test_a_graft_has_a_card_that_the_hub_reads(report: Report) -> None:
    data = card(report, "style-r8-donor-s1").data
    assert isinstance(data, ModelCardData)
    assert data.tags is not None
    assert data.eval_results is not None
    assert (data.base_model, data.library_name) == ("people/style", "transformers")
    assert set(data.tags) == {"contextgraft", "long-context", "merge"}
    assert data.get("measured_context_length") == 1024
    needle, skill = data.eval_results
    assert needle.metric_args is not None
    assert skill.metric_args is not None
    assert (needle.metric_value, needle.metric_args["n"]) == (0.97, 100)
    assert needle.dataset_name == "style: needle_style, 3 distractors, 1024 tokens"
    assert (skill.metric_value, skill.metric_args["n"]) == (0.99, 200)
    assert skill.metric_args["low"] < 0.99 < skill.metric_args["high"]


def test_a_card_shows_controls_intervals_and_digests(report: Report) -> None:
    text = card(report, "style-r8-donor-s1").text
    assert "| alone | 0 % \\[0, 4\\], n=100 | 99 % \\[96, 100\\], n=200 |" in text
    assert "| theta only | 44 % \\[35, 54\\], n=100 |" in text
    assert "| graft | 97 % \\[92, 99\\], n=100 |" in text
    assert "93 % of the delta survived" in text
    assert "| after | 192,000 | 1,024 |" in text
    assert {"`digest-style`", "`digest-base`", "`digest-donor-s1`", "`digest-adapter`"} <= set(text.split())


def test_an_adapter_has_a_card_with_all_its_grafts(report: Report) -> None:
    found = card(report, "adapter-r8-donor-s2")
    assert isinstance(found.data, ModelCardData)
    assert found.data.eval_results is not None
    assert (found.data.base_model, found.data.library_name) == (None, "peft")  # it is on no hub
    # three fine-tunes, each needles and skill
    assert len(found.data.eval_results) == 6
    assert "| graft | 96 % \\[90, 98\\], n=100 |" in found.text
    assert "It captures 57.1 % of the energy" in found.text


def test_cards_stand_one_a_graft_and_adapter(report: Report) -> None:
    names = [name for name in report.texts if name.startswith("cards/")]
    assert len(names) == 3 * 5 + 2 * 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", "a\\|b"),
        ("<script>", "\\<script\\>"),
        ("two\nlines", "two lines"),
        ("[x](y)", "\\[x\\]\\(y\\)"),
    ],
)
def test_names_are_no_markup(text: Any, expected: str) -> None:
    assert escape(text) == expected
