"""Fuzzed files of a study, each given to a command that reads it: a result, or one line and exit code 2.

Config, tokenizer, template, graft's record, adapter's config and sidecar, GGUF, recipe, study and data.
Commands run in this process, within bounded time and memory.
"""

import contextlib
import gc
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tests.robustness import mutations
from tests.robustness.in_process import flaw, run

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Subject:
    """A file that is damaged, how odd content is constructed, and the commands that read it, in turn.

    `statuses` are exit codes that are right besides 2.
    """

    path: Path
    construct: mutations.Make
    commands: tuple[list[str], ...]
    statuses: tuple[int, ...] = (0,)


def fuzz(subject: Subject, amount: int, make: mutations.Make, first: int = 0) -> list[str]:
    """Flaws of `amount` damaged files, by seed; the file is restored."""
    right = subject.path.read_bytes()
    flaws = []
    try:
        for seed in range(first, first + amount):
            damaged = make(right, random.Random(seed))
            subject.path.write_bytes(damaged)
            command = subject.commands[seed % len(subject.commands)]
            problem = flaw(run(command), subject.statuses)
            if problem is not None:
                flaws.append(f"seed {seed}, {command[0]}: {damaged[:300]!r}\n{problem[-1500:]}")
            _clean(subject.path)
    finally:
        subject.path.write_bytes(right)
        gc.collect()
    return flaws


def _clean(path: Path) -> None:
    """Remove the outputs, which are next to the folder or file."""
    for root in (path.parent, path.parent.parent):
        for output in (*root.glob("out*"), *root.glob(".out*")):
            shutil.rmtree(output) if output.is_dir() else output.unlink()


def write_gguf(path: Path, chance: random.Random | None = None) -> None:
    """A tiny Llama; with `chance`, one or two values of its metadata are odd."""
    facts: dict[str, Any] = {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": 8,
        "feed_forward_length": 8,
        "head_count": 2,
        "head_count_kv": 1,
        "layer_norm_rms_eps": 1e-5,
        "rope_freq_base": 1e4,
        "tokenizer_model": "gpt2",
        "tokenizer_pre": "smollm",
        "token_list": ["<s>", "a", "b", "ab"],
        "token_types": [3, 1, 1, 1],
        "token_merges": ["a b"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "chat_template": "{{ messages[0]['content'] }}",
    }
    odd: tuple[Any, ...] = (0, 1, 3, 2**31, -1, "x", "", [], ["a b c"], ["q z"], 1e30, 10**6, [0], [[1]])
    shapes = {"token_embd": (4, 8), "output_norm": (8,), "blk.0.attn_norm": (8,), "blk.0.ffn_norm": (8,)}
    shapes |= {
        "blk.0.attn_q": (8, 8),
        "blk.0.attn_k": (4, 8),
        "blk.0.attn_v": (4, 8),
        "blk.0.attn_output": (8, 8),
    }
    shapes |= {f"blk.0.ffn_{name}": (8, 8) for name in ("gate", "up", "down")}
    for _ in range(chance.randint(1, 2) if chance else 0):
        assert chance is not None
        if chance.random() < 0.7:
            facts[chance.choice(list(facts))] = chance.choice(odd)
        else:
            name = chance.choice(list(shapes))
            shapes[name] = chance.choice([(1,), (8, 4), (0, 8), (2, 2, 2), (16, 8)])
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in facts.items():
        with contextlib.suppress(Exception):  # values that the writer itself does not take
            getattr(writer, f"add_{key}")(value)
    for name, shape in shapes.items():
        kind = np.float32 if chance is None or chance.random() < 0.95 else np.int32
        writer.add_tensor(f"{name}.weight", np.ones(shape, dtype=kind))
    with contextlib.suppress(Exception):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Subject]]:
    """Every kind of file, in a folder of its own."""
    before = Path.cwd()
    root = tmp_path_factory.mktemp("fuzz")
    os.chdir(root)
    yield make_subjects(root)
    os.chdir(before)


