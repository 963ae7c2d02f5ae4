"""The numbers of docs/demo.md are those of the rows in docs/data/demo.parquet, with Wilson's intervals."""

import re
from typing import Any

import pyarrow.parquet as pq
import pytest

from .tables import ROOT, page, table, wilson

PAGE = page("demo")
ROWS: list[dict[str, Any]] = pq.read_table(ROOT / "docs/data/demo.parquet").to_pylist()
COLUMNS = (("needle", 128), ("needle", 1024), ("skill", None))
TUNES = ("facts", "lora", "style", "sure", "zh")
RANKS = (1, 4, 32)


def scores(model: str, suite: str, length: int | None, split: str | None = None) -> list[bool]:
    found = [
        row["score"] == 1
        for row in ROWS
        if (row["model"], row["suite"]) == (model, suite)
        and length in (None, row["length"])
        and split in (None, row["split"])
    ]
    assert found
    return found


def cell(values: list[bool], *, interval: bool = True) -> str:
    share = f"{100 * sum(values) / len(values):.1f}".removesuffix(".0")
    low, high = wilson(sum(values), len(values))
    return f"{share} [{low:.0f}, {high:.0f}]" if interval else share


def labels(name: str) -> list[str]:
    """The models of a row of the table."""
    tune, _, what = name.replace("**", "").replace(" alone", "").partition(", ")
    if what.startswith("graft"):
        return [f"{tune}-s1-{rank}" for rank in re.findall(r"r\d+", what)]
    if what:
        return [f"{tune}-s1-{what.lower().replace(' ', '-')}"]  # theta only, YaRN
    return [{"donor": "donor-s1"}.get(tune, tune)]


TABLE = table(PAGE, "model")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
def test_a_row_of_the_table(row: list[str]) -> None:
    name, *shown = row
    for text, (suite, length) in zip(shown, COLUMNS, strict=True):
        if text:
            expected = " / ".join(
                cell(scores(model, suite, length), interval="[" in text) for model in labels(name)
            )
            assert text.replace("**", "") == expected


def test_every_model_has_its_row() -> None:
    assert sorted(model for row in TABLE for model in labels(row[0])) == sorted(
        {row["model"] for row in ROWS}
    )
    assert {row["status"] for row in ROWS} == {"ok"}


def test_what_the_page_judges() -> None:
    """On the prompts with which the rank was not chosen."""
    judged = re.findall(
        r"\| `(\w+)` \| (\d+) \| (\d+) of (\d+) \| ([\d.]+ \[\d+, \d+\]) \| (\S+ of \d+) \|", PAGE
    )
    assert [tune for tune, *_ in judged] == list(TUNES)
    for tune, rank, right, n, share, lost in judged:
        graft = f"{tune}-s1-r{rank}"
        chose = scores(graft, "needle", 1024, "choose")
        assert (int(right), int(n)) == (sum(chose), len(chose))
        assert cell(scores(graft, "needle", 1024, "report")) == share
        skill = scores(graft, "skill", None, "report")
        assert f"{sum(scores(tune, 'skill', None, 'report')) - sum(skill)} of {len(skill)}" == lost


def test_bold_is_the_smallest_rank_within_the_limits() -> None:
    for tune in TUNES:
        n = len(scores(tune, "skill", None))
        passed = [
            rank
            for rank in RANKS
            if 100 * sum(found := scores(f"{tune}-s1-r{rank}", "needle", 1024)) >= 95 * len(found)
            and 100 * (sum(scores(tune, "skill", None)) - sum(scores(f"{tune}-s1-r{rank}", "skill", None)))
            <= 2 * n
        ]
        (text,) = [row[2] for row in TABLE if row[0].startswith(f"{tune}, graft")]
        bold = [rank for rank, part in zip(RANKS, text.split(" / "), strict=True) if part.startswith("**")]
        assert bold == passed[:1]


