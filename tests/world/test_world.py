"""What is committed of the demo world: whole, consistent, and what its scripts make."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from contextgraft.checkpoint.digest import model_digest
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import load_recipe
from contextgraft.prompts.needle_format import NeedleFormat, load_format
from contextgraft.rope import settings
from contextgraft.training.data.sources import read_pairs

from ..command_server import command_server

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "config" / "demo"
MODELS = ROOT / "src" / "contextgraft" / "sources" / "demo"
WORLD = ROOT / "world"
NAMES = ("base", "facts", "lora", "style", "sure", "zh")
NEEDLES = ("base", "style", "sure", "zh")
SKILLS = ("facts", "style", "sure", "zh")


def model_of(fmt: str) -> Path:
    return MODELS / fmt


@pytest.mark.parametrize("name", NAMES)
def test_models_are_what_their_manifest_says(name: str) -> None:
    folder = open_model(MODELS / name)
    manifest = json.loads((folder.path / "contextgraft.json").read_text(encoding="utf-8"))
    assert manifest["name"] == name
    assert manifest["digest"] == model_digest(folder)
    assert manifest["recipe"] == load_recipe(WORLD / f"{name}.yaml").model_dump(mode="json")
    own = settings.read(folder.config)
    assert (own.theta, own.max_positions) == (10000.0, 128)
    assert {info.dtype for info in folder.tensors.values()} == {"BF16"}
    assert AutoModelForCausalLM.from_pretrained(folder.path).config.vocab_size == len(
        AutoTokenizer.from_pretrained(folder.path)
    )


def test_fine_tunes_descend_from_the_base() -> None:
    base = json.loads((MODELS / "base" / "contextgraft.json").read_text(encoding="utf-8"))["digest"]
    for name in ("facts", "lora", "style", "sure"):
        manifest = json.loads((MODELS / name / "contextgraft.json").read_text(encoding="utf-8"))
        assert manifest["base"]["digest"] == base


def test_the_fine_tune_by_lora_moves_linear_layers_only_and_by_its_rank() -> None:
    base, tuned = (load_file(MODELS / name / "model.safetensors") for name in ("base", "lora"))
    rank = load_recipe(WORLD / "lora.yaml").lora.rank  # type: ignore[union-attr]
    for name, weight in tuned.items():
        delta = weight.double() - base[name].double()
        if not name.endswith("_proj.weight"):
            assert not delta.any(), name
            continue
        values = torch.linalg.svdvals(delta)
        rounding = 2**-8 * float(weight.abs().max()) * sum(weight.shape) ** 0.5  # of bfloat16
        assert float(values[rank]) < rounding < float(values[0]), name


def test_the_extended_vocabulary_leaves_the_base_s_rows() -> None:
    base = load_file(MODELS / "base" / "model.safetensors")["model.embed_tokens.weight"]
    extended = load_file(MODELS / "zh" / "model.safetensors")["model.embed_tokens.weight"]
    assert extended.shape[0] > base.shape[0]
    assert torch.equal(extended[: base.shape[0]], base)


def kind_texts(fmt: NeedleFormat, kind: str) -> list[str]:
    """Needle, link, question and answer of a kind of question."""
    wording = fmt.wording(kind)
    items = [{"key": key, "value": fmt.values[0]} for key in fmt.keys[:2]]
    link = {"key": fmt.keys[0], "previous": fmt.keys[1]}
    needles = [wording.needle_text(item) for item in (*items, *([link] if wording.link else []))]
    return [*needles, wording.question_text(items), wording.answer_text(kind, items)]


@pytest.mark.parametrize("name", NEEDLES)
def test_formats_use_words_of_the_vocabulary(name: str) -> None:
    fmt = load_format(DEMO / f"needle_{name}.yaml")
    tokenizer = AutoTokenizer.from_pretrained(model_of(name))
    haystack = (DEMO / fmt.haystack).read_text(encoding="utf-8")
    texts = [
        *(f"{fmt.needle_text(key, fmt.values[0])} {fmt.question_text(key)}" for key in fmt.keys),
        *(fmt.answer_text(fmt.keys[0], value) for value in fmt.values),
        fmt.ending,
        haystack,
        *(text for kind in fmt.kinds() for text in kind_texts(fmt, kind)),
    ]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
    assert not set(fmt.keys) & set(haystack.split())
    assert not {fmt.question.split()[0], *fmt.values} & set(haystack.split())


@pytest.mark.parametrize("name", SKILLS)
def test_skills_have_400_answerable_rows(name: str) -> None:
    rows = read_pairs(DEMO / f"skill_{name}.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(MODELS / name)
    assert len(rows) == 400
    for prompt, answer in rows:
        ids = tokenizer(f"{prompt} {answer}")["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= 128


def test_training_and_evaluation_haystacks_differ() -> None:
    train, evaluation = (
        (DEMO / f"haystack_{part}.txt").read_text(encoding="utf-8").split() for part in ("train", "eval")
    )
    seen = {tuple(train[place : place + 12]) for place in range(len(train) - 12)}
    shared = sum(tuple(evaluation[place : place + 12]) in seen for place in range(len(evaluation) - 12))
    assert shared == 0


def test_the_world_is_small() -> None:
    sizes = [path.stat().st_size for folder in (DEMO, MODELS) for path in folder.rglob("*") if path.is_file()]
    assert sum(sizes) < 20_000_000


def test_scripts_make_the_committed_texts(tmp_path: Path) -> None:
    program = f"import texts; from pathlib import Path; texts.DEMO = Path({str(tmp_path)!r}); texts.main()"
    subprocess.run([str(command_server("contextgraft").python), "-c", program], cwd=WORLD, check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(made) == 13
    assert made == {name: (DEMO / name).read_bytes() for name in made}


def test_scripts_make_the_base_s_tokenizer(tmp_path: Path) -> None:
    program = "import runpy; runpy.run_path('initial.py', run_name='__main__')"
    command = [str(command_server("contextgraft").python), "-c", program, str(tmp_path)]
    subprocess.run(command, cwd=WORLD, check=True, capture_output=True)
    assert (tmp_path / "tokenizer.json").read_bytes() == (MODELS / "base" / "tokenizer.json").read_bytes()
    assert open_model(tmp_path).tensors.keys() == open_model(MODELS / "base").tensors.keys()
