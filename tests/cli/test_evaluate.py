"""`contextgraft evaluate` as typed: results on stdout, progress on stderr, one line for a mistake."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from contextgraft.cli.main import main

Run = Callable[..., tuple[int, str, str]]
WORDS = ["<unk>", *["a", "boat", "cave", "code", "is", "of", "red", "blue", "the", "thank", "you"]]
FORMAT = """
name: colours
needle: "code of {key} is {value}"
question: "of {key} is"
keys: [boat, cave]
values: [red, blue]
haystack: filler.txt
"""


def save_model(folder: Path, words: int, seed: int = 0) -> None:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=words, max_position_embeddings=16, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)


def save_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", len(WORDS))
    save_tokenizer(tmp_path / "model")
    (tmp_path / "filler.txt").write_text("a the code " * 60)
    (tmp_path / "colours.yaml").write_text(FORMAT)
    (tmp_path / "polite.jsonl").write_text(json.dumps({"prompt": "the boat", "answer": "thank you"}) + "\n")
    return tmp_path / "model"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Types a command line; exit code, stdout and stderr."""

    def typed(*words: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()  # what fixtures printed
        verb = [] if words[0] == "replay" else ["evaluate"]
        monkeypatch.setattr(sys, "argv", ["contextgraft", *verb, *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return typed


NEEDLE = ["--suite", "needle", "--format", "colours.yaml", "--lengths", "16,64", "--depths", "0,100"]
NEEDLE += ["--samples", "2", "--threads", "1"]
SKILL = ["--suite", "skill", "--skill", "polite.jsonl"]
DOWN = ["--backend", "openai", "--url", "http://127.0.0.1:1/v1/completions", "--batch-size", "1"]
TASK = """
task: ours
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["."]
  max_gen_toks: 2
metric_list:
  - metric: exact_match
"""
SEVERAL = """
multi_value:
  question: "of {key} is"
  answer: "{answers}"
  joiner: " "
"""
RULER = ["--suite", "ruler", "--ruler-lengths", "4096", "--ruler-samples", "1"]
OUT = ["--out", "samples.parquet"]


def test_needle_and_skill_of_two_labelled_models(run: Run, model: Path, tmp_path: Path) -> None:
    code, out, err = run("one=model", "model", *NEEDLE, *SKILL, *OUT, "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert [(row["model"], row["suite"], row["length"], row["n"]) for row in rows] == [
        (label, *rest)
        for label in ("one", "model")
        for rest in (("needle", 16, 4), ("needle", 64, 4), ("skill", None, 1))
    ]
    assert "[1/2] one: 8 needle, 1 skill" in err
    assert pq.read_table(tmp_path / "samples.parquet").num_rows == 18
    code, out, err = run("one=model", "model", *NEEDLE, *SKILL, *OUT)
    assert "[2/2] model: complete already" in err
    assert "95 % interval" in out


def test_measures_follow_and_are_kept(run: Run, model: Path, tmp_path: Path) -> None:
    measures = ["--suite", "perplexity", "--perplexity-lengths", "70", "--documents", "2"]
    measures += ["--suite", "divergence", "--divergence-length", "8", "--divergence-prompts", "3"]
    typed = ["model", *NEEDLE, *measures, *OUT]
    code, out, err = run(*typed, "--json")
    assert code == 0, err
    assert "[1/1] model: 8 needle, 2 perplexity, 3 divergence" in err
    rows = {row["suite"]: row for row in json.loads(out)}
    assert (rows["perplexity"]["task"], rows["perplexity"]["length"]) == ("filler", 70)
    assert (rows["perplexity"]["n"], rows["perplexity"]["unit"]) == (2, "nats")
    assert rows["perplexity"]["low"] <= rows["perplexity"]["mean"] <= rows["perplexity"]["high"]
    assert (rows["divergence"]["mean"], rows["divergence"]["n"]) == (0.0, 3)
    code, out, err = run(*typed)
    assert "complete already" in err
    assert "0.0000 nats" in out


def test_a_skill_may_be_a_task_of_lm_eval(run: Run, model: Path, tmp_path: Path) -> None:
    rows = [{"question": "the boat", "answer": "thank you"}, {"question": "the cave", "answer": "red"}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "polite.yaml").write_text(TASK.format(data=tmp_path / "data.jsonl"))
    code, out, err = run(
        "model", "--suite", "skill", "--skill", "polite.yaml", "--trust-tasks", *OUT, "--json"
    )
    assert code == 0, err
    assert [(row["suite"], row["task"], row["n"]) for row in json.loads(out)] == [("skill", "ours", 2)]


EVIL_TASK = """
task: evil
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/data.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{ cycler.__init__.__globals__.os.system('touch {folder}/PWNED') }}}}"
doc_to_target: {target}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.mark.parametrize("name", ["t.yaml", "t.YML", "./t.yaml:exact_match", "tasks/t.yaml", "tasks"])
@pytest.mark.parametrize("more", [["--plan"], OUT, ["--replay", "samples.parquet:0"]])
def test_a_task_file_runs_nothing_unless_it_is_trusted(
    run: Run, model: Path, tmp_path: Path, name: str, more: list[str]
) -> None:
    (tmp_path / "data.jsonl").write_text('{"a": "b"}\n')
    (tmp_path / "tasks").mkdir()
    (tmp_path / "utils.py").write_text("open('PWNED', 'w')\ndef f(doc): return ''\n")
    text = EVIL_TASK.format(folder=tmp_path, target="!function utils.f")
    for path in ("t.yaml", "t.YML", "tasks/t.yaml"):
        (tmp_path / path).write_text(text)
    code, _, err = run("model", "--suite", "skill", "--skill", name, "--skill-samples", 1, *more)
    assert code == 2
    assert not (tmp_path / "PWNED").exists()
    if "--replay" not in more:
        assert "--trust-tasks" in err or "is not a skill file" in err


def test_a_plan_says_what_would_be_asked_and_computed(run: Run, model: Path, tmp_path: Path) -> None:
    shared = [*NEEDLE, "--depths", "0,50,100", "--distractors", "1", "--lengths", "64"]
    code, out, err = run("model", *shared, "--suite", "perplexity", "--plan", "--json")
    assert code == 0, err
    needle, perplexity = json.loads(out)
    assert (needle["units"], needle["prompt_tokens"], needle["generated"]) == (6, 6 * 63, 6)
    assert needle["prefilled"] <= needle["prompt_tokens"]
    assert (perplexity["units"], perplexity["prompt_tokens"]) == (8, 8 * 64)
    code, out, err = run("model", *shared, "--plan")
    assert "to prefill" in out
    assert not list(tmp_path.glob("*samples.parquet*"))


def test_a_server_plans_its_own_prefill(run: Run, model: Path) -> None:
    server = ["--backend", "openai", "--url", "http://127.0.0.1:1/v1/completions"]
    code, out, err = run("model", *NEEDLE, *server, "--plan", "--json")
    assert code == 0, err
    assert json.loads(out)[0]["prefilled"] is None


def test_needles_of_several_kinds_and_haystacks(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("you thank the " * 60)
    (tmp_path / "colours.yaml").write_text(FORMAT + SEVERAL)
    kinds = ["--kind", "single", "--kind", "multi_value", "--count", "2"]
    code, out, err = run(
        "model", *NEEDLE, *kinds, "--haystack", "filler.txt", "--haystack", "other.txt", *OUT
    )
    assert code == 0, err
    assert "multi_value, other.txt" in out
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert {(row["kind"], row["haystack"]) for row in rows} == {
        (kind, haystack) for kind in ("single", "multi_value") for haystack in ("filler.txt", "other.txt")
    }
    assert {row["scoring"] for row in rows if row["kind"] == "multi_value"} == {"recall"}


def test_tasks_of_ruler_are_asked_and_asked_again(run: Run, model: Path, tmp_path: Path) -> None:
    code, _, err = run("model", *RULER, "--ruler-task", "vt", *OUT)
    assert (code, "the model's tokenizer lacks its words" in err) == (2, True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path / "model")
    save_model(tmp_path / "model", len(letters))
    tasks = ["--ruler-task", "vt", "--ruler-task", "fwe"]
    code, out, err = run("model", *RULER, *tasks, *OUT)
    assert code == 0, err
    assert "[1/1] model: 2 ruler" in err
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert [(row["task"], row["length"], row["status"]) for row in rows] == [
        ("vt", 4096, "ok"),
        ("fwe", 4096, "ok"),
    ]
    code, out, err = run("model", "--replay", "samples.parquet:1")
    assert (code, out.splitlines()[-1]) == (0, "the same"), err


def test_a_sample_is_asked_again(run: Run, model: Path, tmp_path: Path) -> None:
    code, _, err = run("model", *NEEDLE, *SKILL, *OUT)
    assert code == 0, err
    last = ["--replay", "samples.parquet:8"]
    code, out, err = run("model", "--replay", "samples.parquet:0", "--format", "colours.yaml")
    assert (code, out.splitlines()[-1]) == (0, "the same"), err
    assert out.startswith("model: needle colours, length 16, depth 0 %")
    code, out, err = run("model", *last, "--skill", "polite.jsonl", "--show-prompt")
    assert (code, "the boat" in out) == (0, True)
    code, out, err = run("model", *last, "--skill", "polite.jsonl", "--json")
    assert (code, json.loads(out)["agrees"]) == (0, True)
    code, _, err = run("model", *last)
    assert (code, "the row is of a skill" in err) == (2, True)
    table = pq.read_table(tmp_path / "samples.parquet")
    place = table.schema.get_field_index("output")
    pq.write_table(table.set_column(place, "output", [["it was not"] * 9]), tmp_path / "samples.parquet")
    code, out, err = run("model", *last, "--skill", "polite.jsonl")
    assert (code, out.splitlines()[-1]) == (1, "not the same")


def test_a_measured_sample_is_measured_again(run: Run, model: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "other", len(WORDS), seed=5)
    save_tokenizer(tmp_path / "other")
    text = ["--text", "filler.txt"]
    suites = [
        "--suite",
        "perplexity",
        "--perplexity-lengths",
        "20",
        "--documents",
        "2",
        "--suite",
        "divergence",
    ]
    prompts = ["--divergence-length", "8", "--divergence-prompts", "2"]
    code, _, err = run("model", "other", *suites, *prompts, *text, *OUT)
    assert code == 0, err
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    for number, row in enumerate(rows):
        code, out, err = run(row["model"], "model", "--replay", f"samples.parquet:{number}", *text)
        assert (code, out.splitlines()[-1]) == (0, "the same"), err
        assert out.splitlines()[2] == f"recorded  {row['scoring']} {row['score']:.6f}"
    last = ["--replay", f"samples.parquet:{len(rows) - 1}", *text]
    code, _, err = run("other", *last)
    assert (code, "pass that reference model as a second MODEL" in err) == (2, True)
    code, _, err = run("other", "model", *last[:2], "--text", "polite.jsonl")
    assert (code, "the text is not what the row was measured on" in err) == (2, True)


CONFIG = """
needle: {format: colours.yaml, lengths: [16, 64], depths: [0, 100], samples: 2}
perplexity: {lengths: [20], documents: 2}
seed: 3
"""
STUDY = """
study: s
base: model
donor: {source: model}
fine_tunes: sheet.tsv
ranks: [1]
evaluation:
  needle: {format: other.yaml, lengths: [16], depths: [0, 100], samples: 2, seed: 3}
  divergence: {length: 8, prompts: 2}
  skill: {samples: 1}
"""


def test_a_file_says_what_is_evaluated_and_flags_change_it(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "needles.yaml").write_text(CONFIG)
    code, out, err = run("model", "--config", "needles.yaml", "--threads", 1, *OUT, "--json")
    assert code == 0, err
    assert [(row["suite"], row["length"], row["n"]) for row in json.loads(out)] == [
        ("needle", 16, 4),
        ("needle", 64, 4),
        ("perplexity", 20, 2),
    ]
    flags = [*NEEDLE, "--seed", "3", "--suite", "perplexity", "--perplexity-lengths", 20, "--documents", 2]
    code, _, err = run("model", *flags, *OUT)
    assert (code, "complete already" in err) == (0, True)
    changed = ["--config", "needles.yaml", "--suite", "needle", "--lengths", 40]
    code, out, err = run("model", *changed, *OUT, "--json")
    assert code == 0, err
    assert [(row["suite"], row["length"], row["n"]) for row in json.loads(out)] == [("needle", 40, 4)]
    code, out, err = run("replay", "samples.parquet", 2, "model", "--config", "needles.yaml")
    assert (code, out.splitlines()[-1]) == (0, "the same"), err


def test_a_study_says_what_a_fine_tune_is_evaluated_on(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "other.yaml").write_text(FORMAT.replace("colours", "others"))
    (tmp_path / "sheet.tsv").write_text(
        "name\tsource\tneedle\tskill\ntune\tmodel\tcolours.yaml\tpolite.jsonl\n"
    )
    study = ["--config", "study.yaml", "--fine-tune", "tune"]
    code, out, err = run("graft=model", "tune=model", *study, *OUT, "--json")
    assert code == 0, err
    assert [(row["model"], row["suite"], row["task"], row["n"]) for row in json.loads(out)] == [
        (label, *rest)
        for label in ("graft", "tune")
        for rest in (("needle", "colours", 4), ("skill", "polite", 1), ("divergence", "filler", 2))
    ]
    code, _, err = run("graft=model", *study, *OUT)
    assert (code, "no model has the label of --reference; expected graft; received tune" in err) == (2, True)
    code, out, err = run("graft=model", "--config", "study.yaml", *OUT, "--dry-run", "--json")
    assert code == 0, err
    assert [row["suite"] for row in json.loads(out)] == ["needle", "divergence"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["model", "--config", "none.yaml", *OUT], "none.yaml: cannot read the configuration"),
        (
            ["model", "--config", "colours.yaml", *OUT],
            "colours.yaml: needle: Input should be a valid dictionary",
        ),
        (["model", "--fine-tune", "tune", *OUT], "--fine-tune needs a study"),
        (["replay", "none.parquet", "3", "model"], "none.parquet: cannot read the samples"),
        (["replay", "none.parquet", "-1", "model"], "No such option"),
        (["nowhere", *NEEDLE, *OUT], "nowhere: no such model folder"),
        (["=model", *NEEDLE, *OUT], "the label is empty"),
        (["model", "--suite", "riddles", *OUT], "'riddles' is not one of"),
        (["model", *NEEDLE, "--lengths", "16,x", *OUT], "'x' is not a valid integer"),
        (["model", *NEEDLE, "--lengths", "16,16", *OUT], "repeats a number"),
        (["model", *NEEDLE, "--lengths", "0", *OUT], "0 is not in the range"),
        (["model", *NEEDLE, "--depths", "0,101", *OUT], "101.0 is not in the range"),
        (["model", *NEEDLE, "--lengths", "4", *OUT], "does not fit the length"),
        (["model", *NEEDLE, "--distractors", "2", *OUT], "too few keys for the needles"),
        (["model", *NEEDLE, "--format", "none.yaml", *OUT], "none.yaml: cannot read"),
        (["model", *OUT], "no --suite given"),
        (["model", "--suite", "needle", *OUT], "--suite needle needs lengths"),
        (["model", "--suite", "perplexity", *OUT], "--suite perplexity needs lengths"),
        (["model", *NEEDLE], "--out is required"),
        (["model", *NEEDLE, *OUT, "--reference", "other"], "no model has the label of --reference"),
        (["model", *NEEDLE, *OUT, "--backend", "abacus"], "'abacus' is not one of"),
        (["model", *NEEDLE, *OUT, "--url", "http://127.0.0.1:1"], "cannot be combined"),
        (["model", *NEEDLE, *OUT, "--backend", "openai"], "cannot be combined"),
        (["model", *NEEDLE, *OUT, *DOWN], "http://127.0.0.1:1/v1/completions: the server cannot be used"),
        (["model", "--suite", "divergence", "--text", "none.txt", *OUT], "none.txt: cannot read"),
        (["model", "--suite", "skill", "--skill", "none.yaml", *OUT], "none.yaml"),
        (["model", "--suite", "skill", *OUT], "--suite skill needs a skill"),
        (["model", *SKILL, "--skill-samples", "2", *OUT], "fewer lines than samples"),
        (["model", "--suite", "skill", "--skill", "none.jsonl", *OUT], "none.jsonl: cannot read"),
        (["model", *NEEDLE, "--out", "missing/samples.parquet"], "its folder does not exist"),
        (["model", *NEEDLE, "--out", "model"], "model: is a folder"),
        (["model", *NEEDLE, "--out", "filler.txt"], "filler.txt: is not a table of samples"),
        (["model", *NEEDLE, "--device", "toaster", *OUT], "no such device"),
        (["model", "model", *NEEDLE, *OUT], "two models are labelled 'model'"),
        (["model", "--suite", "needle", "--lengths", "64", *OUT], "lacks its words"),
        (["model", *NEEDLE, *OUT, "--kind", "riddle"], "'riddle' is not one of"),
        (["model", *NEEDLE, *OUT, "--kind", "chain"], "colours"),
        (["model", *NEEDLE, *OUT, "--haystack", "none.txt"], "none.txt: cannot read"),
        (["model", "--suite", "ruler", *OUT], "--suite ruler needs lengths"),
        (["model", *RULER, "--ruler-task", "sums", *OUT], "sums"),
        (["model", *RULER, "--ruler-task", "qa_1", *OUT], "qa_1 needs a data set"),
        (["model", *RULER, "--qa-1", "none.json", *OUT], "none.json"),
        (["model", "--replay", "samples.parquet"], "does not name a sample"),
        (["model", "--replay", "none.parquet:3"], "none.parquet: cannot read the samples"),
        (["model", "model", "model", "--replay", "none.parquet:3"], "a sample is of one model"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    run: Run, model: Path, tmp_path: Path, words: list[str], complaint: str
) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert complaint in err.strip().splitlines()[-1]
    assert "Traceback" not in err
    assert not list(tmp_path.glob("*samples.parquet*"))


def test_the_work_folder_goes_when_nothing_was_done(run: Run, model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").write_bytes(b"short")
    code, _, err = run("model", *NEEDLE, *OUT)
    assert code == 2, err
    assert len(err.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
