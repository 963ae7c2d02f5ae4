"""The page of many fine-tunes in a browser: sections keep their height, tables scroll below their head."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from playwright.sync_api import Browser, Page

from contextgraft.report.build import build
from contextgraft.report.charts.figures import MOST_CHARTED
from contextgraft.report.folder import write_report

from .conftest import TIMEOUT

HEIGHTS = """() => Object.fromEntries([...document.querySelectorAll('section')].map(
  (section) => [section.id, section.getBoundingClientRect().height]))"""
LONG = ("overview", "matrix", "verdicts", "table", "perplexity", "divergence", "weights")


@pytest.fixture(scope="module")
def many(
    synthetic: SimpleNamespace, written: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The page of some more fine-tunes than have charts: long names, a recommended graft each."""
    folder = tmp_path_factory.mktemp("many")
    make = synthetic
    base, donor = make.Model("base"), make.Model("donor-s1")
    make.write(folder / "samples/base.parquet", [*make.needle(base, "n", 1024, 1, each=1)])
    make.write(folder / "samples/donor.parquet", [*make.needle(donor, "n", 1024, 5, each=1)])
    make.write_sidecar(folder / "adapters/r4", 4)
    for number in range(MOST_CHARTED + 6):
        name = f"fine-tune-with-a-name-of-many-parts-{number:03}"
        rows = []
        for model, hits in (
            (make.Model(name), 0),
            (make.graft(name, 4, scale=0.0), 1),
            (make.graft(name, 4), 5),
        ):
            rows += [*make.needle(model, "n", 128, 5, each=1), *make.needle(model, "n", 1024, hits, each=1)]
            rows += [*make.skill(model, "s", 4, n=4), *make.windows(model, 2.0, documents=2)]
            rows += make.compared(model, 0.1, n=2)
        make.write(folder / f"samples/{name}.parquet", rows)
        written.graft(folder / f"grafts/{name}", name, 4)
    report = build([folder / "samples"], [folder / "adapters"], "Many", None, grafts=[folder / "grafts"])
    write_report(report, folder / "report")
    return folder / "report/index.html"


@pytest.fixture
def page(browser: Browser, many: Path) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(TIMEOUT)
    opened = context.new_page()
    opened.goto(many.as_uri())
    yield opened
    context.close()


@pytest.mark.parametrize("width", [390, 800, 1200])
def test_no_section_grows_with_the_number_of_fine_tunes(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    rows = page.locator(".overview tbody tr")
    assert rows.count() == MOST_CHARTED + 6
    closed = page.evaluate(HEIGHTS)
    page.evaluate("document.querySelectorAll('main details').forEach((each) => { each.open = true; })")
    opened = page.evaluate(HEIGHTS)
    assert {name: opened[name] for name in LONG if opened[name] > 2200} == {}
    assert {name: closed[name] for name in LONG if closed[name] > 1300} == {}
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("width", [390, 800, 1200])
def test_the_overview_shows_all_its_columns_and_its_head(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    box = page.locator("#overview .scroll")
    assert box.evaluate("(box) => box.scrollWidth - box.clientWidth") == 0
    assert page.locator(".overview td.command code").count() == MOST_CHARTED + 6
    box.evaluate("(box) => { box.scrollTop = 900; }")
    assert box.evaluate("(box) => box.scrollTop") == 900
    head, frame = page.locator(".overview thead").bounding_box(), box.bounding_box()
    assert head is not None
    assert frame is not None
    assert abs(head["y"] - frame["y"]) <= 1.5


def test_the_matrix_is_folded_and_a_link_opens_a_verdict_inside_its_frame(page: Page) -> None:
    assert not page.locator(".spots").is_visible()
    page.locator("#matrix summary").click()
    assert page.locator(".spots").is_visible()
    page.locator(".overview tbody th a").nth(20).click()
    card = page.locator("#verdict-21")
    card.wait_for(state="visible")
    # the browser scrolls after the click has returned
    page.wait_for_function(
        """() => {
            const frame = document.querySelector("#verdicts .bounded").getBoundingClientRect()
            const card = document.querySelector("#verdict-21").getBoundingClientRect()
            return frame.top - 70 <= card.top && card.top <= frame.bottom
        }"""
    )


def test_a_printed_page_has_every_row(page: Page) -> None:
    page.emulate_media(media="print")
    box = page.locator("#overview .scroll")
    assert box.evaluate("(box) => box.scrollHeight - box.clientHeight") == 0
