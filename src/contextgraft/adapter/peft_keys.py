"""Names of tensors in PEFT's weights file: of one adapter, and of factors that PEFT knows."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from contextgraft.errors import CheckpointError, first_names
from contextgraft.formats.peft import PREFIX
from contextgraft.formats.tensor_names import without_wrappers

DEFAULT = "default"
# what modules_to_save replaced, and what VeLoRA and MonteCLoRA only train with: without effect afterwards
UNUSED = re.compile(r"\.(original_module\.|lora_velora_|lora_monteclora_)")
TOKEN_ADAPTER = ".token_adapter."
TOKEN_ROWS = f"{TOKEN_ADAPTER}trainable_tokens_delta"
# a state dict that is saved without PEFT's save_pretrained has the adapter's name in each key
FACTOR = re.compile(
    r"(?P<module>.+)\.(?P<what>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.(?P<adapter>(?!(?:weight|bias)$)[^.]+))?(?:\.(?P<leaf>weight|bias))?$"
)
MAGNITUDE = "lora_magnitude_vector"
# what ends the key of a factor; a magnitude has either
EXPECTED_LEAF = {"lora_A": "weight", "lora_B": "weight", "lora_embedding_A": None, "lora_embedding_B": None}
# what the state dict of a model with adapters has in names, and save_pretrained leaves out
OF_RAW_STATE = re.compile(r"\.modules_to_save(\.default)?(?=\.)|(?<=\.trainable_tokens_delta)\.default$")
OF_FACTORS = re.compile(r"\.lora_\w+(?:\.|$)")


def factor_modules(keys: Iterable[str]) -> dict[str, str]:
    """The keys of factors, with the names of their modules."""
    matches = ((key, FACTOR.match(model_name(key))) for key in keys if not UNUSED.search(key))
    return {key: match["module"] for key, match in matches if match is not None}


def model_name(key: str) -> str:
    """A key without what PEFT and training add in front; PEFT around PEFT has its prefix twice."""
    return without_wrappers(key).rpartition(PREFIX)[2]


def renamed_keys(keys: Iterable[str]) -> dict[str, str]:
    """The keys of tensors under which PEFT (0.21) does not load them, with those that it expects.

    It takes `base_model.model.MODULE.lora_A.weight`, also with the adapter's name `default`, and no wrappers.
    """
    expected = {key: _expected_key(key) for key in keys if not UNUSED.search(key)}
    return {key: name for key, name in expected.items() if key != name and name not in expected}


def saved_twice(keys: Collection[str]) -> set[str]:
    """The keys of weights stored in full that the file also has under the name that PEFT loads.

    PEFT itself writes both of embeddings that modules_to_save name, if the vocabulary was resized.
    """
    return {
        key for key in keys
        if not UNUSED.search(key) and FACTOR.match(model_name(key)) is None
        and _expected_key(key) in keys and _expected_key(key) != key
    }  # fmt: skip


def _expected_key(key: str) -> str:
    name = model_name(key)
    match = FACTOR.match(name)
    if match is None:
        return PREFIX + OF_RAW_STATE.sub("", name)
    leaf = EXPECTED_LEAF.get(match["what"], match["leaf"])
    leaf = "bias" if match["what"] == "lora_B" and match["leaf"] == "bias" else leaf  # lora_bias=True
    of_one = match["adapter"] in (None, DEFAULT) and match["leaf"] == leaf
    if of_one and not (match["adapter"] and match["what"] == MAGNITUDE and leaf is None):
        return PREFIX + name
    return f"{PREFIX}{match['module']}.{match['what']}" + (f".{leaf}" if leaf else "")


def adapter_names(keys: Collection[str]) -> set[str]:
    """The names of adapters in the keys; keys without one are of the adapter `default`."""
    matches = [match for match in map(FACTOR.match, keys) if match is not None]
    return {match["adapter"] or DEFAULT for match in matches}


def check_keys(keys: Collection[str], path: Path) -> None:
    """Raise CheckpointError for a file of several adapters, and for factors under names of other programs."""
    of_factors = (key for key in keys if OF_FACTORS.search(key) and not UNUSED.search(key))
    other = next((key for key in of_factors if FACTOR.match(key) is None), None)
    if other is not None:
        raise CheckpointError(
            f"names its factors otherwise than PEFT: {other[:200]!r}",
            path=path, expected="MODULE.lora_A.weight and MODULE.lora_B.weight",
            remedy="convert it to PEFT's format, or fuse it with the program that trained it",
        )  # fmt: skip
    names = sorted(adapter_names(keys))
    if len(names) > 1:
        raise CheckpointError(
            "holds several adapters", path=path, expected="the factors of one adapter",
            received=first_names(names, 5),
            remedy="save the one you want alone: save_pretrained(DIR, selected_adapters=[NAME])",
        )  # fmt: skip


def wrappers(keys: Collection[str]) -> re.Pattern[str]:
    """What PEFT's wrappers add to the names of tensors that the adapters of these keys store in full."""
    known = "|".join(map(re.escape, sorted({DEFAULT, *adapter_names(keys)})))
    return re.compile(rf"\.(modules_to_save(\.(?:{known}))?|(?:token_adapter\.)?base_layer)(?=\.)")
