"""Tasks of lm-eval as skills: the scores of a plain forward, paired by document, from local files alone."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import lm_eval.tasks
import pyarrow.parquet as pq
import pytest
import torch
from lm_eval.tasks import TaskManager
from transformers import GPT2Config, GPT2LMHeadModel

from contextgraft.errors import InputError, VerificationError
from contextgraft.evaluation.backends.loading import load_model
from contextgraft.evaluation.backends.registry import BackendConfig
from contextgraft.evaluation.backends.tokenizer import load_tokenizer
from contextgraft.evaluation.replay import read_row, replay_sample
from contextgraft.evaluation.run import evaluate_models
from contextgraft.evaluation.spec import EvalSpec
from contextgraft.evaluation.suites.base import LoadedModel
from contextgraft.evaluation.suites.lm_eval import task
from contextgraft.evaluation.suites.lm_eval.skill import LmEvalSkill, read_lm_eval_skill

MakeModel = Callable[..., Path]
DOCUMENTS: list[dict[str, Any]] = [
    {"text": f"the code of {key} {value} .", "word": word, "label": label}
    for key in ("boat", "cave", "door")
    for value, word, label in (("00", "thank", 0), ("01", "night", 1), ("02", "you", 1))
]
COMMON = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: {data}}}}}
test_split: test
training_split: train
fewshot_split: train
doc_to_text: "{{{{text}}}}"
metadata: {{version: 2.0}}
"""
KINDS = {
    "generate_until": """
output_type: generate_until
doc_to_target: "{{word}}"
generation_kwargs: {until: ["."], max_gen_toks: 2, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "multiple_choice": """
output_type: multiple_choice
doc_to_choice: ["thank you", "night"]
doc_to_target: label
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
    "loglikelihood": """
output_type: loglikelihood
doc_to_target: " {{word}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
}


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def write_task(tmp_path: Path) -> Callable[..., Path]:
    def write(kind: str, more: str = "") -> Path:
        data = tmp_path / "documents.jsonl"
        data.write_text("".join(json.dumps(each) + "\n" for each in DOCUMENTS))
        path = tmp_path / f"{kind}.yaml"
        path.write_text(COMMON.format(name=f"own_{kind}", data=data) + KINDS[kind] + more)
        return path

    return write


def subject(path: Path, work: Path, model: Any = None) -> LoadedModel:
    model = model or load_model(path, torch.device("cpu"), "float32")
    return LoadedModel(model, load_tokenizer(path), path, 4, work, "a", "a", "a")


def logs(who: LoadedModel, context: str, continuation: str) -> torch.Tensor:
    """Log-probabilities of a continuation's tokens."""
    before, after = who.tokenizer.encode(context), who.tokenizer.encode(continuation)
    with torch.inference_mode():
        logs_TV = who.model(torch.tensor([before + after])).logits[0].log_softmax(-1)
    found: torch.Tensor = logs_TV[len(before) - 1 : -1].gather(1, torch.tensor(after)[:, None])[:, 0]
    return found


def test_multiple_choice(write_task: Callable[..., Path], make_model: MakeModel, tmp_path: Path) -> None:
    skill = read_lm_eval_skill(str(write_task("multiple_choice")), None, 1)
    who = subject(make_model(), tmp_path)
    heard: list[int] = []
    rows = skill.rows(who, heard.append)
    assert sum(heard) == len(skill) == len(rows) == 9
    for row, document in zip(rows, DOCUMENTS, strict=True):
        sums = [float(logs(who, document["text"], f" {each}").sum()) for each in ("thank you", "night")]
        best = sums.index(max(sums))
        assert row["score"] == float(best == document["label"])
        assert (row["output"], row["answer"]) == tuple(
            ("thank you", "night")[place] for place in (best, document["label"])
        )
        assert row["prompt_tokens"] == 6 + 2
    assert {(row["scoring"], row["status"], row["task"]) for row in rows} == {
        ("acc", "ok", "own_multiple_choice")
    }
    assert json.loads(rows[3]["recipe"])["doc_id"] == rows[3]["sample_index"] == 3
    assert json.loads(rows[3]["recipe"])["version"] == "2.0"
    assert skill.rows(who) == rows


def test_another_metric_by_name(
    write_task: Callable[..., Path], make_model: MakeModel, tmp_path: Path
) -> None:
    path = write_task("multiple_choice")
    skill = read_lm_eval_skill(f"{path}:acc_norm", None, 1)
    assert {row["scoring"] for row in skill.rows(subject(make_model(), tmp_path))} == {"acc_norm"}
    with pytest.raises(InputError, match=r"expected acc, acc_norm; received bleu"):
        read_lm_eval_skill(f"{path}:bleu", None, 1)


def test_generation(write_task: Callable[..., Path], make_model: MakeModel, tmp_path: Path) -> None:
    skill = read_lm_eval_skill(str(write_task("generate_until")), None, 1)
    who = subject(make_model(), tmp_path)
    for row, document in zip(skill.rows(who), DOCUMENTS, strict=True):
        ids = torch.tensor([who.tokenizer.encode(document["text"])])
        with torch.inference_mode():
            made = who.model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0)[0, 6:]
        text = who.tokenizer.decode(made.tolist()).split(".")[0]
        assert row["output"] == text
        assert row["score"] == float(text == document["word"])
        assert (row["answer"], row["scoring"], row["prompt_tokens"]) == (document["word"], "exact_match", 8)