def make_subjects(root: Path) -> dict[str, Subject]:
    """A study's files, some of which are made by the commands."""
    for name in ("base", "style", "facts"):
        assert run(["fetch", f"demo:{name}", "--out", str(root / name)]).status == 0
    pair = ["--base", str(root / "base"), "--donor", str(root / "facts")]
    extract = ["extract", *pair, "--rank", "2", "--out", str(root / "adapters")]
    assert run([*extract, "--include", r"layers\.0\.self_attn"]).status == 0
    adapter, target = root / "adapters" / "r2", root / "style"
    merge = ["merge", "--adapter", str(adapter), "--target", str(target)]
    assert run([*merge, "--out", str(root / "graft")]).status == 0
    (root / "k.jsonl").write_text('{"prompt": "the", "answer": "code"}\n' * 2)
    for path in (ROOT / "config" / "demo").iterdir():
        shutil.copy(path, root)
    needle = (ROOT / "config/demo/needle_base.yaml").read_text()
    (root / "f.yaml").write_text(f"{needle}\nchat: true\n")
    (target / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    write_gguf(root / "m.gguf")
    shutil.copytree(ROOT / "config", root / "study" / "config")
    skill = ["--suite", "skill", "--skill", str(root / "k.jsonl"), "--out", str(root / "out.parquet")]
    chat = [
        "--suite",
        "needle",
        "--lengths",
        "96",
        "--depths",
        "50",
        "--samples",
        "1",
        "--format",
        str(root / "f.yaml"),
    ]
    evaluate = ["evaluate", str(target), *skill]
    json_, yaml_ = mutations.constructed_json, mutations.constructed_yaml
    readers = (
        ["inspect", str(adapter)],
        [*merge, "--out", str(root / "out")],
        ["compare", str(adapter), str(adapter)],
        ["verify", str(adapter), *pair],
    )
    recipe = ["plan", "training", str(root / "donor.yaml"), "--base", str(root / "base.json")]
    study = ["plan", "study", str(root / "study" / "config" / "config.yaml")]
    return {
        "config": Subject(target / "config.json", json_, (evaluate, ["inspect", str(target)], evaluate)),
        "tokenizer": Subject(target / "tokenizer.json", json_, (evaluate,)),
        "tokenizer_config": Subject(target / "tokenizer_config.json", json_, (evaluate,)),
        "template": Subject(
            target / "chat_template.jinja",
            mutations.constructed_template,
            (["evaluate", str(target), *chat, "--out", str(root / "out.parquet")],),
        ),
        "record": Subject(
            root / "graft" / "contextgraft.json",
            json_,
            (
                ["evaluate", str(root / "graft"), *skill],
                ["verify", str(root / "graft"), "--target", str(target)],
                ["inspect", str(root / "graft")],
            ),
            (0, 1),
        ),
        "adapter_config": Subject(adapter / "adapter_config.json", json_, readers, (0, 1)),
        "sidecar": Subject(adapter / "contextgraft.json", json_, readers, (0, 1)),
        "gguf": Subject(
            root / "m.gguf", constructed_gguf, (["fetch", str(root / "m.gguf"), "--out", str(root / "out")],)
        ),
        "recipe": Subject(root / "donor.yaml", yaml_, (recipe,)),
        "study": Subject(root / "study" / "config" / "config.yaml", yaml_, (study,)),
        "skill": Subject(root / "k.jsonl", constructed_lines, (evaluate,)),
        "needle": Subject(
            root / "f.yaml", yaml_, (["evaluate", str(target), *chat, "--out", str(root / "out.parquet")],)
        ),
    }


def constructed_gguf(_: bytes, chance: random.Random) -> bytes:
    path = Path("constructed.gguf")
    write_gguf(path, chance)
    return path.read_bytes()


def constructed_lines(raw: bytes, chance: random.Random) -> bytes:
    return b"\n".join(mutations.constructed_json(line, chance) for line in raw.splitlines())


KINDS = (
    "config",
    "tokenizer",
    "tokenizer_config",
    "template",
    "record",
    "adapter_config",
    "sidecar",
    "gguf",
    "recipe",
    "study",
    "skill",
    "needle",
)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("mutants", "constructs"),
    [
        (2, 2),
        pytest.param(40, 40, marks=pytest.mark.slow),
        pytest.param(2000, 200, marks=[pytest.mark.slow, pytest.mark.fuzz]),
    ],
    ids=["few", "more", "many"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file(subjects: dict[str, Subject], kind: str, mutants: int, constructs: int) -> None:
    subject = subjects[kind]
    flaws = fuzz(subject, constructs, subject.construct) + fuzz(subject, mutants, mutations.mutated)
    assert not flaws, f"{len(flaws)} of {mutants + constructs}:\n" + "\n\n".join(flaws[:10])
