"""LongPPL: which tokens are key tokens, their loss, the recorded reference, replay."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow.parquet as pq
import pytest
import torch
from tests.evaluation.conftest import FILLER, WORDS, MakeModel
from tests.evaluation.test_run import Notes
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from contextgraft.config.evaluation import EvaluationConfig, LongPerplexitySection
from contextgraft.errors import ConfigError, InputError
from contextgraft.evaluation.backends import loading, registry
from contextgraft.evaluation.backends.loading import load_model
from contextgraft.evaluation.backends.registry import BackendConfig
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.models import open_eval_model
from contextgraft.evaluation.replay import read_row, replay_sample
from contextgraft.evaluation.run import evaluate_models
from contextgraft.evaluation.spec import build_spec, narrowed_config
from contextgraft.evaluation.suites.long_perplexity import key_tokens
from contextgraft.evaluation.suites.long_perplexity.key_tokens import is_key, key_positions
from contextgraft.evaluation.suites.long_perplexity.reference import read_key_tokens, write_key_tokens
from contextgraft.evaluation.suites.long_perplexity.suite import LongPerplexityMeasurement
from contextgraft.evaluation.summary import summarise

LENGTH, SHORT = 48, 16


def reader(reach: int) -> Any:
    """A model that knows every token it saw within `reach` tokens, and is surprised by all others."""

    def nats(_: Any, ids_BT: torch.Tensor) -> torch.Tensor:
        (ids,) = ids_BT.tolist()
        seen = [token in ids[max(0, at - reach) : at] for at, token in enumerate(ids)]
        return torch.tensor([[0.1 if known else 5.0 for known in seen[1:]]])

    return nats


def test_a_token_is_key_by_both_thresholds() -> None:
    long_T, short_T = torch.tensor([-0.5, -2.5, -0.5, -1.9]), torch.tensor([-3.0, -9.0, -2.4, -4.0])
    assert is_key(long_T, short_T).tolist() == [True, False, False, True]


def test_readers_name_the_tokens_that_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    # tokens 0 to 9, then new ones, then 3 and 7 again, far away, and 55 again, near
    ids = [*range(10), *range(50, 80), 3, 7, 78, *range(90, 95)]
    monkeypatch.setattr(key_tokens, "negative_log_likelihoods", reader(999))
    assert key_positions(None, ids, SHORT, 0) == [40, 41]
    monkeypatch.setattr(key_tokens, "negative_log_likelihoods", reader(12))
    assert key_positions(None, ids, SHORT, 0) == []


def test_the_short_context_keeps_the_begin_token(monkeypatch: pytest.MonkeyPatch) -> None:
    # token 0 again, which the short context has only as its begin token, and 3 again
    ids = [*range(10), *range(50, 80), 0, 3, *range(90, 95)]
    monkeypatch.setattr(key_tokens, "negative_log_likelihoods", reader(999))
    assert key_positions(None, ids, SHORT, 0) == [40, 41]
    assert key_positions(None, ids, SHORT, 1) == [41]


@pytest.fixture
def config(make_model: MakeModel, tmp_path: Path) -> EvaluationConfig:
    text = tmp_path / "text.txt"
    text.write_text(f"{' '.join(FILLER)} . " * 30)
    folder = make_model("reference", seed=5, hidden_size=32, initializer_range=0.2)
    section = LongPerplexitySection(lengths=[LENGTH], documents=2, short=SHORT, reference=str(folder))
    return EvaluationConfig(long_perplexity=section, text=str(text), seed=3)


def evaluate(config: EvaluationConfig, folders: Sequence[Path], out: Path) -> list[dict[str, Any]]:
    models = [(folder.name, folder) for folder in folders]
    table = evaluate_models(models, build_spec(config), BackendConfig(), out, Notes())
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_key_tokens_and_loss_are_those_of_two_whole_passes(
    config: EvaluationConfig, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_tokens, "MIN_GAIN", 0.01)  # the differences of an untrained model are small
    monkeypatch.setattr(key_tokens, "MIN_LOGPROB", -9.0)
    folder, out = make_model("tiny"), tmp_path / "rows.parquet"
    reference_path = reference_folder(config)
    rows = evaluate(config, [folder, reference_path], out)
    reference, model = (
        LlamaForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (reference_path, folder)
    )
    digest = open_eval_model(None, reference_path).digest
    assert {(row["reference_digest"], row["scoring"]) for row in rows} == {(digest, "longppl")}
    (measurement,) = build_spec(config).measurements
    windows = measurement.source.prompts(open_eval_model(None, folder).tokenizer)  # type: ignore[attr-defined]
    for row, window in zip(rows[:2], windows, strict=True):
        long_T = logprobs(reference, window.ids)
        keys = []
        for at in range(SHORT, LENGTH):
            end = min(SHORT + ((at - SHORT) // 4 + 1) * 4, LENGTH)
            short_T = logprobs(reference, window.ids[end - SHORT : end])
            if long_T[at - 1] - short_T[at - end] > 0.01:
                keys.append(at)
        assert keys
        expected = -logprobs(model, window.ids)[[at - 1 for at in keys]].mean()
        assert (row["tokens"], row["score"]) == (len(keys), pytest.approx(float(expected), abs=1e-5))
    assert [row["tokens"] for row in rows[2:]] == [row["tokens"] for row in rows[:2]]
    spec = build_spec(narrowed_config(config, rows[1]))
    assert replay_sample(read_row(out, 1), folder, spec, BackendConfig(), reference_path).agrees
    (score, *_) = summarise(pq.read_table(out))
    assert (score.unit, score.n, score.missing) == ("nats", 2, 0)


def logprobs(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Log-probability of every token but the first, from one pass."""
    with torch.inference_mode():
        logs_TV = model(torch.tensor([ids])).logits[0, :-1].log_softmax(dim=-1)
    logs_T: torch.Tensor = logs_TV.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return logs_T