def test_what_the_readme_says() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    tunes = ("facts", "lora", "style", "sure", "zh")

    def span(ending: str) -> str:
        shares = [scores(f"{tune}{ending}", "needle", 1024) for tune in tunes]
        percent = [100 * sum(share) / len(share) for share in shares]
        return f"{min(percent) + 1e-9:.0f} to {max(percent) + 1e-9:.0f} %"

    assert f"theta alone {span('-s1-theta-only')}, YaRN in the config alone {span('-s1-yarn')}" in text
    assert not any(any(scores(tune, "needle", 1024)) for tune in tunes)
    assert "the fine-tunes by themselves none" in text


FULL: list[dict[str, Any]] = pq.read_table(ROOT / "docs/data/demo-full.parquet").to_pylist()
FULL_TABLE = table(PAGE, "row")
ASKED = [("single", length) for length in (1024, 2048)]
ASKED += [(kind, length) for kind in ("multi_value", "multi_query", "chain") for length in (128, 1024, 2048)]
CONTROL_LABELS = {name: name.lower().replace(" ", "-") for name in ("theta only", "YaRN", "dynamic NTK")}
CONTROL_LABELS |= {name: name.replace(" ", "-") for name in ("short donor", "whole delta")}


@pytest.mark.parametrize("row", FULL_TABLE, ids=lambda row: row[0])
def test_a_row_of_the_table_of_more_questions(row: list[str]) -> None:
    tune, _, what = row[0].replace("**", "").replace(" alone", "").partition(", ")
    label = f"{tune}-s1-{CONTROL_LABELS.get(what, what.removeprefix('graft '))}" if what else tune
    label = {"donor": "donor-s1"}.get(label, label)
    for text, (kind, length) in zip(row[1:], ASKED, strict=True):
        found = [
            item["score"]
            for item in FULL
            if (item["model"], item["suite"], item["kind"], item["length"]) == (label, "needle", kind, length)
        ]
        assert len(found) == (100 if kind == "single" else 20)
        low, high = wilson(sum(found), len(found))
        share = f"{100 * sum(found) / len(found):.1f}".removesuffix(".0")
        assert text == f"{share} [{low:.0f}, {high:.0f}]"


def test_every_row_of_the_longer_run_was_scored() -> None:
    assert {item["status"] for item in FULL} == {"ok"}
    assert f"The {len(FULL):,} rows" in PAGE


def share(label: str, kind: str, length: int) -> float:
    """Percent found in the longer run."""
    found = [
        item["score"]
        for item in FULL
        if (item["model"], item["suite"], item["kind"], item["length"]) == (label, "needle", kind, length)
    ]
    return float(100 * sum(found) / len(found) + 1e-9)


def span(row: str, kind: str, length: int) -> str:
    """The least and the greatest percentage of a row of all fine-tunes, in words."""
    shares = [share(f"{tune}-s1-{row}" if row else tune, kind, length) for tune in TUNES]
    low, high = f"{min(shares):.0f}", f"{max(shares):.0f}"
    return f"{low} %" if low == high else f"{low} to {high} %"


def test_what_the_page_says_of_sixteen_times() -> None:
    single = {tune: share(f"{tune}-s1-r32", "single", 2048) for tune in TUNES}
    ordered = sorted(single, key=lambda tune: -single[tune])
    named = [f"{single[tune]:.0f} % (`{tune}`)" for tune in ordered]
    rank_4 = span("r4", "single", 2048)
    said = f"the grafts of rank 32 {', '.join(named[:-1])} and {named[-1]}, those of rank 4 {rank_4}"
    assert said in PAGE
    assert f"finds {span('short-donor', 'single', 2048)} there" in PAGE
    assert f"much: {span('short-donor', 'single', 1024)}, where theta only finds" in PAGE
    assert f"theta only finds {span('theta-only', 'single', 1024)}." in PAGE
    assert f"{span('r32', 'single', 2048)} against {span('whole-delta', 'single', 2048)} at 2,048" in PAGE
    assert "**At 2,048 tokens, sixteen times the context, no fine-tune passes**" in PAGE
    assert max(wilson(single[tune], 100)[0] for tune in TUNES) < 95


