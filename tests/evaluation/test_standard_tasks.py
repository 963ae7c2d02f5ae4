"""The shipped tasks and studies of standard benchmarks, on tiny stand-ins for their files."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from contextgraft.cli.commands import evaluate
from contextgraft.evaluation.backends.registry import BackendConfig
from contextgraft.evaluation.backends.tokenizer import load_tokenizer
from contextgraft.evaluation.replay import read_row, replay_sample
from contextgraft.evaluation.spec import build_spec, narrowed_config
from contextgraft.evaluation.suites.lm_eval.skill import read_lm_eval_skill
from contextgraft.planning.study import read_study

from .conftest import save_model

ROOT = Path(__file__).parents[2]
TASKS = sorted(path.stem for path in (ROOT / "config/tasks").glob("*.yaml"))
STUDIES = ("standard-tasks", "long-tasks")
TEMPLATE = (
    "{% for m in messages %}<{{m.role}}>{{m.content}}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
Documents = list[dict[str, Any]]
CHOICES = [f"choice_{letter}" for letter in "ABCD"]
FILES: dict[str, tuple[str, Documents]] = {  # the file of each task: its form, and documents in that form
    "mmlu": (
        "mmlu/test.parquet",
        [
            {"question": f"What is {n} + 1?", "subject": "simple_sums", "choices": list("1234"), "answer": n}
            for n in range(4)
        ],
    ),
    "gsm8k": (
        "gsm8k/test.jsonl",
        [
            {"question": f"Ann has {n} eggs and finds 3.", "answer": f"{n} + 3 = {n + 3}\n#### {n + 3:,}"}
            for n in (4, 1015, 9)
        ],
    ),
    "ifeval": (
        "ifeval/input_data.jsonl",
        [
            {
                "key": n,
                "prompt": f"Write {n} words without a comma. End with: That is all.",
                "instruction_id_list": ["punctuation:no_comma", "startend:end_checker"],
                "kwargs": [{"end_phrase": None}, {"end_phrase": "That is all."}],
            }
            for n in (2, 3, 4)
        ],
    ),
    "helmet_json_kv": (
        "helmet/json_kv.jsonl",
        [
            {
                "context": json.dumps({f"key-{n}": f"value-{n}", "x": "y"}),
                "question": f"key-{n}",
                "answer": f"value-{n}",
                "demos": [["a", "b"], ["c", "d"], ["e", "f"]],
                "num_kvs": 2,
            }
            for n in range(3)
        ],
    ),
    "helmet_nq": (
        "helmet/nq.jsonl",
        [
            {
                "question": f"Who wrote book {n}?",
                "answers": ["Anna the Elder", f"Writer-{n}"],
                "ctxs": [{"title": f"Book {n}", "text": f"Book {n} is by Writer-{n}."}],
            }
            for n in range(3)
        ],
    ),
    "longbench_v2": (
        "longbench_v2/data.json",
        [
            {
                "_id": str(n),
                "length": size,
                "context": f"The sea was calm in year {n}.",
                "question": "How was the sea?",
                **dict(zip(CHOICES, ["calm", "rough", "high", "low"], strict=True)),
                "answer": "A",
            }
            for n, size in enumerate(["short", "long", "short", "medium"])
        ],
    ),
}
# What a reader answers that is right, and how often one is right that always says the same
Answer = Callable[[dict[str, Any]], str]
RIGHT: dict[str, Answer] = {
    "mmlu": lambda doc: " " + "ABCD"[doc["answer"]],
    "gsm8k": lambda doc: (
        f"She had 12,000 of 7. The final answer is ${doc['answer'].split('#### ')[1].replace(',', '')}."
    ),
    "ifeval": lambda _: "Two words. That is all.",
    "helmet_json_kv": lambda doc: f" {doc['answer'].upper()}.",
    "helmet_nq": lambda doc: f" it was {doc['answers'][1]}",
    "longbench_v2": lambda doc: f"**The correct answer is: ({doc['answer']})**",
}
SAME = {
    "mmlu": (" B", 0.25),
    **{name: ("Seventy, 70. The correct answer is D", 0.0) for name in FILES if name != "mmlu"},
}


def stand_ins() -> tuple[ModuleType, ModuleType]:
    """Two packages of IFEval's checks that are not needed by the instructions above."""
    language, dictionary = ModuleType("langdetect"), ModuleType("immutabledict")
    vars(dictionary)["immutabledict"] = dict
    return language, dictionary


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the shipped configuration and the files of the benchmarks; no network."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "src").symlink_to(ROOT / "src")
    for name, documents in FILES.values():
        path = tmp_path / "benchmarks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match path.suffix:
            case ".parquet":
                pq.write_table(pa.Table.from_pylist(documents), path)
            case ".json":
                path.write_text(json.dumps(documents))
            case _:
                path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for module in stand_ins():
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("nltk.data.find", lambda *_, **__: None)  # punkt_tab, of other instructions
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ifeval")]:
        del sys.modules[name]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model that writes any byte, with a chat template."""
    torch.manual_seed(0)
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<pad>"]
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder = tmp_path / "model"
    save_model(folder, vocab_size=len(alphabet))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", chat_template=TEMPLATE)
    fast.save_pretrained(folder)
    return folder


def shorter_answers(folder: Path) -> None:
    """The tasks with answers of at most three tokens: a random model never ends one."""
    for path in (folder / "config/tasks").glob("*.yaml"):
        path.write_text(re.sub(r"max_gen_toks: \d+", "max_gen_toks: 3", path.read_text()))


def study_rows(name: str, model: Path, *words: object) -> Path:
    """The samples of a shipped study's tasks, evaluated on one model."""
    out = model.parent / f"{name}.parquet"
    command = [
        *(f"abliterated={model}", "--config", f"config/studies/{name}.yaml", "--fine-tune", "abliterated"),
        *("--suite", "skill", "--skill-samples", 2, "--dtype", "float32", "--threads", 1, "--out", out),
        *words,
    ]
    done = CliRunner().invoke(evaluate.command, list(map(str, command)))
    assert done.exit_code == 0, done.output + repr(done.exception)
    return out


