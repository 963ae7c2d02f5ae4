"""A donor of a family, its graft onto the base itself at full rank, and what transformers says of both."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from tests.parity.families.family import Family
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.cli.commands import extract, merge, verify
from contextgraft.errors import ContextgraftError
from contextgraft.formats.tensor_names import input_embedding, output_embedding

Values = dict[str, Any]
BASE, LONG = 128, 1024  # tokens
LENGTHS = (12, 300)  # within every window, and past the base's context
ORIGINAL = {"original_max_position_embeddings": BASE}
TOWERS = ("vision", "visual", "audio", "multi_modal_projector", "connector")


def theta(flat: Values, _: int) -> Values:
    """Another theta."""
    return {**flat, "rope_theta": 4e5}


def linear(flat: Values, _: int) -> Values:
    """Positions divided by eight."""
    return {**flat, "rope_type": "linear", "factor": 8.0}


def yarn(flat: Values, _: int) -> Values:
    """YaRN by eight."""
    return {**flat, "rope_theta": 1e6, "rope_type": "yarn", "factor": 8.0, **ORIGINAL}


def llama3(flat: Values, _: int) -> Values:
    """The frequencies of Llama 3.1."""
    return {
        **flat, "rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, **ORIGINAL,
    }  # fmt: skip


def longrope(flat: Values, frequencies: int) -> Values:
    """LongRoPE with a factor for every frequency."""
    factors = [1.0 + n / 2 for n in range(frequencies)]
    return {
        **flat, "rope_type": "longrope", "short_factor": [1.0] * frequencies, "long_factor": factors,
        "factor": 8.0, **ORIGINAL,
    }  # fmt: skip


ROPE: dict[str, Callable[[Values, int], Values]] = {
    "theta": theta, "linear": linear, "yarn": yarn, "llama3": llama3, "longrope": longrope
}  # fmt: skip


@dataclass(frozen=True)
class Heads:
    """Whether base and donor tie the output layer; `stored`: the base's file holds a tied one, too."""

    base: bool
    donor: bool
    stored: bool = False


HEADS = {
    "untied": Heads(False, False),
    "tied": Heads(True, True),
    "tied, stored": Heads(True, True, stored=True),
    "donor unties": Heads(True, False),
    "donor ties": Heads(False, True),
}
TIE = "tie_word_embeddings"
LENGTH_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len")
KINDS = ("full_attention", "attention")


@dataclass(frozen=True)
class Proof:
    """What came of one donor: the distance of the logits by length, or the text of a refusal."""

    distances: dict[int, float]
    refusal: str = ""

    @property
    def reason(self) -> str:
        """The refusal without the names of folders and tensors, and without what was received."""
        text = re.sub(r"^/\S*: ", "", " ".join(self.refusal.split()))
        return re.sub(r"'[^']*'", "'...'", re.sub(r"; received [^;]*", "", text))


def base_config(name: str, family: Family) -> Any:
    """The base's config, as its class completes it."""
    model_type = name.split(maxsplit=1)[0]
    text = {**family.common, **family.sizes}
    if not family.text:
        return AutoConfig.for_model(model_type, **text)
    values = {
        "text_config": {"model_type": family.text, **text}, "vision_config": family.vision, **family.outer
    }  # fmt: skip
    return AutoConfig.for_model(model_type, **values)


def model_of(config: Any) -> Any:
    """A random model of a config."""
    return auto_class(config).from_config(config, dtype=torch.float32).eval()


def auto_class(config: Any) -> Any:
    """The class of transformers that opens the whole model."""
    visual = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return AutoModelForImageTextToText if visual else AutoModelForCausalLM


def donor_config(config: Any, change: Values, form: str, frequencies: int) -> Any:
    """The base's config with a longer context in one form, or with another attention."""
    values = copy.deepcopy(config.to_dict())
    section = values.get("text_config", values)
    section |= copy.deepcopy(change)
    longer = {key: LONG for key in LENGTH_KEYS if isinstance(section.get(key), int)}
    rope = section.get("rope_parameters")
    if form in ROPE and rope:
        nested = any(isinstance(value, dict) for value in rope.values())
        if nested:
            kind = next((kind for kind in KINDS if rope.get(kind)), next(iter(rope)))
            section["rope_parameters"] = {**rope, kind: ROPE[form](rope[kind], frequencies)}
        else:
            section["rope_parameters"] = ROPE[form](rope, frequencies)
    section |= longer
    return type(config).from_dict(values)


def frequencies(model: Any) -> int:
    """The number of rotary frequencies of a model; 0 without them."""
    named = [
        b for n, b in model.named_buffers() if n.endswith("inv_freq") and not any(t in n for t in TOWERS)
    ]
    return int(named[-1].shape[0]) if named else 0


