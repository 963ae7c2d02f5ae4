"""The whole report: same bytes, nothing private, published whole or not at all."""

import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contextgraft.errors import InputError, OutputError
from contextgraft.formats.find_samples import PAGE
from contextgraft.report import build as build_module
from contextgraft.report import folder as folder_module
from contextgraft.report.build import Report, build
from contextgraft.report.data.sample_browser import select_samples
from contextgraft.report.folder import write_report


def test_two_runs_give_the_same_bytes(report: Report, inputs: dict[str, Any]) -> None:
    assert build(**inputs) == report


def test_the_page_has_no_date_and_no_path(report: Report, results: Path) -> None:
    page = report.texts[PAGE]
    assert str(results.parent) not in page
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b|\b\d\d:\d\d:\d\d\b", page)


def test_the_page_loads_nothing(report: Report) -> None:
    page = report.texts[PAGE]
    files = "|".join(
        map(re.escape, ["summary.json", *report.texts, *(copy.address for copy in report.copies)])
    )
    page = re.sub(rf'<a href="(?:{files})">', "", page)  # loaded when a reader follows them
    assert not re.search(r"""(?:src|href)=["'](?!#|data:,)|url\(|@import|https?://""", page)


def test_the_page_is_of_moderate_size(report: Report) -> None:
    assert len(report.texts[PAGE].encode()) < 3_000_000


def test_texts_from_samples_are_escaped(report: Report) -> None:
    assert "05 <b>63</b>" not in report.texts[PAGE]
    assert "05 \\u003cb>63" in report.texts[PAGE]


def test_title_and_note_are_shown_and_escaped(results: Path) -> None:
    page = build([results / "style.parquet"], [], "A <title>", "tiny & honest").texts[PAGE]
    assert "<h1>A &lt;title&gt;</h1>" in page
    assert "tiny &amp; honest" in page


def test_the_summary_has_every_row_with_its_numbers(report: Report) -> None:
    row = report.summary["fine_tunes"]["style"]["rows"]["graft r8"]
    assert row["needle_longest"]["score"] == pytest.approx(193 / 200)
    assert row["needle_longest"]["n"] == 200
    assert row["needle_longest"]["low"] < row["needle_longest"]["score"] < row["needle_longest"]["high"]
    assert row["needle_longest"]["by_donor"]["digest-donor-s2"]["score"] == pytest.approx(0.96)
    depths = row["needle_longest_by_depth"]
    # of 100 prompts, depth after depth, the last three are wrong with one donor, the last four with the other
    assert {depth: cell["score"] * 40 for depth, cell in depths.items()} == pytest.approx(
        {"0": 40, "25": 39, "50": 38, "75": 38, "100": 38}
    )
    assert depths["100"]["n"] == 40
    assert depths["100"]["low"] < depths["100"]["score"] < depths["100"]["high"]
    assert row["skill_points"]["difference"] == pytest.approx(0)
    assert report.summary["fine_tunes"]["style"]["verdict"] == {
        "outcome": "both",
        "strength": "likely",
        "rank": 8,
        "without_adapter": False,
        "front": [1, 2, 4, 8, 16],
    }
    assert row["skill_pairs"] == {"n": 200, "won": 0, "lost": 0, "equal": 400}
    theta = report.summary["fine_tunes"]["style"]["rows"]["theta only"]["skill_pairs"]
    assert theta == {"n": 200, "won": 0, "lost": 1, "equal": 199, "p": 1.0}
    assert report.summary["references"]["base"]["skill"] == {
        "n": 0,
        "truncated": 0,
        "skipped": 0,
        "failed": 0,
        "score": None,
        "reason": "not evaluated",
    }
    assert report.summary["energy"]["r4"] == pytest.approx(0.4)


