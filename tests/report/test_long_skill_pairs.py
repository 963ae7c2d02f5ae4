"""Skills behind a long text, paired with the short prompts of the same lines: counted by hand."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contextgraft.formats.find_samples import PAGE
from contextgraft.report.build import build
from contextgraft.report.data.samples import read_samples
from contextgraft.report.statistics.paired import length_pairs


def rows(
    synthetic: SimpleNamespace, model: Any, suite: str, right: set[int], n: int, **changes: Any
) -> list[dict[str, Any]]:
    """Lines 0 to n of the skill `polite`, those in `right` with score 1."""
    return [
        {
            **row,
            "suite": suite,
            "score": float(row["sample_index"] in right),
            "recipe": json.dumps({"sha256": "one", "line": row["sample_index"]}),
            **changes,
        }
        for row in synthetic.skill(model, "polite", 0, n=n)
    ]


@pytest.fixture
def samples(synthetic: SimpleNamespace) -> list[dict[str, Any]]:
    """The fine-tune keeps two lines at length, the graft nine of ten; its 11th has no short prompt."""
    alone, graft = synthetic.Model("style"), synthetic.graft("style", 8)
    every = set(range(20))
    made = rows(synthetic, alone, "skill", every, 20) + rows(synthetic, graft, "skill", every - {1}, 10)
    made += rows(synthetic, alone, "long_skill", {0, 1}, 10, length=1024)
    made += rows(synthetic, graft, "long_skill", every - {0}, 11, length=1024)
    return made


def test_the_summary_and_the_page_have_the_paired_difference(
    samples: list[dict[str, Any]], synthetic: SimpleNamespace, tmp_path: Path
) -> None:
    synthetic.write(tmp_path / "a.parquet", samples)
    report = build([tmp_path], [], "t", None)
    own = report.summary["fine_tunes"]["style"]["rows"]
    graft = own["graft r8"]["skill_at_length"]["polite, exact"]["1024"]
    # Newcombe's method 10 by hand: 9 of 10 both times, one line each way. Wilson's interval of 9 of 10 is
    # 0.59585 to 0.98212, 0.30415 below and 0.08212 above; phi = (8 * 0 - 1 * 1) / (9 * 1) = -1/9, so the half
    # width is sqrt(0.30415^2 + 2/9 * 0.30415 * 0.08212 + 0.08212^2) = 0.32370
    assert graft == pytest.approx(
        {"long": 0.9, "short": 0.9, "difference": 0.0, "low": -32.370, "high": 32.370}
        | {"n": 10, "won": 1, "lost": 1, "equal": 8, "p": 1.0},
        abs=0.01,
    )
    alone = own["alone"]["skill_at_length"]["polite, exact"]["1024"]
    assert (alone["long"], alone["short"], alone["difference"], alone["lost"]) == (0.2, 1.0, -80.0, 8)
    assert alone["low"] < -80 < alone["high"] < 0
    section = report.texts[PAGE].split('<section id="long-skill"')[1].split("</section>")[0]
    assert "n=10: 20 % long, 100 % short" in section
    assert "−80.0" in section


def test_prompts_that_share_a_text_have_an_interval_over_texts(
    synthetic: SimpleNamespace, tmp_path: Path
) -> None:
    """Twelve lines take turns behind three texts: four are lost of the first, two of the second."""
    model, every = synthetic.graft("style", 8), set(range(12))
    lost = {0, 3, 6, 9, 1, 4}
    made = rows(synthetic, model, "skill", every, 12)
    made += rows(synthetic, synthetic.Model("style"), "skill", every, 12)
    long = rows(synthetic, model, "long_skill", every - lost, 12, length=1024)
    made += [{**row, "document": row["sample_index"] % 3} for row in long]
    synthetic.write(tmp_path / "a.parquet", made)
    (item,) = map(length_pairs, read_samples([tmp_path]).rows("long_skill_pairs"))
    assert item.pairs.texts == ((4.0, -4.0), (4.0, -2.0), (4.0, 0.0))
    report = build([tmp_path], [], "t", None)
    own = report.summary["fine_tunes"]["style"]["rows"]["graft r8"]["skill_at_length"]
    own = own["polite, exact"]["1024"]
    # each of the 27 draws of three texts is as likely: all of the first, or of the last, are 3.7 % each
    assert (own["difference"], own["texts"]) == (-50.0, {"n": 3, "low": -100.0, "high": 0.0})
    section = report.texts[PAGE].split('<section id="long-skill"')[1].split("</section>")[0]
    assert ", by text [−100.0, 0.0] n=12: 50 % long, 100 % short" in section


def test_several_donors_answer_one_line(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    made = []
    for donor, kept in (("donor-s1", set(range(4))), ("donor-s2", set())):
        graft = synthetic.graft("style", 8, donor)
        made += rows(synthetic, graft, "skill", set(range(4)), 4)
        made += rows(synthetic, graft, "long_skill", kept, 4, length=64)
    synthetic.write(tmp_path / "a.parquet", made)
    (item,) = map(length_pairs, read_samples([tmp_path]).rows("long_skill_pairs"))
    assert (item.pairs.n, item.pairs.first, item.pairs.second) == (4, 0.5, 1.0)


@pytest.mark.parametrize("change", [{"answer": "other"}, {"seed": 8}, {"chat": 1}, {"recipe": "{}"}])
def test_other_prompts_are_not_paired(
    synthetic: SimpleNamespace, tmp_path: Path, change: dict[str, Any]
) -> None:
    model = synthetic.Model("style")
    made = rows(synthetic, model, "skill", set(), 4)
    made += rows(synthetic, model, "long_skill", set(), 4, length=64, **change)
    synthetic.write(tmp_path / "a.parquet", made)
    assert read_samples([tmp_path]).rows("long_skill_pairs") == []


def test_long_answers_are_paired_with_those_of_the_fine_tune(
    synthetic: SimpleNamespace, tmp_path: Path
) -> None:
    # of four short prompts the graft loses one end; of four long ones all, and every answer repeats half
    made = []
    for model, ended, repeated in ((synthetic.Model("style"), 4, 0.0), (synthetic.graft("style", 8), 3, 0.5)):
        for length, right in ((None, set(range(ended))), (1024, set(range(4)) if repeated == 0 else set())):
            common = {"length": length, "answer": None}
            made += rows(synthetic, model, "repetition", right, 4, scoring="ended", **common)
            again = rows(synthetic, model, "repetition", set(), 4, scoring="rep-4", **common)
            made += [{**row, "score": repeated} for row in again]
    synthetic.write(tmp_path / "a.parquet", made)
    report = build([tmp_path], [], "t", None)
    own = report.summary["fine_tunes"]["style"]["rows"]
    found = own["graft r8"]["repetition"]
    points = {length: item["difference"] for length, item in found["polite, ended"].items()}
    assert points == {"short": -25.0, "1024": -100.0}
    again = found["polite, rep-4"]["1024"]
    assert (again["share"], again["alone"], again["difference"], again["n"]) == (0.5, 0.0, 50.0, 4)
    # every prompt differs by the same, so does their mean
    assert (again["low"], again["high"]) == (50.0, 50.0)
    assert (again["repeats_more"], again["repeats_less"], again["equal"]) == (4, 0, 0)
    assert "won" not in again
    assert found["polite, ended"]["1024"]["lost"] == 4
    assert "repetition" not in own["alone"]
    section = report.texts[PAGE].split('<section id="repetition"')[1].split("</section>")[0]
    assert "n=4: 75 % here, 100 % alone" in section
    assert '<th scope="row">short prompts</th>' in section


@pytest.mark.parametrize(
    ("differences", "interval"),
    [
        ([0.0] * 20, (0.0, 0.0)),
        # mean 20 points, deviation 10, n 3: 20 +- 4.302653 * 10 / sqrt(3)
        ([0.1, 0.2, 0.3], (-4.8414, 44.8414)),
        ([0.5, -0.5], (-100.0, 100.0)),
        ([0.3], None),
    ],
)
def test_repeated_4_grams_have_an_interval_of_the_mean_difference(
    synthetic: SimpleNamespace,
    tmp_path: Path,
    differences: list[float],
    interval: tuple[float, float] | None,
) -> None:
    made = []
    for model, changes in (
        (synthetic.Model("style"), [0.0] * len(differences)),
        (synthetic.graft("style", 8), differences),
    ):
        own = rows(synthetic, model, "repetition", set(), len(changes), scoring="rep-4", answer=None)
        made += [{**row, "score": 0.5 + change} for row, change in zip(own, changes, strict=True)]
    synthetic.write(tmp_path / "a.parquet", made)
    (item,) = map(length_pairs, read_samples([tmp_path]).rows("repetition_pairs"))
    assert item.interval == (interval and pytest.approx(interval, abs=1e-3))
