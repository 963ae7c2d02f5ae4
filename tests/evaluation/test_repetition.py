"""Long answers: whether they end by themselves, what they repeat; readers, replay, truth by transformers."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.evaluation.conftest import FILLER, WORDS, MakeModel, save_tokenizer
from tests.evaluation.test_run import Notes
from transformers import LlamaForCausalLM
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5ForCausalLM

from contextgraft.config.evaluation import EvaluationConfig, RepetitionSection, SkillSection
from contextgraft.errors import InputError
from contextgraft.evaluation.backends.base import GenerationRequest
from contextgraft.evaluation.backends.generation import end_tokens
from contextgraft.evaluation.backends.registry import BackendConfig
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.backends.transformers import TransformersBackend
from contextgraft.evaluation.replay import read_row, replay_sample
from contextgraft.evaluation.run import evaluate_models
from contextgraft.evaluation.spec import build_spec, narrowed_config
from contextgraft.evaluation.suites import SUITES, repetition
from contextgraft.evaluation.suites.base import LoadedModel
from contextgraft.evaluation.suites.repetition import RepetitionMeasurement, repeated_share

TOKENS, LENGTH = 12, 60
END = WORDS.index("door")


@pytest.fixture
def config(skill_file: Path, tmp_path: Path) -> EvaluationConfig:
    text = tmp_path / "text.txt"
    text.write_text(f"{' '.join(FILLER)} . " * 30)
    return EvaluationConfig(
        skill=SkillSection(skills=[str(skill_file)]),
        repetition=RepetitionSection(lengths=[LENGTH], samples=3, tokens=TOKENS),
        text=str(text),
        seed=3,
        suites=["repetition"],
    )


@pytest.mark.parametrize(
    ("ids", "share"),
    [([1, 2, 3], 0.0), ([1, 2, 3, 4, 5], 0.0), ([7] * 11, 7 / 8), ([1, 2, 3, 4, 1, 2, 3, 4], 1 / 5)],
)
def test_repeated_ngrams_are_counted(ids: list[int], share: float) -> None:
    assert repeated_share(ids) == pytest.approx(share)


def test_long_prompts_end_with_the_short_ones(config: EvaluationConfig, tokens: PromptTokenizer) -> None:
    (measurement,) = build_spec(config).measurements
    assert isinstance(measurement, RepetitionMeasurement)
    prompts = measurement.prompts(tokens)
    short, long = prompts[:3], prompts[3:]
    assert len(measurement) == len(prompts) == 6
    assert {prompt.length for prompt in short} == {None}
    for a, b in zip(short, long, strict=True):
        assert b.ids[-len(a.ids) :] == a.ids
        assert len(b.ids) + TOKENS == b.length == LENGTH
    assert measurement.longest(tokens) == LENGTH
    assert [(item.length, item.answer) for item in SUITES["repetition"].planned(config)] == [
        (LENGTH, TOKENS),
        (LENGTH, TOKENS),
    ]
    assert measurement.answer_tokens() == 6 * TOKENS
    with pytest.raises(InputError, match="does not fit the length"):
        build_spec(config.with_section("repetition", lengths=[14])).measurements[0].check(tokens)


def answers(loops_from: int) -> Any:
    """A reader that ends after three words, but repeats one word where a prompt has that many tokens."""

    def generate(_: LoadedModel, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, list[int]]]:
        for index, request in enumerate(requests):
            loops = len(request.prompt_ids) >= loops_from
            yield index, [1] * request.max_new_tokens if loops else [1, 2, 3, END]

    return generate


@pytest.mark.parametrize("case", [(999, 1, 1), (30, 1, 0), (0, 0, 0)])
def test_readers_get_the_scores_that_they_must(
    config: EvaluationConfig, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, case: tuple[int, ...]
) -> None:
    loops_from, short, long = case
    monkeypatch.setattr(repetition, "generated_ids", answers(loops_from))
    rows = evaluate(config, make_model(eos_token_id=END), Path(str(config.text)).parent / "rows.parquet")
    repeated = (TOKENS - 4) / (TOKENS - 3)  # of the 4-grams of twelve equal words all but the first
    for length, ended in ((None, short), (LENGTH, long)):
        own = {(row["scoring"], row["score"]) for row in rows if row["length"] == length}
        assert own == {("ended", float(ended)), ("rep-4", 0.0 if ended else repeated)}


def evaluate(config: EvaluationConfig, folder: Path, out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = evaluate_models(
        [("tiny", folder)], build_spec(config), BackendConfig(), out, Notes()
    ).to_pylist()
    return rows


def test_rows_are_those_of_transformers_and_are_replayed(
    config: EvaluationConfig, make_model: MakeModel, tmp_path: Path
) -> None:
    folder, out = make_model(), tmp_path / "rows.parquet"
    (measurement,) = build_spec(config).measurements
    assert isinstance(measurement, RepetitionMeasurement)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = evaluate(config, folder, out)
    assert {(row["status"], row["reason"]) for row in rows if row["scoring"] == "ended"} == {
        ("skipped", "the model has no end token")
    }
    tokens = opened_tokenizer(folder)
    prompts = measurement.prompts(tokens)
    # an end token that some answer has: the third one of the first answer
    end = int(greedy(model, prompts[0].ids, None)[2])
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "eos_token_id": end}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    rows = evaluate(config, folder, out)
    for prompt, (ended, repeated) in zip(prompts, zip(rows[::2], rows[1::2], strict=True), strict=True):
        ids = greedy(model, prompt.ids, end)
        assert (ended["score"], ended["tokens"]) == (float(ids[-1] == end), len(ids))
        own = ids[:-1] if ids[-1] == end else ids
        assert repeated["score"] == pytest.approx(repeated_share(own))
        assert ended["output"] == repeated["output"] == tokens.decode(own)
    assert rows[0]["score"] == 1.0
    for number in (1, 6):
        spec = build_spec(narrowed_config(config, rows[number]))
        assert replay_sample(read_row(out, number), folder, spec, BackendConfig()).agrees


def save_recurrent_model(folder: Path) -> None:
    """A model whose cache cannot be passed on, so that transformers' own `generate` runs it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "head_dim": 16, "num_attention_heads": 2}
    sizes |= {f"linear_{name}_head_dim": 8 for name in ("key", "value")}
    sizes |= {f"linear_num_{name}_heads": 2 for name in ("key", "value")}
    settings = Qwen3_5TextConfig(
        vocab_size=len(WORDS), num_key_value_heads=1, num_hidden_layers=2, max_position_embeddings=128,
        layer_types=["linear_attention", "full_attention"],
        bos_token_id=None, eos_token_id=None, pad_token_id=None, **sizes,
    )  # fmt: skip
    Qwen3_5ForCausalLM(settings).to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(folder, WORDS)


