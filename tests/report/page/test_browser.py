"""The page in a real browser: it renders, loads nothing, fits a phone, is dark where that is wanted."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request

from contextgraft.report.build import build
from contextgraft.report.folder import write_report

from .conftest import TIMEOUT


class Visit:
    """One visit to the page, with all errors and requests of the browser."""

    def __init__(self, browser: Browser, page: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(TIMEOUT)
        self.page: Page = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._note)
        self.page.goto(page.as_uri())

    def _note(self, request: Request) -> None:
        self.requests.append(request.url)

    def count(self, selector: str) -> int:
        found: int = self.page.locator(selector).count()
        return found


@pytest.fixture(scope="module")
def visit(browser: Browser, folder: Path) -> Iterator[Visit]:
    opened = Visit(
        browser, folder / "index.html", viewport={"width": 1200, "height": 900}, color_scheme="light"
    )
    yield opened
    opened.context.close()


@pytest.fixture
def opened(browser: Browser, folder: Path) -> Iterator[Visit]:
    """A visit of one test's own; it ends without an error."""
    visit = Visit(browser, folder / "index.html", viewport={"width": 1200, "height": 900})
    yield visit
    assert visit.errors == []
    visit.context.close()


@pytest.fixture
def phone(browser: Browser, folder: Path) -> Iterator[Visit]:
    opened = Visit(browser, folder / "index.html", viewport={"width": 360, "height": 740}, has_touch=True)
    yield opened
    opened.context.close()


@pytest.fixture
def dark(browser: Browser, folder: Path) -> Iterator[Visit]:
    opened = Visit(
        browser, folder / "index.html", viewport={"width": 1200, "height": 900}, color_scheme="dark"
    )
    yield opened
    opened.context.close()


def test_it_asks_for_itself_and_nothing_else(visit: Visit, folder: Path) -> None:
    assert visit.requests in (
        [(folder / "index.html").as_uri()],
        [(folder / "index.html").as_uri(), "data:,"],
    )
    assert visit.errors == []


def test_the_overview_comes_first_and_says_which_rank_to_use(visit: Visit) -> None:
    assert visit.page.locator("main section").first.get_attribute("id") == "overview"
    rows = visit.page.locator(".overview tbody tr")
    texts = [row.split("\t")[:3] for row in rows.all_inner_texts()]
    assert [[text.strip() for text in row] for row in texts] == [
        ["facts", "not shown", "nearest: 4"],
        ["style", "likely", "use rank 8"],
        ["sure", "not shown", "nearest: 16"],
    ]
    command = visit.page.locator(".overview code").inner_text()
    assert command == "contextgraft merge --adapter r8 --target hf:people/style --out style-r8"


def test_the_overview_is_sorted_and_filtered(opened: Visit) -> None:
    names = ".overview tbody tr:not([hidden]) th"
    opened.page.locator(".overview thead button", has_text="verdict").press("Enter")
    opened.page.wait_for_function("document.querySelector('.overview tbody th').textContent === 'style'")
    opened.page.locator("#filter").fill("SUR")
    assert opened.page.locator(names).all_inner_texts() == ["sure"]
    assert opened.page.locator("#filtered").inner_text() == "1 shown"
    opened.page.locator("#filter").fill("")
    assert opened.count(names) == 3
    opened.page.locator(".overview .copy").click()
    selected = "getSelection().toString() + document.querySelector('.copy').textContent"
    assert opened.page.evaluate(selected).removeprefix("contextgraft merge")


def test_the_verdicts_have_their_badges(visit: Visit) -> None:
    counted = "likely for 1 of 3 fine-tunes, not shown for 2."
    text = visit.page.locator(".headline").inner_text()
    assert text.startswith(
        f"Long context with the skill kept at 1,024 tokens (8× the base's context): {counted}"
    )
    badges = visit.page.locator(".card").nth(1).locator(".badge").all_inner_texts()
    assert badges == ["✓ long context works", "✓ skill kept"]


def test_the_table_has_its_rows_and_headers(visit: Visit) -> None:
    # base, donors, and for each of three fine-tunes alone, theta only and five ranks
    assert visit.count(".matrix tbody th[scope=row]") == 2 + 3 * 7
    assert visit.count(".matrix thead th[scope=col]") == 5
    assert visit.count(".matrix .best") == 3
    row = visit.page.get_by_role("row", name="graft r8 ◆")
    assert row.get_by_role("cell").nth(1).inner_text().split("\n")[0] == "96.5 % [91, 99] n=200"


