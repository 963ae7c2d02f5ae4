"""Pictures for the documentation: the demo's page in a browser, and a terminal session.

`make demo && python scripts/pictures.py` writes docs/images/page.png from results/demo/report and
docs/images/terminal.svg from what the commands print. Another report is named on the command line.
"""

import shlex
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MOST_BYTES = 200_000
COMMANDS = (
    "contextgraft inspect-sheet config/fine_tunes.tsv --base demo:base",
    "contextgraft plan study config/config.yaml",
)


def terminal(path: Path, columns: int = 112) -> None:
    """The commands and what they print, drawn as a terminal."""
    console = Console(record=True, width=columns, file=StringIO())
    for command in COMMANDS:
        words = [sys.executable, "-m", "contextgraft.cli", *shlex.split(command)[1:]]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        console.print(Text(f"$ {command}", style="bold"))
        console.print(Text(done.stdout.rstrip() + "\n"))
    path.write_text(console.export_svg(title="contextgraft"))


def page(report: Path, path: Path) -> None:
    """The first screen of a report, by the browser that tests use."""
    found = next(name for name in map(shutil.which, BROWSERS) if name)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="light")
        tab.goto((report / "index.html").absolute().as_uri())
        tab.screenshot(path=path)
        browser.close()


def main() -> None:
    """Write both, and check that a page of documentation can carry them."""
    report = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "results/demo/report"
    terminal(IMAGES / "terminal.svg")
    page(report, IMAGES / "page.png")
    for name in ("terminal.svg", "page.png"):
        size = (IMAGES / name).stat().st_size
        print(f"docs/images/{name}: {size:,} bytes")
        assert size <= MOST_BYTES, name


if __name__ == "__main__":
    main()
