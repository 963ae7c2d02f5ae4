"""What a new user tries first, by the words of the documentation alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from .conftest import ROOT, documented, run

OWN = "docs/own-models.md"
NAMES = {"BASE": "base", "DONOR": "donor", "FINE_TUNE": "tune"}
pytestmark = pytest.mark.usefixtures("models")


def extract() -> list[str]:
    return [word.replace("32", "4") for word in documented(OWN, "extract", **NAMES)]


def merge() -> list[str]:
    return [word.replace("r32", "r4") for word in documented(OWN, "merge", **NAMES)]


def test_a_graft_by_hand_and_its_cards() -> None:
    assert run(*extract()).status == 0
    assert run(*merge()).status == 0
    checked = run("verify", "graft", "--target", "tune", "--adapter", "adapters/r4")
    assert checked.status == 0, checked.err
    for folder in ("adapters/r4", "adapters/r8", "graft"):
        assert ModelCard.load(f"{folder}/README.md").data.get("tags")
    assert json.loads(Path("graft/config.json").read_text())["max_position_embeddings"] == 1024


def test_a_study_from_init_to_its_plan() -> None:
    sources = {"hf:OWNER/BASE": "base", "hf:OWNER/DONOR": "donor", "hf:OWNER/TUNE": "tune"}
    assert run(*documented(OWN, "init", **sources, **{"path/to/folder": "tune"})).status == 0
    planned = run(*documented(OWN, "plan study my-study.yaml"))
    assert planned.status == 0, planned.err
    assert "merge" in planned.out


@pytest.mark.slow
def test_a_study_that_cannot_work_is_refused_before_any_job() -> None:
    run("init", "--base", "base", "--donor", "donor", "--fine-tune", "tune")
    checked = run(*documented(OWN, "plan study my-study.yaml --check"))
    assert checked.status == 2  # the toy's tokenizer is empty
    assert "tokenizer" in checked.err


def test_a_finished_command_again() -> None:
    for words in (extract(), merge()):
        assert run(*words).status == 0
        again = run(*words)
        assert again.status == 0, again.err
        assert "already" in again.err
    other = merge()
    other[other.index("--target") + 1] = "base"
    refused = run(*other)
    assert refused.status == 2
    assert "already exists; pass --force to replace it or --skip-existing to keep it" in refused.err
    assert run(*other, "--skip-existing").status == 0
    assert run(*other, "--force").status == 0
    assert json.loads(Path("graft/contextgraft.json").read_text())["target"]["name"] == "base"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fetch", "OWNER/NAME", "--out", "x"], "hf:OWNER/NAME"),
        (["inspect", "OWNER/NAME"], "hf:OWNER/NAME"),
        (["merge", "--adapter", "base", "--target", "tune", "--out", "x"], "is not a PEFT adapter"),
        (["extract", "--base", "base", "--donor", "base", "--rank", "4", "--out", "x"], "nothing to extract"),
        (["extrac"], "Did you mean 'extract'?"),
        (["merge", "--adapter", "base"], "Missing '--target', '--out'"),
        (["plan", "study", "none.yaml"], "none.yaml"),
    ],
)
def test_a_wrong_input_is_one_line_with_the_remedy(words: list[str], said: str) -> None:
    before = set(Path.cwd().rglob("*"))
    done = run(*words)
    assert done.status == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert set(Path.cwd().rglob("*")) == before


def test_all_mistakes_of_a_study_at_once() -> None:
    run("init", "--base", "base", "--donor", "donor", "--fine-tune", "tune")
    text = Path("my-study.yaml").read_text()
    Path("my-study.yaml").write_text(text.replace("ranks:", "rankss:").replace("study:", "studdy:"))
    done = run("plan", "study", "my-study.yaml")
    assert done.status == 2
    assert "rankss" in done.err
    assert "studdy" in done.err


def test_all_that_an_evaluation_lacks_at_once() -> None:
    assert "pass --suite needle --lengths" in run("evaluate", "tune", "--out", "samples.parquet").err
    done = run("evaluate", "tune", "--suite", "needle", "--suite", "perplexity")
    assert done.status == 2
    for lacking in ("--out is required", "--suite needle needs lengths", "--suite perplexity needs lengths"):
        assert lacking in done.err


def test_two_adapters_are_compared() -> None:
    run(*extract())
    done = run("compare", "adapters/r8", "adapters/r4")
    assert done.status == 0, done.err
    assert "model.layers.0." in done.out


def test_publish_shows_what_it_would_send() -> None:
    run(*extract())
    done = run("publish", "adapters/r4", "--to", "me/long-context", "--dry-run")
    assert done.status == 0, done.err
    assert "README.md" in done.out
    facts = json.loads(run("publish", "adapters/r4", "--to", "me/long-context", "--dry-run", "--json").out)
    assert "hf:me/long-context" in facts["card"]


def test_inspect_prints_lines_for_servers() -> None:
    run(*extract())
    done = run("inspect", "adapters/r8")
    assert done.status == 0, done.err
    assert "vllm serve base" in done.out


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a donor is trained
def test_the_tutorial_as_it_is_written(tmp_path: Path) -> None:
    """Every command of the page after the installation, in the folder of the repository's files."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    for name in ("base", "donor"):
        (tmp_path / name).rename(tmp_path / f"unused-{name}")
    text = (ROOT / "docs/tutorial.md").read_text().replace("\\\n", " ")
    blocks = [block.split("\n", 1)[1] for block in text.split("```")[1::2]]
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("contextgraft ")]
    command = Path(sys.executable).with_name("contextgraft")
    for line in lines:
        done = subprocess.run(
            ["sh", "-c", line.replace("contextgraft", str(command), 1)],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (line, done.stderr[-2000:])
    assert (tmp_path / "report/index.html").exists()