def has_rope(config: Any) -> bool:
    """Whether a class has RoPE parameters."""
    return bool(getattr(config.get_text_config(decoder=True), "rope_parameters", None))


def move(model: Any) -> None:
    """Add a delta to all weights of the language model, in place."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if not any(tower in name for tower in TOWERS):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)


def with_head(config: Any, *, tied: bool) -> Any:
    """The config with an output layer that is tied to the input embeddings, or not."""
    values = copy.deepcopy(config.to_dict())
    for section in (values, values.get("text_config", values)):
        section[TIE] = tied
    return type(config).from_dict(values)


def is_tied(model: Any) -> bool:
    """Whether the output layer of a model is its input embeddings."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def store_head(folder: Path, untied: Any) -> bool:
    """Add the output layer to a tied model's file, by the name in an untied one's; False if it cannot be."""
    untied.save_pretrained(folder.with_name("untied"))
    path = folder / "model.safetensors"
    weights = load_file(path)
    named = load_file(folder.with_name("untied") / path.name).keys() - weights.keys()
    embedding = input_embedding(weights)
    if len(named) != 1 or embedding is None:
        return False
    save_file({**weights, named.pop(): weights[embedding].clone()}, path, metadata={"format": "pt"})
    return True


def save_pair(config: Any, change: Values, form: str, root: Path) -> bool:
    """Save a base and its donor, as transformers does; False if the class has no donor of this form."""
    heads = HEADS.get(form)
    torch.manual_seed(0)
    try:
        model = model_of(with_head(config, tied=heads.base) if heads else config)
    except StrictDataclassError:
        return False
    move(model)  # no two norms alike
    model.save_pretrained(root / "base")
    torch.manual_seed(0)
    try:
        longer = donor_config(config, change, "theta" if heads else form, frequencies(model))
        donor = model_of(with_head(longer, tied=heads.donor) if heads else longer)
    except (StrictDataclassError, AttributeError, KeyError, TypeError, ValueError):
        return False
    if heads and (is_tied(model), is_tied(donor)) != (heads.base, heads.donor):
        return False
    if heads and heads.stored and not store_head(root / "base", model_of(with_head(config, tied=False))):
        return False
    shapes = {name: tensor.shape for name, tensor in donor.state_dict().items()}
    fitting = {name: tensor for name, tensor in model.state_dict().items() if tensor.shape == shapes[name]}
    donor.load_state_dict(fitting, strict=False)  # a longer table of learned positions is a new one
    move(donor)
    donor.save_pretrained(root / "donor")
    return True


def graft(root: Path, *, tied: bool) -> str:
    """Extract and merge; returns the error's text, empty if both succeed."""
    pair = ["--base", root / "base", "--donor", root / "donor", "--out", root / "adapter"]
    extracted = [*pair, "--rank", "512", "--embeddings", "input" if tied else "both"]
    merged = ["--adapter", root / "adapter/r512", "--target", root / "base", "--out", root / "graft"]
    for command, words in ((extract.command, extracted), (merge.command, merged)):
        done = CliRunner().invoke(command, [str(word) for word in words])
        if isinstance(done.exception, ContextgraftError):
            return str(done.exception).replace(str(root), "")
        assert done.exit_code == 0, done.output
    return ""


def verified(root: Path) -> None:
    """Fail unless `verify` accepts the graft and the adapter that `graft` wrote."""
    adapter = root / "adapter/r512"
    for words in (
        [root / "graft", "--target", root / "base", "--adapter", adapter],
        [adapter, "--base", root / "base", "--donor", root / "donor"],
    ):
        command = [str(word) for word in words]
        done = CliRunner().invoke(verify.command, command, catch_exceptions=False)
        assert done.exit_code == 0, done.output


def logits(folder: Path, length: int) -> torch.Tensor:
    """What transformers computes from a folder for some tokens."""
    config = AutoConfig.from_pretrained(folder)
    model = auto_class(config).from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.randint(3, 60, (1, length), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        result: torch.Tensor = model(tokens, use_cache=False).logits
    return result


def prove(name: str, family: Family, form: str, root: Path) -> Proof | None:
    """Graft a donor of this form; None if transformers has none for the class."""
    config = base_config(name, family)
    change = family.window if form == "window" else {}
    if not save_pair(config, change, "theta" if form == "window" else form, root):
        return None
    headless = output_embedding(open_model(root / "base").tensors) is None
    refusal = graft(root, tied=headless and form != "donor unties")
    if refusal:
        assert not (root / "graft").exists()
        return Proof({}, refusal)
    folders = root / "donor", root / "graft"
    pairs = {length: [logits(folder, length) for folder in folders] for length in LENGTHS}
    return Proof({length: float((donor - ours).abs().max()) for length, (donor, ours) in pairs.items()})