def test_what_the_page_says_of_other_kinds() -> None:
    rows = ("r32", "short-donor", "theta-only", "yarn", "")
    keys, chains, values = (
        [span(row, kind, 1024) for row in rows] for kind in ("multi_query", "chain", "multi_value")
    )
    assert (
        f"grafts of rank 32 {keys[0]}, short donor {keys[1]}, theta only {keys[2]}, YaRN {keys[3]}, "
        f"the fine-tunes alone {keys[4]}."
    ) in PAGE
    assert f"Chains: {', '.join(chains)}." in PAGE
    assert f"at 128 tokens): {', '.join(values)}." in PAGE
    assert (
        f"find {span('r32', 'multi_query', 2048)} of several keys, {span('r32', 'chain', 2048)} of chains "
        f"and {span('r32', 'multi_value', 2048)} of several values, and no control more than 6 %"
    ) in PAGE
    controls = [
        share(f"{tune}-s1-{row}", kind, 2048)
        for tune in TUNES
        for row in ("theta-only", "yarn", "dynamic-ntk", "short-donor")
        for kind in ("multi_query", "chain", "multi_value")
    ]
    assert max(controls) < 6.5
    assert "none of the answers of the other kinds" in PAGE
    for kind in ("multi_query", "chain", "multi_value"):
        assert span("short-donor", kind, 2048) == "0 %"


def test_the_loss_that_the_page_admits() -> None:
    pairs = [("lora", "multi_value"), ("lora", "multi_query"), ("lora", "chain"), ("sure", "chain")]
    (value, key, chain, sure) = (
        (f"{share(f'{tune}-s1-r32', kind, 128):.0f}", f"{share(tune, kind, 128):.0f}") for tune, kind in pairs
    )
    said = (
        f"Of `lora` rank 32 finds {value[0]} % of several values (alone {value[1]}), "
        f"{key[0]} % of several keys ({key[1]}) and {chain[0]} % of chains ({chain[1]}); "
        f"of `sure` {sure[0]} % of chains ({sure[1]})."
    )
    assert said in PAGE


SEEDS: list[dict[str, Any]] = pq.read_table(ROOT / "docs/data/demo-seeds.parquet").to_pylist()


def found_by_three(tune: str, ending: str, seeds: tuple[int, ...] = (1, 2, 3)) -> list[float]:
    labels = {f"{tune}-s{seed}-{ending}" for seed in seeds}
    return [
        item["score"]
        for item in SEEDS
        if item["model"] in labels and (item["suite"], item["length"]) == ("needle", 1024)
    ]


@pytest.mark.parametrize("row", table(PAGE, "fine-tune, three donors"), ids=lambda row: row[0])
def test_a_row_of_the_table_of_three_donors(row: list[str]) -> None:
    tune = row[0].strip("`")
    for text, ending in zip(row[1:], ("theta-only", "r1", "r2", "r4", "r32"), strict=True):
        assert len(found_by_three(tune, ending)) == 300
        by_donor = [sum(found_by_three(tune, ending, (seed,))) for seed in (1, 2, 3)]  # of the same 100
        mean = sum(by_donor) / 3
        low, high = wilson(mean, 100)
        spread = f", {min(by_donor):.0f}–{max(by_donor):.0f}" if min(by_donor) < max(by_donor) else ""
        assert text == f"{mean:.1f}".removesuffix(".0") + f" [{low:.0f}, {high:.0f}]{spread}"


def test_the_donors_agree() -> None:
    for tune in TUNES:
        shares = [sum(found_by_three(tune, "r32", (seed,))) for seed in (1, 2, 3)]  # of 100
        assert max(shares) - min(shares) <= 1
    assert f"The {len(SEEDS):,} rows" in PAGE
    assert {item["status"] for item in SEEDS} == {"ok"}
