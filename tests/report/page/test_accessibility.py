"""The page has no serious violation of axe-core's rules (WCAG 2.1 A and AA), in both themes."""

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from .conftest import TIMEOUT

ROOT = Path(__file__).resolve().parents[3]
SERIOUS = {"serious", "critical"}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
RUN = f"axe.run(document, {{runOnly: {RULES}, resultTypes: ['violations']}})"
OPEN = "document.querySelectorAll('details').forEach((item) => { item.open = true; })"


@pytest.fixture(scope="module")
def axe() -> str:
    """The script, which scripts/axe.sh fetched."""
    found = re.search(r"^version=(\S+)", (ROOT / "scripts/axe.sh").read_text(), re.MULTILINE)
    assert found is not None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    script = cache / "contextgraft" / f"axe-core-{found[1]}" / "axe.min.js"
    if not script.exists():
        pytest.skip(f"axe-core {found[1]} is not there: run scripts/axe.sh")
    return script.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("light", 390)])
def test_no_serious_violations(browser: Browser, folder: Path, axe: str, scheme: str, width: int) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    page.goto((folder / "index.html").as_uri())
    page.evaluate(OPEN)
    page.evaluate(axe)
    result = page.evaluate(RUN)
    context.close()
    assert result["testEngine"]["name"] == "axe-core"
    serious = {
        violation["id"]: [node["html"][:200] for node in violation["nodes"][:3]]
        for violation in result["violations"]
        if violation["impact"] in SERIOUS
    }
    assert not serious
