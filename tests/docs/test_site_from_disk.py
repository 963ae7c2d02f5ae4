"""The documentation's site, built by `make docs`, in a browser and from the disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site; a link that leads nowhere, to a page or within one, ends the build."""
    pytest.importorskip("mkdocs", reason="`make docs` and `make test-all` install it")
    pytest.importorskip("material", reason="`make docs` and `make test-all` install it")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_search_works_from_the_disk_and_nothing_is_asked_of_the_network(site: Path, browser: Browser) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto((site / "index.html").as_uri())
    tab.click(".md-search__input")
    tab.keyboard.type("mergekit")
    found = tab.wait_for_selector(".md-search-result__item a[href*='mergekit.html']")
    assert found is not None
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}
    tab.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_screen(site: Path, browser: Browser, width: int) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 900})
    wide = {}
    for page in sorted(site.glob("*.html")):
        tab.goto(page.as_uri())
        wide[page.name] = tab.evaluate("document.documentElement.scrollWidth")
    tab.close()
    assert {name: found for name, found in wide.items() if found > width} == {}
