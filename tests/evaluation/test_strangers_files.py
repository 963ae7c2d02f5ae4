"""What is wrong with one fine-tune is one refusal, whatever a library raises, and the others go on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contextgraft.errors import CheckpointError, ContextgraftError
from contextgraft.evaluation.backends.registry import BackendConfig
from contextgraft.evaluation.backends.tokenizer import load_tokenizer
from contextgraft.evaluation.run import evaluate_models
from contextgraft.evaluation.spec import EvalSpec
from contextgraft.evaluation.suites.skill_file import read_skill_file
from contextgraft.formats.model.limited_process import ProcessBudget, run_limited

MakeModel = Callable[..., Path]
Damage = Callable[[Path], object]
SHORT = ProcessBudget(cpu_seconds=1, memory=1 << 29)


class Silent:
    """Shows nothing."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_args, **_more: None


def values(file: str, **changes: Any) -> Damage:
    """Other values in a JSON file."""

    def damage(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def text(file: str, content: str) -> Damage:
    return lambda folder: (folder / file).write_text(content)


def newer_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"WordLevel"', '"Quux"'))


def record(**changes: Any) -> Damage:
    """The record of a graft."""
    facts = {"name": "x", "digest": "x"}
    adapter = {"base": facts, "donor": facts, "digest": "x", "rank": 4, "scale": 1.0}
    sidecar = {"kind": "graft", "format": 2, "adapters": [adapter], "target": facts, **changes}
    return text("contextgraft.json", json.dumps(sidecar))


CONFIG = "config.json"
UNUSABLE = "config cannot be read|cannot be loaded|cannot be run"
STRANGERS: dict[str, tuple[Damage, str]] = {
    "a tokenizer of a newer library": (newer_tokenizer, "has no tokenizer that can be loaded"),
    "a tokenizer that is no JSON": (text("tokenizer.json", "{"), "has no tokenizer that can be loaded"),
    "a tokenizer that is a list": (text("tokenizer.json", "[]"), "has no tokenizer that can be loaded"),
    "a billion layers": (values(CONFIG, num_hidden_layers=10**9), "no usable num_hidden_layers"),
    "a billion layers, nested": (values(CONFIG, text_config={"n_layer": 10**9}), "no usable n_layer"),
    "a billion heads": (values(CONFIG, num_attention_heads=10**9), "no usable num_attention_heads"),
    "a billion labels": (values(CONFIG, num_labels=10**9), "no usable num_labels"),
    "a large hidden size": (values(CONFIG, hidden_size=2**40), "no usable hidden_size"),
    "a billion kinds of layers": (
        values(CONFIG, model_type="gpt_neo", attention_types=[[["global", "local"], 10**9]]),
        "no usable attention_types",
    ),
    "ten million letters of layers": (
        values(CONFIG, model_type="nemotron_h", hybrid_override_pattern="M" * 10**7),
        "no usable length of hybrid_override_pattern",
    ),
    "a million factors": (
        values(CONFIG, rope_scaling={"rope_type": "longrope", "long_factor": [1.0] * 10**6}),
        "no usable length of long_factor",
    ),
    "a million labels": (values(CONFIG, id2label={str(n): "x" for n in range(400_000)}), "too many values"),
    "end tokens of text": (text("generation_config.json", '{"eos_token_id": "x"}'), "no usable eos_token_id"),
    "no heads": (
        values(CONFIG, num_attention_heads=0),
        "config cannot be read|cannot be loaded|cannot be run",
    ),
    "heads of another number": (
        values(CONFIG, num_attention_heads=3),
        "config cannot be read|cannot be loaded|cannot be run",
    ),
    "an activation nobody knows": (
        values(CONFIG, hidden_act="quux"),
        "config cannot be read|cannot be loaded|cannot be run",
    ),
    "an activation with the words of a failing disk": (
        values(CONFIG, hidden_act="Too many open files (os error 24)"),
        "config cannot be read|cannot be loaded|cannot be run",
    ),
    "a dtype nobody knows": (
        values(CONFIG, dtype="float33"),
        "config cannot be read|cannot be loaded|cannot be run",
    ),
    "outputs without names": (values(CONFIG, return_dict=False), "cannot be run"),
    "another vocabulary": (values(CONFIG, vocab_size=3), "cannot be|lacks|rows"),
    "an adapter next to the weights": (text("adapter_config.json", "{}"), "holds a model and an adapter"),
    "a graft of nothing": (record(adapters=[]), "incomplete record of its graft"),
    "a graft of text": (record(adapters="x"), "incomplete record of its graft"),
    "a graft of rank text": (record(adapters=[{"rank": "x"}]), "incomplete record of its graft"),
    "a graft without a target": (record(target=None), "incomplete record of its graft"),
    "a graft of a target of numbers": (record(target={"name": 7, "digest": []}), "incomplete record"),
}


@pytest.fixture
def spec(skill_file: Path) -> EvalSpec:
    return EvalSpec((read_skill_file(skill_file, 1),), seed=7)


@pytest.mark.parametrize("name", STRANGERS)
def test_one_refusal_and_the_others_go_on(
    make_model: MakeModel, spec: EvalSpec, tmp_path: Path, name: str
) -> None:
    damage, words = STRANGERS[name]
    good, bad = make_model("good"), make_model("bad")
    damage(bad)
    models = [("good", good), ("bad", bad)]
    table = evaluate_models(
        models, spec, BackendConfig(), tmp_path / "o.parquet", Silent(), allow_refused=True
    )
    rows = {row["model"]: row for row in table.to_pylist()}
    assert rows["good"]["status"] == "ok"
    assert rows["bad"]["status"] == "skipped"
    assert rows["bad"]["reason"]
    with pytest.raises(ContextgraftError, match=words):
        evaluate_models([("bad", bad)], spec, BackendConfig(), tmp_path / "p.parquet", Silent())
    assert not (tmp_path / "p.parquet").exists()


TEMPLATES = {
    "{{ raise_exception('roles must alternate') }}": "roles must alternate",
    "{% for x in %}": "TemplateSyntaxError",
    "{{ messages[0].no.such }}": "UndefinedError",
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{{ messages[0]['content'] }} {{ messages[0]['content'] }}": "received 2 times",
    "hello": "received 0 times",
    "{{ messages[0]['content']|upper }}": "received 0 times",
    "{{ messages[0]['content']|lower }}": "received 0 times",
    "{{ messages[0]['content'][:100] }}": "changes a message",
    "{{ messages[0]['content']|replace('the', '') }}": "changes a message",
    "{{ messages[0]['content']|replace('\n', ' ') }}": "changes a message",
    "{{ messages[0]['content']|wordwrap(20) }}": "changes a message",
    "{{ messages[0]['content'] }}{% if messages[0]['content'][9999:] %}!{% endif %}": "changes a message",
    "{{ messages[0]['content'] }}{{ range(10 ** 4)|random }}": "changes a message",
    "{{ 'x' * 10 ** 10 }}": "MemoryError|OverflowError|RangeError",
    "{{ 'x' * 10 ** 7 }}{{ messages[0]['content'] }}": "10,000,018 characters",
    "{{ range(10 ** 10)|list }}": "OverflowError|MemoryError",
    "{% include '/etc/passwd' %}": "TypeError|TemplateNotFound|no loader",
    "{% extends 'x' %}": "TypeError|TemplateNotFound|no loader",
    "{% import 'x' as x %}{{ x.y() }}": "TypeError|TemplateNotFound|no loader",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}": (
        "RecursionError|UndefinedError|was stopped"
    ),
    "{% set n = namespace(a='xx') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}{{ n.a }}": (
        "MemoryError|was stopped"
    ),
    "{{ messages[0]['content'].__class__ }}": "SecurityError|received 0 times",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": "SecurityError",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "RecursionError|was stopped",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_that_cannot_be_used_is_the_models_fault(make_model: MakeModel, template: str) -> None:
    folder = make_model()
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(CheckpointError, match=f"its chat template .*({TEMPLATES[template]})"):
        load_tokenizer(folder).prefix_suffix(chat=True)


def test_a_template_that_does_not_end_is_stopped(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contextgraft.formats.tokenizer.chat_template.TEMPLATE_BUDGET", SHORT)
    folder = make_model()
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(loop)
    with pytest.raises(CheckpointError, match="template was stopped; expected an end within 1 seconds"):
        load_tokenizer(folder).prefix_suffix(chat=True)


def test_what_a_process_may_do_is_limited(tmp_path: Path) -> None:
    assert run_limited(lambda: "text " * 100_000, "x", tmp_path, SHORT) == "text " * 100_000
    with pytest.raises(CheckpointError, match="x cannot be used; received MemoryError"):
        run_limited(lambda: str(len(bytearray(1 << 33))), "x", tmp_path, SHORT)