def test_what_was_not_scored_is_grey_with_its_reason(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    model = synthetic.graft("style", 8)
    lost = synthetic.unscored(synthetic.needle(model, "n", 1024, 0), "truncated", "1,100 tokens over 1,024")
    synthetic.write(tmp_path / "a.parquet", [*lost, *synthetic.needle(model, "n", 128, 100)])
    page = build([tmp_path], [], "t", None).texts[PAGE]
    assert '<td class="gap">100 truncated: 1,100 tokens over 1,024</td>' in page
    assert "not measured: no graft has a scored needle" in page


def test_skills_alone_make_a_page(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = [
        *synthetic.skill(synthetic.Model("style"), "k", 9, 10),
        *synthetic.skill(synthetic.graft("style", 8), "k", 8, 10),
    ]
    synthetic.write(tmp_path / "a.parquet", rows)
    page = build([tmp_path], [], "t", None).texts[PAGE]
    assert "no needles evaluated" in page
    assert "not measured: no graft has a scored needle." in " ".join(page.split())


def test_a_page_that_holds_not_all_samples_says_so(
    tmp_path: Path, synthetic: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "select_samples", partial(select_samples, most=50))
    synthetic.write(tmp_path / "a.parquet", list(synthetic.needle(synthetic.Model("style"), "n", 128, 90)))
    page = " ".join(build([tmp_path], [], "t", None).texts[PAGE].split())
    assert "Of 100 samples the page holds the first 10 of every cell" in page
    assert "wrong ones first: 50." in page


@pytest.mark.parametrize("status", ["failed", "skipped", "truncated"])
def test_measures_that_failed_are_grey_with_their_reason(
    tmp_path: Path, synthetic: SimpleNamespace, status: str
) -> None:
    model = synthetic.graft("style", 8)
    rows = [
        *synthetic.windows(synthetic.Model("style"), 2.0),
        *synthetic.compared(synthetic.Model("style"), 0.0),
    ]
    rows += synthetic.unscored(synthetic.windows(model, 1.0), status, "no room")
    rows += synthetic.unscored(synthetic.compared(model, 1.0), status, "another vocabulary")
    synthetic.write(tmp_path / "a.parquet", [*rows, *synthetic.needle(model, "n", 128, 90)])
    page = build([tmp_path], [], "t", None).texts[PAGE]
    assert f'<td class="gap">16 {status}: no room</td>' in page
    assert page.count(f'<td class="gap">10 {status}: another vocabulary</td>') == 2


def test_skills_alone_make_a_page_without_charts(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    synthetic.write(
        tmp_path / "a.parquet", list(synthetic.skill(synthetic.Model("lonely"), "chess", 7, n=10))
    )
    made = build([tmp_path], [], "t", None)
    assert list(made.texts) == [PAGE]
    assert "70 %" in made.texts[PAGE]
    assert made.lines == ("No needle is among these samples: scores are shown, nothing is judged.",)


def test_an_older_report_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "report"
    write_report(Report({PAGE: "old", "charts/old.svg": "<svg/>"}, {}, ()), out)
    write_report(Report({PAGE: "new"}, {"a": 1}, ()), out)
    assert {path.name for path in out.iterdir()} == {PAGE, "summary.json", "copies.json"}
    assert json.loads((out / "summary.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_the_ignore_file_of_dvc_stays(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / ".gitignore").write_text("/index.html\n")
    write_report(Report({PAGE: "new"}, {}, ()), tmp_path / "report")
    assert (tmp_path / "report" / ".gitignore").read_text() == "/index.html\n"
    assert (tmp_path / "report" / PAGE).read_text() == "new"


@pytest.mark.parametrize("name", ["thesis.txt", "charts/photo.jpg", "plots/a/b.csv", "index.html/x"])
def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match="contains other files"):
        write_report(Report({PAGE: "new"}, {}, ()), tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "write_json", full)
    with pytest.raises(OutputError, match="No space left"):
        write_report(Report({PAGE: "new"}, {}, ()), tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


def test_no_samples_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        build([tmp_path], [], "t", None)
    assert list(tmp_path.iterdir()) == []


def test_the_page_says_which_alignment_is_with_an_adapter(report: Report) -> None:
    page = report.texts[PAGE]
    captions = re.findall(r"<figcaption>([^<]* and donor-s1[^<]*)</figcaption>", page)
    assert [caption for caption in captions if "adapter" in caption] == [
        "style and donor-s1, with the delta of the adapter of rank 8"
    ]
    assert len(captions) == 3
    assert "what a graft adds" in page


def test_the_page_links_to_tables_and_cards(report: Report) -> None:
    page = report.texts[PAGE]
    cards = [name for name in report.texts if name.startswith("cards/")]
    assert cards
    for name in ("summary.json", "plots/rank.csv", cards[0]):
        assert f'<a href="{name}">' in page


def test_a_study_without_commands_has_no_column_for_them(report: Report, results: Path) -> None:
    column = '<th scope="col" class="no-sort">command</th>'
    assert report.texts[PAGE].count(column) == 1
    assert column not in build([results / "style.parquet"], [], "A title", None).texts[PAGE]


def test_the_scale_of_the_heatmaps_has_the_unit_of_their_squares(report: Report) -> None:
    section = report.texts[PAGE].split('<section id="heatmaps"')[1].split("</section>")[0]
    (legend,) = re.findall(r'<p class="legend">(.*?)</p>', section, re.DOTALL)
    assert re.findall(r"<span>(.*?)</span>", legend) == ["0 %", "100 %"]
    assert '<span class="item"><i class="grey"' in legend  # colour and text on one line