def test_the_charts_are_drawn_and_have_names(visit: Visit) -> None:
    # three each of rank, depth, perplexity, alignment; two of energy; eleven heatmaps whose squares are links
    assert visit.count("figure svg[role=img][aria-label]") == 4 * 3 + 2
    assert visit.count("#heatmaps figure svg[role=group][aria-label]") == 2 + 9
    assert visit.count("#ranks .mark-line path") > 0
    box = visit.page.locator("#heatmaps figure svg").first.bounding_box()
    assert box is not None
    assert min(box["width"], box["height"]) > 150


def test_a_mark_shows_its_numbers(visit: Visit) -> None:
    visit.page.locator("#heatmaps figure").first.locator(".mark-rect path").first.hover()
    assert visit.page.locator("#tip").inner_text() == "128 tokens, depth 0 %: 100 % [84, 100], n=20"


def test_the_matrix_shows_its_numbers_to_pointer_and_screen_reader(visit: Visit) -> None:
    spot = visit.page.locator(".spot a").nth(10)
    spot.hover()
    text = visit.page.locator("#tip").inner_text()
    assert text.startswith("style, r8: context +96.5 points [+89.7, +98.7], 96.5 % [91, 99], n=200")
    # no label of its own: the name that is read is the square's text, then these numbers
    assert spot.get_attribute("aria-label") is None
    assert spot.locator(".unseen").text_content() == text
    assert visit.count(".spots td") == 3 * 6


def found(visit: Visit) -> str:
    return str(visit.page.locator("#found").inner_text())


def test_a_square_of_the_matrix_links_to_its_samples(opened: Visit) -> None:
    opened.page.locator(".spot a").nth(10).click()
    opened.page.wait_for_function("document.querySelector('select[name=row]').value === 'graft r8'")
    # of two donors each: 200 needles, 4 and 20 of other kinds, 200 skills, 40 of RULER, 16 and 10 measured
    assert found(opened) == "980 samples, 901 of 928 right."
    assert opened.page.evaluate("document.activeElement.id") == "h-samples"


def test_a_square_of_a_heatmap_links_to_its_samples_by_keyboard(opened: Visit) -> None:
    opened.page.locator("#heatmaps svg[aria-label^='style, graft r8'] a").nth(5).focus()
    opened.page.keyboard.press("Enter")
    opened.page.wait_for_function("document.querySelector('select[name=depth]').value !== ''")
    chosen = {name: opened.page.locator(f"select[name={name}]").input_value() for name in ("length", "depth")}
    assert chosen == {"length": "1024", "depth": "0"}
    assert found(opened) == "40 samples, 40 of 40 right."


def test_filters_narrow_and_open_single_samples(opened: Visit) -> None:
    for name, text in {"tune": "style", "row": "alone", "suite": "skill", "result": "wrong"}.items():
        opened.page.locator(f"select[name={name}]").select_option(text)
    assert found(opened) == "2 samples, 0 of 2 right."
    first = opened.page.locator("#list details").first
    first.locator("summary").click()
    texts = first.locator("dd").all_inner_texts()
    assert texts[:2] == ["17 42 thank you", "05 <b>63</b> thank you"]
    assert first.locator("b").count() == 0
    prompt = first.locator("dd code").last.inner_text()
    assert re.fullmatch(r"contextgraft replay style\.parquet \d+ MODEL --config STUDY --prompt-only", prompt)
    first.get_by_role("link", name="What other models answered here").click()
    opened.page.wait_for_function("document.querySelector('select[name=row]').value === ''")
    # alone, theta only, and five ranks of two donors
    assert found(opened).startswith("12 samples, ")
    opened.page.locator("#clear").click()
    assert found(opened).startswith("18,")


def test_the_list_grows(opened: Visit) -> None:
    before = opened.count("#list details")
    opened.page.locator("#more").click()
    assert opened.count("#list details") == 2 * before