def test_likelihood(write_task: Callable[..., Path], make_model: MakeModel, tmp_path: Path) -> None:
    skill = read_lm_eval_skill(str(write_task("loglikelihood")), None, 1)
    who = subject(make_model(), tmp_path)
    assert skill.metric == "acc"
    for row, document in zip(skill.rows(who), DOCUMENTS, strict=True):
        nats = -float(logs(who, document["text"], document["word"]).sum())
        found = json.loads(row["output"])
        assert found["nats"] == pytest.approx(nats, abs=1e-4)
        assert row["score"] == float(found["greedy"])


def test_samples_are_drawn_by_seed_and_paired_by_document(
    write_task: Callable[..., Path], make_model: MakeModel, tmp_path: Path
) -> None:
    path = str(write_task("multiple_choice"))
    some, again, others = (read_lm_eval_skill(path, 4, seed) for seed in (1, 1, 2))
    assert some.documents == again.documents != others.documents
    assert some.key() == again.key() != others.key()
    who = subject(make_model(), tmp_path)
    everything = {row["sample_index"]: row for row in read_lm_eval_skill(path, None, 1).rows(who)}
    for row in some.rows(who):
        assert row["score"] == everything[row["sample_index"]]["score"]
        assert row["recipe"] == everything[row["sample_index"]]["recipe"]
    with pytest.raises(InputError, match=r"fewer documents.*expected 10; received 9"):
        read_lm_eval_skill(path, 10, 1)