def test_answers_leave_the_end_tokens_of_a_model_as_they_were(tmp_path: Path) -> None:
    save_recurrent_model(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [END]}))
    model, tokenizer = Qwen3_5ForCausalLM.from_pretrained(tmp_path), opened_tokenizer(tmp_path).limited
    backend = TransformersBackend(model, tokenizer, batch_size=1, longest=8, prefill_chunk=8)
    assert next(backend.generations([GenerationRequest((1, 2, 3), 2)]))[0] == 0
    assert end_tokens(model, tokenizer) == {END}


@pytest.mark.slow
def test_a_suite_that_ran_before_changes_no_end_token(config: EvaluationConfig, tmp_path: Path) -> None:
    folder = tmp_path / "recurrent"
    save_recurrent_model(folder)
    outputs = [row["output"] for row in evaluate(config, folder, tmp_path / "first.parquet")]
    end = WORDS.index(outputs[0].split()[3])
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [end]}))
    alone = evaluate(config, folder, tmp_path / "alone.parquet")
    assert alone[0]["tokens"] == 4
    assert {row["score"] for row in alone if row["scoring"] == "ended"} == {0.0, 1.0}
    both = config.model_copy(update={"suites": ["skill", "repetition"]})
    rows = evaluate(both, folder, tmp_path / "both.parquet")
    assert {row["suite"] for row in rows} == {"skill", "repetition"}
    assert [row for row in rows if row["suite"] == "repetition"] == alone


def opened_tokenizer(folder: Path) -> PromptTokenizer:
    from contextgraft.evaluation.backends.tokenizer import load_tokenizer

    return load_tokenizer(folder)


def greedy(model: Any, ids: Sequence[int], end: int | None) -> list[int]:
    """The answer by transformers' own generate."""
    prompt = torch.tensor([ids])
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=TOKENS,
        eos_token_id=end, pad_token_id=0,
    )  # fmt: skip
    return [int(token) for token in out[0, len(ids) :]]


def test_another_skill_or_text_is_refused(config: EvaluationConfig, tokens: PromptTokenizer) -> None:
    (measurement,) = build_spec(config).measurements
    row = measurement.unscored_rows(tokens, "skipped", "x")[-1]
    assert measurement.narrowed(row)
    for change in ({"sha256": "x"}, {"text_sha256": "x"}):
        recipe = json.dumps({**json.loads(row["recipe"]), **change})
        with pytest.raises(InputError, match="not what the row was measured on"):
            measurement.narrowed({**row, "recipe": recipe})
    assert config.model_copy(update={"skill": None, "suites": None}).selected_suites == ()
