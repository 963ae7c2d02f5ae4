"""The report's page for a made-up study of many fine-tunes: its size, and how long a browser loads it.

`python bench/page.py 200 FOLDER` writes FOLDER/samples (base, one donor, and for each fine-tune the rows
alone, theta only and four ranks, with needles at two lengths and five depths, and a skill), makes
FOLDER/report of them, and prints size, load time and main thread of the page in Chromium; --shots writes
pictures of it.
No model answered the samples: scores are drawn from a fixed seed.
"""

import os
import random
import shutil
import subprocess
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contextgraft.formats.samples import SCHEMA

RANKS = (4, 8, 16, 32)
DEPTHS = (0.0, 25.0, 50.0, 75.0, 100.0)
NEEDLES, SKILLS = 20, 200  # prompts for each depth, of a skill
VERSIONS = {"contextgraft": "0.1.0", "transformers": "5.23.0", "torch": "2.13.0", "lm_eval": "0.4.13"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FACTS = "({width: document.documentElement.scrollWidth, height: document.documentElement.scrollHeight})"
NOTHING = dict.fromkeys(SCHEMA.names)
Row = dict[str, Any]


def rows_of(name: str, shares: Mapping[str, float], draw: random.Random, graft: Row) -> Iterator[Row]:
    """The samples of one model; `shares` are the probabilities of a right answer."""
    common = {
        **NOTHING,
        "model": name,
        "model_digest": f"digest-{name}",
        "seed": 7,
        "status": "ok",
        **VERSIONS,
        **graft,
    }
    for suite, length, share in (
        ("needle", 128, 0.99),
        ("needle", 1024, shares["needle"]),
        ("skill", None, shares["skill"]),
    ):
        for index in range(NEEDLES if suite == "needle" else SKILLS):
            for depth in DEPTHS if suite == "needle" else (None,):
                right = draw.random() < share
                yield common | {
                    "suite": suite,
                    "task": "needle" if suite == "needle" else "own",
                    "kind": "single" if suite == "needle" else None,
                    "length": length,
                    "depth": depth,
                    "distractors": 3 if suite == "needle" else None,
                    "prompt_tokens": (length or 44) - 4,
                    "sample_index": index,
                    "scoring": "exact",
                    "recipe": f'{{"index": {index}}}',
                    "answer": "17 42 thank you",
                    "output": "17 42 thank you" if right else "05 63 thank you",
                    "score": float(right),
                }  # fmt: skip


def graft_columns(target: str, rank: int, scale: float) -> Row:
    """The columns that say what a graft was made of."""
    return {
        "target_name": target, "target_digest": f"digest-{target}", "base_digest": "digest-base",
        "donor_digest": "digest-donor", "donor_name": "donor", "adapter_digest": f"digest-adapter-r{rank}",
        "rank": rank, "scale": scale,
    }  # fmt: skip


def fine_tune(name: str, draw: random.Random) -> Iterator[Row]:
    """One fine-tune alone, with theta only, and with each rank; two of three become good with the rank."""
    best = draw.choice((0.6, 0.99, 1.0))
    yield from rows_of(name, {"needle": 0.02, "skill": 0.98}, draw, {})
    yield from rows_of(
        f"{name}-theta", {"needle": 0.3, "skill": 0.97}, draw, graft_columns(name, RANKS[0], 0.0)
    )
    for step, rank in enumerate(RANKS):
        share = best * (1 - 0.5 ** (2 + step))
        shares = {"needle": min(share * 1.15, best), "skill": 0.98 - 0.004 * step}
        yield from rows_of(f"{name}-r{rank}", shares, draw, graft_columns(name, rank, 1.0))


def write_study(folder: Path, count: int) -> None:
    """Write the table of the base and donor, and one of each fine-tune."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(1)
    first = [
        row
        for name, share in (("base", 0.01), ("donor", 0.99))
        for row in rows_of(name, {"needle": share, "skill": 0.1}, draw, {})
        if row["suite"] == "needle"
    ]
    pq.write_table(pa.Table.from_pylist(first, schema=SCHEMA), folder / "base.parquet")
    for number in range(count):
        name = f"tune-{number:03d}"
        table = pa.Table.from_pylist(list(fine_tune(name, draw)), schema=SCHEMA)
        pq.write_table(table, folder / f"{name}.parquet")


def load(page: Path, width: int, scheme: str, shot: Path | None) -> dict[str, Any]:
    """Milliseconds until the page was loaded and drawn in a new browser context, and its height."""
    from playwright.sync_api import sync_playwright

    found = next(path for name in BROWSERS if (path := shutil.which(name)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.set_default_timeout(120_000)
        session = tab.context.new_cdp_session(tab)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        start = time.perf_counter()
        tab.goto(page.as_uri())
        tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        seconds = time.perf_counter() - start
        metrics = session.send("Performance.getMetrics")["metrics"]
        busy = next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")
        facts: dict[str, Any] = tab.evaluate(FACTS)
        if shot is not None:
            tab.screenshot(path=shot)
        browser.close()
    return {**facts, "seconds": seconds, "main_thread": busy}


def main() -> None:
    """Make the study and its report, and print what was measured."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--shots", action="store_true")
    options = parser.parse_args()
    samples, report = options.folder / "samples", options.folder.absolute() / "report"
    write_study(samples, options.count)
    start = time.perf_counter()
    subprocess.run(
        ["contextgraft", "report", "-q", str(samples), "--out", str(report)], check=True, stdout=-3
    )
    print(f"{options.count} fine-tunes; report made in {time.perf_counter() - start:.1f} s")
    page = report / "index.html"
    print(f"page {page.stat().st_size / 1e6:.1f} MB; load of the machine {os.getloadavg()[0]:.1f}")
    loads = [load(page, 1200, "light", None) for _ in range(options.runs)]
    runs = sorted(facts["seconds"] for facts in loads)
    print(f"loaded in {runs[len(runs) // 2]:.2f} s (median of {len(runs)}; {runs[0]:.2f} to {runs[-1]:.2f})")
    print(f"main thread {median(facts['main_thread'] for facts in loads):.2f} s (median of processor time)")
    for width in (1200, 820, 390) if options.shots else ():
        for scheme in ("light", "dark"):
            shot = options.folder / f"{width}-{scheme}.png"
            print(width, scheme, load(page, width, scheme, shot))


if __name__ == "__main__":
    main()