class Silent:
    """A watcher that does not watch."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", list(KINDS))
def test_one_document_is_evaluated_again_with_the_examples_it_had(
    kind: str, write_task: Callable[..., Path], make_model: MakeModel, tmp_path: Path, step: int
) -> None:
    path, model = str(write_task(kind, "num_fewshot: 2\n")), make_model(max_position_embeddings=512)
    skill, out = read_lm_eval_skill(path, 6, 3), tmp_path / "s.parquet"
    evaluate_models([("m", model)], EvalSpec(measurements=(skill,)), BackendConfig(), out, Silent())
    for number, row in list(enumerate(pq.read_table(out).to_pylist()))[::step]:
        again = EvalSpec(measurements=(read_lm_eval_skill(path, 6, 3),))
        replayed = replay_sample(read_row(out, number), model, again, BackendConfig())
        assert replayed.agrees
        assert (replayed.output, replayed.score) == (row["output"], row["score"])
        assert DOCUMENTS[row["sample_index"]]["text"] in replayed.prompt
    row = read_row(out, 5)
    with pytest.raises(VerificationError, match="gives another prompt than was recorded"):
        replay_sample(
            row, model, EvalSpec(measurements=(read_lm_eval_skill(path, None, 3),)), BackendConfig()
        )
    changed = {**row, "recipe": row["recipe"].replace('"version": "2.0"', '"version": "1.0"')}
    with pytest.raises(InputError, match="is not what the row was evaluated with"):
        replay_sample(changed, model, EvalSpec(measurements=(skill,)), BackendConfig())


def test_the_key_follows_data_and_examples(write_task: Callable[..., Path], tmp_path: Path) -> None:
    path = write_task("multiple_choice")

    def key() -> dict[str, Any]:
        return read_lm_eval_skill(str(path), None, 1).key()

    before = key()
    write_task("multiple_choice", "num_fewshot: 1\n")
    assert key() != before == {**key(), "digest": before["digest"]}
    write_task("multiple_choice")
    assert key() == before
    data = tmp_path / "documents.jsonl"
    data.write_text(data.read_text().replace("boat", "hill"))
    assert key() != before


def test_examples_are_the_same_for_every_model(
    write_task: Callable[..., Path], make_model: MakeModel, tmp_path: Path
) -> None:
    skill = read_lm_eval_skill(str(write_task("generate_until", "num_fewshot: 2\n")), None, 1)
    requests: list[list[Any]] = []
    for seed in (0, 1):
        skill.rows(subject(make_model(f"m{seed}", seed), tmp_path))
        requests.append([instance.args for instance in skill.task.instances])
    assert requests[0] == requests[1]
    assert requests[0][0][0].count("code of") == 3


def test_what_a_model_has_no_positions_for_is_not_evaluated(
    write_task: Callable[..., Path], make_model: MakeModel, tmp_path: Path
) -> None:
    path = write_task("multiple_choice")
    data = tmp_path / "documents.jsonl"
    longer = {"text": "the code " * 20, "word": "you", "label": 0}
    data.write_text(data.read_text() + json.dumps(longer) + "\n")
    skill = read_lm_eval_skill(str(path), None, 1)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    rows = skill.rows(subject(make_model(), tmp_path, model.eval()))
    assert [row["status"] for row in rows] == ["ok"] * 9 + ["truncated"]
    assert rows[-1]["score"] is None
    assert "needs 42 tokens, the model has 16 positions" in rows[-1]["reason"]


def test_nothing_is_cut_where_angles_go_on_for_ever(
    write_task: Callable[..., Path], make_model: MakeModel, tmp_path: Path
) -> None:
    path = write_task("multiple_choice")
    data = tmp_path / "documents.jsonl"
    data.write_text(json.dumps({"text": "the code " * 100, "word": "you", "label": 0}) + "\n")
    skill = read_lm_eval_skill(str(path), None, 1)
    who = subject(make_model(max_position_embeddings=32), tmp_path)
    seen: list[int] = []
    who.model.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    (row,) = skill.rows(who)
    assert row["prompt_tokens"] == 202
    assert max(seen) == 201


def test_a_model_that_fails_has_rows_that_say_so(
    write_task: Callable[..., Path], make_model: MakeModel, tmp_path: Path
) -> None:
    skill = read_lm_eval_skill(str(write_task("multiple_choice")), 2, 1)
    who = subject(make_model(), tmp_path)

    def out_of_memory(*_: object) -> None:
        raise RuntimeError("not enough memory")

    who.model.register_forward_pre_hook(out_of_memory)
    rows = skill.rows(who)
    assert [(row["status"], row["score"]) for row in rows] == [("failed", None)] * 2
    unscored = skill.unscored_rows(who.tokenizer, "failed", "RuntimeError: not enough memory")
    assert rows == [{**row, "chat": 0} for row in unscored]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "task: own\ndataset_path: nobody/nothing\noutput_type: generate_until\ntest_split: test\n",
            "own.yaml",
        ),
        ("task: [a, b]\ngroup: many\n", "own.yaml"),
        ("- nothing\n", "own.yaml"),
        ("task: own\ndoc_to_text: !function nowhere.at_all\n", "nowhere"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_lm_eval_skill(str(path), None, 1)
    assert "\n" not in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the task"):
        read_lm_eval_skill(str(tmp_path / "none.yaml"), None, 1)


def test_a_task_of_the_hub_without_its_data_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(lm_eval.tasks.__file__).parent / "arc"  # all of them are as many as take many seconds
    few = partial(TaskManager, include_path=folder)
    monkeypatch.setattr(task, "TaskManager", lambda include_defaults: few(include_defaults=False))
    with pytest.raises(InputError, match=r"arc_easy: cannot be loaded as a task of lm-eval; .*local cache"):
        read_lm_eval_skill("arc_easy", None, 1)
    with pytest.raises(InputError, match=r"no_such_task: cannot be loaded as a task .*not a registered task"):
        read_lm_eval_skill("no_such_task", None, 1)


def test_a_skill_is_a_measure(write_task: Callable[..., Path], make_model: MakeModel, tmp_path: Path) -> None:
    skill = read_lm_eval_skill(str(write_task("generate_until")), None, 1)
    assert isinstance(skill, LmEvalSkill)
    assert skill.ready(tmp_path, "anything")
    assert skill.longest(load_tokenizer(make_model())) == 6


def test_a_task_is_asked_in_the_chat_template(
    write_task: Callable[..., Path], make_model: MakeModel, tmp_path: Path
) -> None:
    folder = make_model()
    (folder / "chat_template.jinja").write_text("{% for m in messages %}the {{ m.content }}{% endfor %} you")
    path = write_task("generate_until")
    plain, chat = (read_lm_eval_skill(str(path), 3, 1, chat) for chat in (False, True))
    assert plain.key() != chat.key()
    assert plain.prompts == chat.prompts  # digests are those of the requests without the template
    rows = {
        skill.chat: evaluate_models(
            [("m", folder)], EvalSpec(measurements=(skill,)), BackendConfig(), tmp_path / f"{skill.chat}.p",
            Silent(),
        ).to_pylist()
        for skill in (plain, chat)
    }  # fmt: skip
    assert [row["chat"] for row in rows[False] + rows[True]] == [0] * 3 + [1] * 3
    longer = [b["prompt_tokens"] - a["prompt_tokens"] for a, b in zip(rows[False], rows[True], strict=True)]
    assert longer == [2] * 3
