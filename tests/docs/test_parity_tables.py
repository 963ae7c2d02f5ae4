"""docs/parity.md: how many models and adapters are compared is what the tests it describes compare."""

import ast

from contextgraft.adapter.gguf.llama_cpp import ARCHITECTURES, VARIANTS

from .tables import ROOT, page, table

PAGE = page("parity")
WORDS = {16: "sixteen"}
MADE_BY_EXTRACT = 5  # in tests/consumers/test_vllm.py: two ranks, by energy, for served ranks, of embeddings


def entries(file: str, name: str) -> list[str]:
    """The strings of a tuple, or the keys of a dict, that a test assigns to a name; nothing is imported."""
    for node in ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            value = getattr(node, "value", None)
            assert isinstance(value, ast.Dict | ast.Tuple)
            parts = value.keys if isinstance(value, ast.Dict) else value.elts
            assert all(isinstance(part, ast.Constant) for part in parts), name
            return [str(part.value) for part in parts if isinstance(part, ast.Constant)]
    raise AssertionError(name)


MODELS = entries("parity/conftest.py", "ARCHITECTURES")
EXTRACTED = set(MODELS) - set(entries("parity/conftest.py", "UNKNOWN_TO_MERGEKIT"))
APPLIED = entries("parity/test_mergekit_apply.py", "NAMES")


def test_models_that_are_compared() -> None:
    assert f"tiny random models of {WORDS[len(MODELS)]} architectures" in PAGE
    (listed,) = [line for line in PAGE.splitlines() if line.startswith("Llama, Mistral, ")]
    assert len(listed.split(", ")) == len(MODELS)
    assert set(APPLIED) <= set(MODELS)


def test_counts_of_the_table() -> None:
    results = [result for _, result in table(PAGE, "what", "result")]
    counts = [f"all {len(MODELS)}"] * 5
    counts += [f"the {len(EXTRACTED)} it can extract", f"the {len(EXTRACTED)}"]
    assert results[:8] == [*counts, f"the {len(APPLIED)} it can apply"]
    named = [result.split("`")[1] for result in results[8:]]
    assert named
    assert all((ROOT / name).is_file() for name in named)


def test_models_in_llama_cpp() -> None:
    cases = len(ARCHITECTURES) + sum(map(len, VARIANTS.values()))
    known = len(ARCHITECTURES) + len(VARIANTS)
    assert f"| {cases} cases of {known} architectures (" in PAGE


def test_adapters_for_vllm() -> None:
    kinds = [entries("consumers/test_vllm.py", name) for name in ("BY_PEFT", "BY_CONFIG", "BY_KEY")]
    assert f"no disagreement on {sum(map(len, kinds)) + MADE_BY_EXTRACT} adapters" in PAGE
