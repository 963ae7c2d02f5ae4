"""Which configurations of mergekit mean a merge of adapters, and which merge they mean."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.core import Context, ParameterSource
from click.testing import CliRunner

from contextgraft.adapter.mergekit.equivalent import read_mergekit
from contextgraft.cli.main import cli
from contextgraft.cli.merge.mergekit import show_equivalent
from contextgraft.errors import ConfigError, ContextgraftError

Given = dict[str, object]


def model(name: str, **parameters: object) -> Given:
    return {"model": name, "parameters": parameters}


def written(folder: Path, method: str, *models: Given, **keys: object) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"merge_method": method, "models": list(models), **keys}))
    return path


@pytest.mark.parametrize(
    ("method", "models", "keys", "meaning"),
    [
        ("linear", [model("T+A", weight=0.3)], {}, ("T", {"A": 1.0})),
        ("linear", [model("T", weight=1), model("T+A", weight="3.0")], {}, ("T", {"A": 0.75})),
        (
            "linear",
            [model("T+A"), model("T+B")],
            {"parameters": {"weight": 1.0}},
            ("T", {"A": 0.5, "B": 0.5}),
        ),
        (
            "linear",
            [model("T", weight=-0.5), model("T+A", weight=1.5)],
            {"parameters": {"normalize": False}},
            ("T", {"A": 1.5}),
        ),
        ("task_arithmetic", [model("B+A", weight=0.5)], {"base_model": "B"}, ("B", {"A": 0.5})),
        (
            "task_arithmetic",
            [model("B"), model("T", weight=1), model("B+A", weight=2)],
            {"base_model": "B"},
            ("T", {"A": 2.0}),
        ),
        (
            "task_arithmetic",
            [model("T", weight=0.2), model("T+A", weight=0.3)],
            {"base_model": "B", "parameters": {"lambda": 2.0}},
            ("T", {"A": 0.6}),
        ),
        (
            "task_arithmetic",
            [model("B+A", weight=3), model("B+C", weight=1)],
            {"base_model": "B", "parameters": {"normalize": True, "int8_mask": True}},
            ("B", {"A": 0.75, "C": 0.25}),
        ),
        ("passthrough", [{"model": {"model": "T", "lora": "A"}}], {"dtype": "bfloat16"}, ("T", {"A": 1.0})),
        ("linear", [model("o/t@v1+o/a", weight=1)], {}, ("hf:o/t@v1", {"hf:o/a": 1.0})),
    ],
)
def test_what_it_means(
    method: str, models: list[Given], keys: Given, meaning: tuple[str, dict[str, float]], tmp_path: Path
) -> None:
    merge = read_mergekit(written(tmp_path, method, *models, **keys))
    assert str(merge.target) == meaning[0]
    assert {str(source): scale for source, scale in merge.adapters.items()} == pytest.approx(meaning[1])


@pytest.mark.parametrize(
    ("method", "models", "keys", "reason"),
    [
        ("slerp", [model("T+A")], {}, "expected one of linear, task_arithmetic, passthrough"),
        ("linear", [model("T", weight=1)], {}, "names no LoRA adapter"),
        ("linear", [model("T+A")], {}, "the parameter weight is missing"),
        ("linear", [model("T+A", weight=[0, 1])], {}, "gradients over layers"),
        ("linear", [model("T+A", weight=True)], {}, "is not one number"),
        ("linear", [model("T+A", weight=1), model("S", weight=1)], {}, "averages T and S"),
        ("linear", [model("T+A", weight=2)], {"parameters": {"normalize": False}}, "would be scaled"),
        ("linear", [model("T+A", weight=1), model("T", weight=-1)], {}, "add up to 0"),
        ("linear", [model("T+A", weight=1)], {"base_model": "B"}, "base_model is not among the models"),
        ("linear", [model("T+A", wieght=1)], {}, "unknown parameters: wieght"),
        ("linear", [model("T+A", weight=1)] * 2, {}, "listed twice"),
        ("linear", [model("T+A+B", weight=1)], {}, "more than one adapter"),
        ("linear", [model("T+A", weight=1)], {"tokenizer_source": "union"}, "keeps the target's tokenizer"),
        ("linear", [model("T+A", weight=1)], {"modules": {"x": 1}}, "modules"),
        ("task_arithmetic", [model("B+A", weight=1)], {}, "needs a base_model"),
        ("task_arithmetic", [model("D", weight=0.5)], {"base_model": "B"}, "extract --base B --donor D"),
        (
            "task_arithmetic",
            [model("T", weight=1), model("D", weight=1)],
            {"base_model": "B"},
            "several models (D, T)",
        ),
        ("passthrough", [model("T+A", scale=0.5)], {}, "multiplies all weights by 0.5"),
        ("passthrough", [model("T+A"), model("T")], {}, "takes one model"),
    ],
)
def test_what_has_no_equivalent(
    method: str, models: list[Given], keys: Given, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        read_mergekit(written(tmp_path, method, *models, **keys))
    assert reason in str(error.value)
    assert "config.yaml" in str(error.value)


@pytest.mark.parametrize("method", [["linear"], {"a": 1}, {"linear": None}, 1, None, True])
def test_a_method_that_is_not_a_text(method: object, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"merge_method": method, "models": [model("T+A", weight=1)]}))
    with pytest.raises(ConfigError, match=r"merge_method: has no equivalent.*linear, task_arithmetic"):
        read_mergekit(path)


@pytest.mark.parametrize(
    ("method", "weights", "keys"),
    [
        ("linear", (1e308, 1e308), {}),
        ("task_arithmetic", (1e308, 1e308), {"normalize": True}),
        ("task_arithmetic", (1.0, 1e10), {"lambda": 1e308}),
        ("task_arithmetic", (1e308, -1e308), {"lambda": 1e308}),
    ],
)
def test_weights_beyond_any_number(
    method: str, weights: tuple[float, float], keys: Given, tmp_path: Path
) -> None:
    models = [model(name, weight=weight) for name, weight in zip(("T+B", "T+A"), weights, strict=True)]
    base = {"base_model": "T"} if method == "task_arithmetic" else {}
    with pytest.raises(ConfigError, match="too large for a number") as error:
        read_mergekit(written(tmp_path, method, *models, parameters=keys, **base))
    assert "config.yaml" in str(error.value)


@pytest.mark.parametrize("weights", [(2, 1), (1, 6), (0.1, 0.2), (1e-9, 1)])
def test_the_printed_command_is_the_same_merge(
    weights: tuple[float, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [model(name, weight=weight) for name, weight in zip(("T", "T+A"), weights, strict=True)]
    merge = read_mergekit(written(tmp_path, "linear", *models))
    context = Context(cli)
    for name in ("adapters", "targets", "scales"):
        context.set_parameter_source(name, ParameterSource.DEFAULT_MAP)
    show_equivalent(merge, context)
    printed = capsys.readouterr().err.split()
    assert float(printed[printed.index("--scale") + 1]) == merge.adapters[Path("A")]


def test_all_reasons_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, "ties", model("T+A"), slices=[1], chat_template="auto")
    with pytest.raises(ConfigError, match="3 mistakes"):
        read_mergekit(path)


def test_the_command(toy: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graft is that of the options which it prints; another dtype, and other options, are refused."""
    monkeypatch.chdir(tmp_path)
    base = toy.weights(toy.config())
    longer = toy.config(max_position_embeddings=1024, rope_theta=8e4)
    toy.write(tmp_path / "base", base, toy.config())
    toy.write(tmp_path / "donor", toy.moved(base, 1), longer)
    toy.write(tmp_path / "tune", toy.moved(base, 2, 0.005), toy.config())
    runner = CliRunner()
    extract = ["extract", "--base", "base", "--donor", "donor", "--rank", "4", "--out", "ad"]
    assert runner.invoke(cli, extract).exit_code == 0
    models = [model("tune", weight=1), model("tune+ad/r4", weight=1)]
    words = ["merge", "--mergekit", str(written(tmp_path, "linear", *models, dtype="bfloat16")), "--out"]
    done = runner.invoke(cli, [*words, "graft"])
    assert done.exit_code == 0, done.output
    assert "--target tune --adapter ad/r4 --scale 0.5" in done.stderr
    named = ["merge", "--target", "tune", "--adapter", "ad/r4", "--scale", "0.5", "--out", "named"]
    assert runner.invoke(cli, named).exit_code == 0
    graft, other = (Path(folder, "model.safetensors").read_bytes() for folder in ("graft", "named"))
    assert graft == other
    assert "cannot be combined with --target" in runner.invoke(cli, [*words, "x", "--target", "tune"]).output
    path = written(tmp_path, "linear", *models, dtype="float32", out_dtype="float16")
    done = runner.invoke(cli, ["merge", "--mergekit", str(path), "--out", "x"])
    assert isinstance(done.exception, ContextgraftError)
    assert "would convert the weights" in str(done.exception)
    assert not Path("x").exists()
