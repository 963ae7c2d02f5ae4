"""A minimal model card from contextgraft.json, for a folder that has none."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from contextgraft.errors import CheckpointError
from contextgraft.formats.hub_source import hub_repository
from contextgraft.formats.model_card import front_matter, inline_code, licence_of, repository_or_name, table
from contextgraft.formats.sidecar import SIDECAR
from contextgraft.rope import settings

Sidecar = Mapping[str, Any]


def minimal_card(sidecar: Sidecar, to: str) -> str:
    """Markdown with the hub's front matter, for the repository `to`; kind adapter, graft or trained."""
    try:
        return CARDS[sidecar["kind"]](sidecar, to)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise CheckpointError(
            "lacks the information that a model card needs",
            path=SIDECAR,
            remedy="verify the folder, or pass a card with --card",
        ) from None


def _adapter(sidecar: Sidecar, to: str) -> str:
    base, donor, rope = sidecar["base"], sidecar["donor"], sidecar["rope"]["donor"]
    summary = (
        f"A LoRA of rank {int(sidecar['rank'])} that carries the long context of {_model(donor)} to "
        f"fine-tunes of {_model(base)}: {int(sidecar['max_length']):,} positions, RoPE theta "
        f"{float(rope['theta']):g}. It holds {float(sidecar['energy']):.2%} of the difference's squared norm "
        "over the modules it covers."
    )
    usage = (
        f"contextgraft fetch hf:{to} --out adapter\n"
        "contextgraft merge --adapter adapter --target YOUR_FINE_TUNE --out graft"
    )
    note = (
        "A LoRA contains no RoPE settings: loaded without `contextgraft merge`, the model's config must be "
        "given the theta and the length above."
    )
    front = front_matter(
        hub_repository(base.get("source")), "adapter", "peft", **licence_of(base.get("license") or {})
    )
    return _page(front, to, [summary, _code_block(usage), _provenance({"base": base, "donor": donor}), note])


def _graft(sidecar: Sidecar, to: str) -> str:
    target, after = sidecar["target"], sidecar["rope"]["after"]
    merged = [(int(adapter["rank"]), adapter["donor"]) for adapter in sidecar["adapters"]]
    summary = (
        f"{_model(target)} with the long context of another model merged into it "
        f"({', '.join(f'rank {rank} from {_model(donor)}' for rank, donor in merged)}): "
        f"{settings.from_json(after).context:,} positions, RoPE theta {float(after['theta']):g}."
    )
    usage = f"contextgraft fetch hf:{to} --out graft\ncontextgraft verify graft"
    note = (
        "`contextgraft.json` has the norm of every tensor's change before and after rounding; `verify` with "
        "`--target` and `--adapter` computes all of them again."
    )
    models = {"fine-tune": target, **{f"donor (rank {rank})": donor for rank, donor in merged}}
    front = front_matter(
        hub_repository(target.get("source")),
        "merge",
        "transformers",
        **licence_of(target.get("license") or {}),
    )
    return _page(front, to, [summary, _code_block(usage), _provenance(models), note])


def _trained(sidecar: Sidecar, to: str) -> str:
    base, rope = sidecar["base"], sidecar["rope"]
    summary = (
        f"{_model(base)}, trained to a longer context in {int(sidecar['steps']):,} steps: "
        f"{settings.from_json(rope).context:,} positions, RoPE theta {float(rope['theta']):g}."
    )
    usage = f"contextgraft fetch hf:{to} --out model"
    note = "The recipe of every stage is in `contextgraft.json`."
    front = front_matter(
        hub_repository(base.get("source")),
        "finetune",
        "transformers",
        **licence_of(base.get("license") or {}),
    )
    return _page(front, to, [summary, _code_block(usage), _provenance({"base": base}), note])


CARDS: Mapping[str, Callable[[Sidecar, str], str]] = {
    "adapter": _adapter,
    "graft": _graft,
    "trained": _trained,
}


def _page(front: str, to: str, blocks: Sequence[str]) -> str:
    title = f"# {to.partition('/')[2]}"
    return "\n".join([front, "\n\n".join([title, *blocks]), ""])


def _code_block(text: str) -> str:
    return f"```\n{text}\n```"


def _provenance(models: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the models that the folder was made of, by role."""
    rows = [
        (role, _model(model), inline_code(model.get("revision") or ""), inline_code(model["digest"]))
        for role, model in models.items()
    ]
    return table("| | model | revision | digest |", rows)


def _model(identity: Mapping[str, Any]) -> str:
    return inline_code(repository_or_name(identity))