def test_a_window_without_key_tokens_and_mistakes_say_so(
    config: EvaluationConfig, make_model: MakeModel, tmp_path: Path
) -> None:
    folder = make_model("tiny")
    rows = evaluate(config, [folder], tmp_path / "rows.parquet")
    assert {(row["status"], row["tokens"]) for row in rows} == {("skipped", 0)}
    other = config.with_section("long_perplexity", reference=str(folder))
    with pytest.raises(InputError, match="not the reference"):
        build_spec(other).measurements[0].narrowed(rows[0])
    recipe = json.loads(rows[0]["recipe"])
    assert (recipe["short"], recipe["digest"]) == (SHORT, rows[0]["reference_digest"])
    with pytest.raises(InputError, match="no far context"):
        evaluate(config.with_section("long_perplexity", short=LENGTH), [folder], tmp_path / "x.parquet")
    with pytest.raises(InputError, match="chooses the key tokens"):
        build_spec(config.with_section("long_perplexity", reference=None))


def test_no_model_is_refused_for_a_reference_that_cannot_be_loaded(
    config: EvaluationConfig, make_model: MakeModel, tmp_path: Path
) -> None:
    edited(reference_folder(config), hidden_act="nosuch")
    with pytest.raises(ConfigError, match=r"reference: the reference of long_perplexity cannot be used"):
        evaluate_models(
            [("tiny", make_model("tiny"))], build_spec(config), BackendConfig(), tmp_path / "rows.parquet",
            Notes(), allow_refused=True,
        )  # fmt: skip
    assert not (tmp_path / "rows.parquet").exists()


def test_a_reference_whose_tokenizer_lacks_words_refuses_no_model(
    config: EvaluationConfig, make_model: MakeModel, tokens: PromptTokenizer
) -> None:
    other = config.with_section("long_perplexity", reference=str(make_model("few", words=["<unk>", "it"])))
    (measurement,) = build_spec(other).measurements
    assert isinstance(measurement, LongPerplexityMeasurement)
    windows = measurement.source.prompts(tokens)
    with pytest.raises(InputError, match="words that the model's tokenizer lacks"):
        measurement.source.prompts(measurement.reference.model.tokenizer)
    assert not measurement.has_tokens_of_reference(windows)


def reference_folder(config: EvaluationConfig) -> Path:
    assert config.long_perplexity
    return Path(str(config.long_perplexity.reference))


def small_embedding(make_model: MakeModel) -> Path:
    return make_model("small", vocab_size=20)