def test_a_phone_has_all_links_in_one_line_and_sorts_the_overview(phone: Visit) -> None:
    masked = phone.page.evaluate("getComputedStyle(document.querySelector('nav .wrap')).maskImage")
    assert "linear-gradient" in masked  # the line fades out where it goes on
    ends = "(nav => { nav.scrollLeft = 9999; return nav.lastElementChild.getBoundingClientRect().right; })"
    assert phone.page.evaluate(f"{ends}(document.querySelector('nav .wrap'))") <= 360 - 47
    phone.page.locator(".overview thead button", has_text="verdict").tap()
    phone.page.wait_for_function("document.querySelector('.overview tbody th').textContent === 'style'")


def test_no_tick_of_a_chart_says_plus_or_minus_zero(opened: Visit) -> None:
    ticks = opened.page.locator("figure svg text").all_text_contents()
    assert "0" in ticks
    assert "±0" not in ticks


def test_a_phone_scrolls_down_and_not_sideways(phone: Visit) -> None:
    widths = phone.page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert widths == [360, 360]
    fourth = phone.page.locator(".spots tbody tr").first.locator("td").nth(3).bounding_box()
    assert fourth is not None
    assert fourth["x"] + fourth["width"] < 360  # the control and three ranks are in view
    phone.page.evaluate(OPEN)
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 360
    phone.page.goto(f"{phone.page.url.split('#')[0]}#samples?tune=style&suite=skill&index=3")
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_dark_page_is_dark_with_its_charts(dark: Visit) -> None:
    def colour(selector: str, name: str) -> str:
        found = dark.page.locator(selector).first.evaluate(f"node => getComputedStyle(node).{name}")
        return str(found)

    assert luminance(colour("body", "backgroundColor")) < 0.02
    assert luminance(colour(".headline", "color")) > 0.7
    assert luminance(colour("#ranks .role-axis-label text", "fill")) > 0.35


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_enough_contrast_with_their_background(
    browser: Browser, folder: Path, scheme: str
) -> None:
    opened = Visit(browser, folder / "index.html", color_scheme=scheme)
    opened.page.evaluate(OPEN)
    pairs = opened.page.evaluate(GROUNDS)
    opened.context.close()
    assert len(pairs) > 100
    poor = {(text, front, ground) for text, front, ground in pairs if contrast(front, ground) < 4.5}
    assert not poor


def test_what_is_folded_opens_for_a_link_into_it(
    browser: Browser, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contextgraft.report.page.is_charted", lambda _: False)
    write_report(build([results], [], "A study of many", None), tmp_path / "report")
    opened = Visit(browser, tmp_path / "report" / "index.html")
    assert [opened.page.locator(f"#{name} .fold").count() for name in ("verdicts", "table")] == [1, 1]
    assert not opened.page.locator("#verdict-2").is_visible()
    opened.page.locator(".overview tbody th a").nth(1).click()
    opened.page.locator("#verdict-2").wait_for(state="visible")
    assert not opened.page.locator("#table .fold table").is_visible()
    assert opened.errors == []
    opened.context.close()


OPEN = "() => document.querySelectorAll('details').forEach((each) => { each.open = true; })"

# Every visible text of the page with its colour and the first opaque ground behind it.
GROUNDS = """() => {
  const HEATED = "#heatmaps .mark-text:not(.role-axis-label):not(.role-axis-title)";
  const written = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  const paint = (node) => getComputedStyle(node).backgroundColor;
  const ground = (node) => {
    if (node.closest(HEATED)) return "rgb(240, 73, 110)";
    while (node && /, 0\\)$/.test(paint(node))) node = node.parentElement;
    return paint(node ?? document.body);
  };
  return [...document.querySelectorAll("body *:not(script):not(#tip)")]
    .filter((node) => written(node) && node.checkVisibility())
    .map((node) => {
      const style = getComputedStyle(node);
      const colour = node instanceof SVGElement ? style.fill : style.color;
      return [node.textContent.trim().slice(0, 30), colour, ground(node)];
    });
}"""


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2 of `rgb(r, g, b)`."""
    channels = [float(part) / 255 for part in colour.split("(")[1].rstrip(")").split(",")[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(front: str, ground: str) -> float:
    """Contrast ratio by WCAG 2."""
    high, low = sorted((luminance(front), luminance(ground)), reverse=True)
    return (high + 0.05) / (low + 0.05)
