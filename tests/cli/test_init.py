"""`contextgraft init`: from names of models to a study that Snakemake runs."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from contextgraft.cli.commands.init import command
from contextgraft.config.resolved_study import load_study
from contextgraft.errors import ConfigError, InputError, OutputError
from contextgraft.planning.new_study.facts import prompt_lengths
from contextgraft.planning.new_study.write import model_name
from contextgraft.planning.study import read_study

DEMO = ("facts", "style")


@pytest.fixture
def folder(toy: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a base of 128 positions, a donor of 1,024, and a fine-tune."""
    monkeypatch.chdir(tmp_path)
    longer = toy.config(max_position_embeddings=1024, rope_theta=8e4)
    for name, config in {"base": toy.config(), "donor": longer, "my tunes/polite": toy.config()}.items():
        toy.write(tmp_path / name, toy.weights(config), config)
    return tmp_path


def init(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(command, arguments, catch_exceptions=False, **options)


FOLDERS = ("--base", "base", "--donor", "donor", "--fine-tune", "./my tunes/polite")


def test_the_study_is_valid_and_has_what_the_configs_say(folder: Path) -> None:
    done = init(*FOLDERS, "--fine-tune", "second=my tunes/polite", "--name", "mine", "--json")
    assert json.loads(done.stdout) == ["mine.yaml", "mine.tsv"]
    study = read_study(Path("mine.yaml"))
    settings = study.settings
    assert {name: row.source for name, row in study.targets.items()} == {
        "polite": "./my tunes/polite", "second": "my tunes/polite"
    }  # fmt: skip
    assert settings.shape == "base/config.json"
    assert (settings.donor.source, settings.donor.theta, settings.donor.max_positions) == ("donor", 8e4, 1024)
    assert settings.ranks == [8, 32]
    assert settings.evaluation.needle.lengths == [128, 256, 512, 1024]
    assert settings.evaluation.divergence is not None
    assert settings.evaluation.divergence.length == 64
    assert settings.note is None


def test_base_and_donor_exchanged(folder: Path) -> None:
    with pytest.raises(
        InputError, match=r"base: the donor's context is shorter .* 1,024 tokens; received 128"
    ):
        init("--base", "donor", "--donor", "base", "--fine-tune", "./my tunes/polite")
    assert not list(folder.glob("*.yaml"))


def test_base_as_donor(folder: Path) -> None:
    with pytest.raises(ConfigError, match="base and donor are the same model"):
        init("--base", "base", "--donor", "base", "--fine-tune", "./my tunes/polite")
    assert not list(folder.glob("*.yaml"))


def test_defaults_need_no_file_and_the_demo_is_not_in_it(folder: Path) -> None:
    init(*FOLDERS)
    text = Path("my-study.yaml").read_text()
    assert "demo" not in text.lower()
    data = yaml.safe_load(text)
    assert "format" not in data["evaluation"]["needle"]
    assert "skill" not in data["evaluation"]
    study = read_study(Path("my-study.yaml"))
    assert study.evaluation("polite").needles.format is None
    assert study.question_files("polite") == []


def test_a_base_with_a_chat_template_gets_a_format_in_it(folder: Path) -> None:
    (folder / "base/chat_template.jinja").write_text("{{ messages[0].content }}")
    init(*FOLDERS)
    study = read_study(Path("my-study.yaml"))
    assert study.needle_format("polite") == "my-study-needle.yaml"
    assert yaml.safe_load(Path("my-study-needle.yaml").read_text())["chat"] is True


def test_a_pipe_in_the_base_is_not_waited_for(folder: Path) -> None:
    (folder / "base/tokenizer_config.json").unlink()
    os.mkfifo(folder / "base/tokenizer_config.json")
    init(*FOLDERS)
    assert not Path("my-study-needle.yaml").exists()


@pytest.mark.parametrize("name", ["2026-11-28", "2024", "no", "1e3", "0x1f", "null", "1_000"])
def test_names_that_yaml_reads_as_other_values(folder: Path, name: str) -> None:
    assert init(*FOLDERS, "--name", name).exit_code == 0
    assert read_study(Path(f"{name}.yaml")).settings.study == name
    assert yaml.safe_load(Path(f"{name}.yaml").read_text())["study"] == name


def test_printed_commands_quote_the_path(folder: Path) -> None:
    done = init(*FOLDERS, "--out", "a $(b)")
    assert "plan study 'a $(b)/my-study.yaml'" in done.stdout
    assert "--configfile 'a $(b)/my-study.yaml'" in done.stdout


def test_the_printed_command_runs_in_this_folder(folder: Path) -> None:
    assert "  snakemake --snakefile CLONE/Snakefile --cores all " in init(*FOLDERS).stdout
    Path("Snakefile").touch()
    done = init(*FOLDERS, "--name", "other")
    assert "  snakemake --cores all " in done.stdout
    assert "CLONE" not in done.stdout


@pytest.mark.parametrize("character", ["\t", "\n", "\r", "\u2028"])
@pytest.mark.parametrize("option", ["--base", "--donor", "--fine-tune"])
def test_sources_with_a_tab_or_a_line_end(folder: Path, character: str, option: str) -> None:
    shutil.copytree("base", f"my{character}tune")
    words = dict(zip(FOLDERS[::2], FOLDERS[1::2], strict=True)) | {option: f"./my{character}tune"}
    with pytest.raises(InputError, match="a tab or a line end in a source"):
        init(*(word for pair in words.items() for word in pair))
    assert not list(folder.glob("my-study*"))


def test_shipped_models_and_a_recipe(folder: Path) -> None:
    root = Path(__file__).parents[2]
    shutil.copytree(root / "config/demo", "config/demo")
    fine_tunes = [word for name in DEMO for word in ("--fine-tune", f"demo:{name}")]
    words = ("--base", "demo:base", "--donor", "config/demo/donor.yaml", *fine_tunes)
    with pytest.raises(InputError, match=r"^demo:base: haystack prose: .* lacks its words; .* --format"):
        init(*words)
    assert not list(folder.glob("my-study*"))
    words += ("--format", "config/demo/needle_base.yaml")
    with pytest.raises(
        InputError, match=r"does not fit the length; expected at least \d+ tokens; received 24"
    ):
        init(*words, "--lengths", "24,128")
    assert not list(folder.glob("my-study*"))
    init(*words)
    study = read_study(Path("my-study.yaml"))
    assert list(study.targets) == list(DEMO)
    assert study.settings.donor.train == "config/demo/donor.yaml"
    assert study.settings.evaluation.needle.lengths[-1] == 4096
    assert study.settings.evaluation.needle.format == "config/demo/needle_base.yaml"
    assert study.settings.shape == "my-study-base.json"


def test_given_ranks_and_lengths_are_kept(folder: Path) -> None:
    init(*FOLDERS, "--ranks", "4,2", "--lengths", "64")
    settings = read_study(Path("my-study.yaml")).settings
    assert (settings.ranks, settings.evaluation.needle.lengths) == ([4, 2], [64])


def test_without_a_terminal_every_missing_option_is_named(folder: Path) -> None:
    done = init("--base", "base")
    assert done.exit_code == 2
    assert "--donor, --fine-tune" in done.output


def test_on_a_terminal_it_asks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["base", "donor", "./my-tune a=base"])
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("click.prompt", lambda *_, **__: next(answers))
    shutil.copytree("base", "my-tune")
    command.callback(  # type: ignore[misc]
        base=None, donor=None, fine_tunes=(), name="s", ranks=None, lengths=None, needle_format=None,
        out=Path("sub"), replace=False, as_json=True,
    )  # fmt: skip
    assert list(read_study(Path("sub/s.yaml")).targets) == ["my-tune", "a"]