def few_positions(make_model: MakeModel) -> Path:
    folder = make_model("positions")
    settings = GPT2Config(
        vocab_size=len(WORDS), n_embd=16, n_head=2, n_layer=1, n_positions=32, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    GPT2LMHeadModel(settings).save_pretrained(folder)
    return folder


def unknown_activation(make_model: MakeModel) -> Path:
    return edited(make_model("activation"), hidden_act="nosuch")


def missing_folder(make_model: MakeModel) -> Path:
    return make_model("whole").with_name("missing")


def edited(folder: Path, **changes: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


@pytest.mark.parametrize("broken", [small_embedding, few_positions, unknown_activation, missing_folder])
def test_a_reference_that_cannot_be_used_refuses_no_model(
    broken: Callable[[MakeModel], Path], config: EvaluationConfig, make_model: MakeModel, tmp_path: Path
) -> None:
    other = config.with_section("long_perplexity", reference=str(broken(make_model)))
    out = tmp_path / "rows.parquet"
    with pytest.raises(ConfigError, match="the reference of long_perplexity cannot be used"):
        evaluate_models(
            [("m", make_model())], build_spec(other), BackendConfig(), out, Notes(), allow_refused=True
        )
    assert not out.exists()
    with pytest.raises(ConfigError, match="no far context"):
        evaluate(config.with_section("long_perplexity", short=LENGTH), [tmp_path / "tiny"], out)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Folder and dtype of every model that is loaded for its key tokens, or to be evaluated."""
    calls = []

    def load(path: Path, device: torch.device, dtype: str, tensors: Any = None) -> Any:
        calls.append((path.name, dtype))
        return load_model(path, device, dtype, tensors)

    monkeypatch.setattr(loading, "load_model", load)
    monkeypatch.setattr(registry, "load_model", load)
    monkeypatch.setattr(key_tokens, "MIN_GAIN", 0.01)
    monkeypatch.setattr(key_tokens, "MIN_LOGPROB", -9.0)
    return calls


def test_the_reference_is_loaded_once_and_first(
    config: EvaluationConfig, make_model: MakeModel, tmp_path: Path, loaded: list[tuple[str, str]]
) -> None:
    several = config.with_section("long_perplexity", lengths=[32, 40, LENGTH])
    folders, out = [make_model("a"), make_model("b", seed=1)], tmp_path / "rows.parquet"
    rows = evaluate(several, folders, out)
    assert [name for name, _ in loaded] == ["reference", "a", "b"]
    assert {row["status"] for row in rows} == {"ok"}
    loaded.clear()
    spec = build_spec(narrowed_config(several, rows[3]))
    assert replay_sample(read_row(out, 3), folders[0], spec, BackendConfig()).agrees
    assert [name for name, _ in loaded] == ["reference", "a"]


def interrupt(config: EvaluationConfig, folder: Path, out: Path) -> Path:
    """The key tokens that a run left which was interrupted when it had chosen them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LongPerplexityMeasurement, "rows", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            evaluate(config, [folder], out)
    (file,) = (out.parent / f".{out.name}.partial").glob("key-tokens-*.json")
    return file


def scores(rows: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    return [(row["tokens"], row["score"]) for row in rows]


def moved(content: bytes) -> bytes:
    record = json.loads(content)
    keys = next(keys for keys in record["keys"].values() if keys)
    keys[0] += 1
    return json.dumps(record).encode()


@pytest.mark.parametrize("spoil", [lambda keys: keys[:9], moved, lambda _: b"[" * 9999, lambda _: b"[]"])
def test_spoiled_key_tokens_are_none(spoil: Callable[[bytes], bytes], tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    write_key_tokens(file, {"window": [17, 30], "other": []})
    assert read_key_tokens(file) == {"window": [17, 30], "other": []}
    file.write_bytes(spoil(file.read_bytes()))
    assert read_key_tokens(file) is None


def test_key_tokens_of_an_interrupted_run_are_kept_if_nobody_changed_them(
    config: EvaluationConfig, make_model: MakeModel, tmp_path: Path, loaded: list[tuple[str, str]]
) -> None:
    folder, out = make_model(), tmp_path / "rows.parquet"
    interrupt(config, folder, out)
    loaded.clear()
    whole = scores(evaluate(config, [folder], out))
    assert loaded == [("tiny", "float32")]
    out.unlink()
    file = interrupt(config, folder, out)
    file.write_bytes(moved(file.read_bytes()))
    assert scores(evaluate(config, [folder], out)) == whole


@pytest.mark.slow
def test_key_tokens_belong_to_a_dtype_and_to_a_config_of_the_reference(
    config: EvaluationConfig, make_model: MakeModel, tmp_path: Path, loaded: list[tuple[str, str]]
) -> None:
    folder, out = make_model(), tmp_path / "rows.parquet"
    interrupt(config, folder, out)
    half = BackendConfig(dtype="bfloat16")
    evaluate_models([("m", folder)], build_spec(config), half, out, Notes())
    assert loaded[-2:] == [("reference", "bfloat16"), ("tiny", "bfloat16")]
    before = scores(evaluate(config, [folder], out))
    edited(reference_folder(config), rms_norm_eps=10.0)
    after = scores(evaluate(config, [folder], out))
    assert after == scores(evaluate(config, [folder], tmp_path / "other.parquet"))
    assert after != before
