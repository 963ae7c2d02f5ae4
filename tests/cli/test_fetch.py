import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from transformers import LlamaConfig, LlamaForCausalLM

from contextgraft.cli.commands.fetch import command
from contextgraft.errors import OutputError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=16, **sizes)).save_pretrained(tmp_path / "source")
    return tmp_path / "source"


def test_json_is_the_record_and_text_names_the_digest(source: Path, tmp_path: Path) -> None:
    as_json = CliRunner().invoke(command, [str(source), "--out", str(tmp_path / "a"), "--json"])
    record = json.loads(as_json.stdout)
    assert record == json.loads((tmp_path / "a" / "contextgraft.json").read_text())
    text = CliRunner().invoke(command, [str(source), "--out", str(tmp_path / "b")])
    assert record["digest"][:16] in text.stdout


def test_every_form_of_a_source_stands_in_the_help() -> None:
    text = CliRunner().invoke(command, ["--help"]).stdout
    forms = ("folder", ".gguf", "package:NAME", "demo:NAME", "hf:OWNER/NAME[@REVISION]", "--dtype")
    assert all(form in text for form in forms)


def test_the_same_source_again_is_said_and_another_is_an_error(source: Path, tmp_path: Path) -> None:
    words = [str(source), "--out", str(tmp_path / "a")]
    first = CliRunner().invoke(command, words)
    again = CliRunner().invoke(command, words)
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert again.stderr == f"fetch: {tmp_path / 'a'} exists already, from the same source\n"
    config = json.loads((source / "config.json").read_text()) | {"max_position_embeddings": 4096}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(OutputError, match="already exists"):
        CliRunner().invoke(command, words, catch_exceptions=False)
    assert CliRunner().invoke(command, [*words, "--skip-existing"]).exit_code == 0
    assert CliRunner().invoke(command, [*words, "--force"]).exit_code == 0