def test_nothing_is_written_over_and_nothing_half(folder: Path) -> None:
    init(*FOLDERS)
    with pytest.raises(OutputError, match="already exists"):
        init(*FOLDERS)
    assert init(*FOLDERS, "--force").exit_code == 0
    with pytest.raises(ConfigError, match="reserved"):
        init(*FOLDERS, "--name", "other", "--fine-tune", "base=base")
    with pytest.raises(InputError, match="did you mean hf:owner/model"):
        init("--base", "owner/model", "--donor", "donor", "--fine-tune", "base", "--name", "other")
    assert not list(folder.glob("other*"))


def test_a_run_that_was_interrupted_between_its_files_is_finished(folder: Path) -> None:
    init(*FOLDERS, "--out", "out")
    whole = {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
    assert len(whole) > 1
    for path, content in whole.items():
        path.unlink()
        assert init(*FOLDERS, "--out", "out").exit_code == 0
        assert path.read_bytes() == content
    first, second, *_ = whole
    first.unlink()
    second.write_text("another")
    with pytest.raises(OutputError, match="already exists"):
        init(*FOLDERS, "--out", "out")


def test_the_recipe_of_the_donor_is_not_written_over(folder: Path) -> None:
    shutil.copytree(Path(__file__).parents[2] / "config/demo", folder / "demo")
    (folder / "demo/donor.yaml").rename(folder / "demo/mine.yaml")
    before = (folder / "demo/mine.yaml").read_bytes()
    words = ("--base", "base", "--donor", "demo/mine.yaml", "--fine-tune", "t=base", "--out", "demo")
    with pytest.raises(OutputError, match="is an input"):
        init(*words, "--name", "mine", "--force")
    assert (folder / "demo/mine.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf:meta-llama/Meta-Llama-3-70B@main", "Meta-Llama-3-70B"),
        ("models/my tune/", "my-tune"),
        ("demo:zh", "zh"),
        ("a/b.Q4.gguf", "b.Q4"),
        ("..", "model"),
    ],
)
def test_names_of_fine_tunes(source: str, name: str) -> None:
    assert model_name(source) == name


@pytest.mark.parametrize(
    ("base", "donor", "lengths"),
    [
        (8192, 1048576, [8192, 32768, 262144, 1048576]),
        (128, 256, [128, 256]),
        (128, 128, [128]),
        (32768, 1010000, [32768, 131072, 262144, 1010000]),
    ],
)
def test_lengths_go_from_the_context_of_the_base_to_that_of_the_donor(
    base: int, donor: int, lengths: list[int]
) -> None:
    assert prompt_lengths(base, donor) == lengths


def test_a_study_needs_lengths_and_nothing_else_of_its_evaluation(folder: Path) -> None:
    init(*FOLDERS)
    data = yaml.safe_load(Path("my-study.yaml").read_text())
    data["evaluation"] = {"needle": {"lengths": [128]}}
    study = load_study(data, "s", ["single"])
    assert study.evaluation("polite").common_seed == 0
    assert study.evaluation("polite").selected_suites == ("needle",)