def named_tasks(name: str) -> list[str]:
    tasks = read_study(Path(f"config/studies/{name}.yaml")).settings.evaluation.skill.skills
    return [Path(task).stem for task in tasks]


def test_every_task_is_in_a_study_and_has_a_stand_in() -> None:
    assert sorted(task for name in STUDIES for task in named_tasks(name)) == TASKS == sorted(FILES)
    for name in STUDIES:
        evaluation = read_study(Path(f"config/studies/{name}.yaml")).settings.evaluation
        assert evaluation.chat == "auto"
        assert set(evaluation.controls) == {"theta_only", "yarn"}


@pytest.mark.parametrize("reader", ["right", "same"])
@pytest.mark.parametrize("name", STUDIES)
def test_readers_get_the_scores_that_they_must(
    name: str, reader: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: Any) -> str:
        return RIGHT[request.task_name](request.doc) if reader == "right" else SAME[request.task_name][0]

    def generate(_: HFLM, requests: Sequence[Any], **__: Any) -> list[str]:
        return [answer(request) for request in requests]

    def choose(_: HFLM, requests: Sequence[Any], **__: Any) -> list[tuple[float, bool]]:
        return [
            (-1.0 if request.args[1].strip() == answer(request).strip() else -9.0, False)
            for request in requests
        ]

    monkeypatch.setattr(HFLM, "generate_until", generate)
    monkeypatch.setattr(HFLM, "loglikelihood", choose)
    rows = pq.read_table(
        study_rows(name, model, "--skill-samples", 2 if name == "long-tasks" else 3)
    ).to_pylist()
    for task in named_tasks(name):
        own = [row for row in rows if row["task"] == task]
        drawn = [json.loads(row["recipe"])["doc_id"] for row in own]
        expected = (
            [1.0] * len(own) if reader == "right" else [float(task == "mmlu" and n == 1) for n in drawn]
        )
        assert [row["score"] for row in own] == expected, task
        assert {row["status"] for row in own} == {"ok"}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_asks_in_the_template_and_its_rows_are_replayed(here: Path, name: str, model: Path) -> None:
    shorter_answers(here)
    out = study_rows(name, model)
    config = read_study(Path(f"config/studies/{name}.yaml")).evaluation("abliterated")
    config = config.with_section("skill", samples=2).model_copy(update={"suites": ["skill"]})
    rows = pq.read_table(out).to_pylist()
    assert sorted({row["task"] for row in rows}) == sorted(named_tasks(name))
    assert {(row["status"], row["reason"], row["chat"]) for row in rows} == {("ok", None, 1)}
    for number, row in enumerate(rows):
        spec = build_spec(narrowed_config(config, row))
        assert replay_sample(read_row(out, number), model, spec, BackendConfig()).agrees


def test_the_beginning_of_an_answer_stands_behind_the_header(model: Path) -> None:
    """As lm-evaluation-harness makes the requests when they are run in a chat."""
    for task in TASKS:
        skill = read_lm_eval_skill(f"config/tasks/{task}.yaml", 1, 3, chat=True)
        lm = HFLM(pretrained=LlamaForCausalLM.from_pretrained(model), tokenizer=load_tokenizer(model).hf)
        skill.task.build_all_requests(
            samples=[0], apply_chat_template=True, chat_template=lm.apply_chat_template
        )
        text = skill.task.instances[0].args[0]
        begin = skill.task.config.gen_prefix or ""
        assert text.startswith("<user>")
        assert text.endswith(f"<assistant>{begin}"), task
