"""A minimal model card from contextgraft.json, for a folder that has none."""

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from contextgraft.errors import CheckpointError
from contextgraft.formats.sidecar import SIDECAR
from contextgraft.sources.hub.client import SOURCE

TAGS = ["contextgraft", "long-context"]
Sidecar = Mapping[str, Any]


def card(sidecar: Sidecar, to: str) -> str:
    """Markdown with the hub's front matter, for the repository `to`; kind adapter, graft or trained."""
    try:
        return CARDS[sidecar["kind"]](sidecar, to)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise CheckpointError(
            "does not say what a card needs", path=SIDECAR, remedy="verify the folder, or name a --card"
        ) from None


def _adapter(sidecar: Sidecar, to: str) -> str:
    base, donor, rope = sidecar["base"], sidecar["donor"], sidecar["rope"]["donor"]
    what = (
        f"A LoRA of rank {int(sidecar['rank'])} that carries the long context of {_who(donor)} to fine-tunes "
        f"of {_who(base)}: {int(sidecar['max_length']):,} positions, RoPE theta {float(rope['theta']):g}. It "
        f"holds {float(sidecar['energy']):.2%} of the difference's squared norm over the modules it covers."
    )
    use = (
        f"contextgraft fetch hf:{to} --out adapter\n"
        "contextgraft merge --adapter adapter --target YOUR_FINE_TUNE --out graft"
    )
    note = (
        "RoPE is no part of a LoRA: loaded without `contextgraft merge`, the model's config must be given "
        "the theta and the length above."
    )
    parts = what, use, _table({"base": base, "donor": donor}), note
    return _page(_front(base, "adapter", "peft"), to, parts)


def _graft(sidecar: Sidecar, to: str) -> str:
    target, after = sidecar["target"], sidecar["rope"]["after"]
    merged = [(int(each["rank"]), each["donor"]) for each in sidecar["adapters"]]
    what = (
        f"{_who(target)} with the long context of another model merged into it "
        f"({', '.join(f'rank {rank} from {_who(donor)}' for rank, donor in merged)}): "
        f"{int(after['max_positions']):,} positions, RoPE theta {float(after['theta']):g}."
    )
    use = f"contextgraft fetch hf:{to} --out graft\ncontextgraft verify graft"
    note = (
        "`contextgraft.json` has the norm of every tensor's change before and after rounding; `verify` with "
        "`--target` and `--adapter` computes all of them again."
    )
    table = _table({"fine-tune": target, **{f"donor (rank {rank})": donor for rank, donor in merged}})
    return _page(_front(target, "merge", "transformers"), to, (what, use, table, note))


def _trained(sidecar: Sidecar, to: str) -> str:
    base, rope = sidecar["base"], sidecar["rope"]
    what = (
        f"{_who(base)}, trained to a longer context in {int(sidecar['steps']):,} steps: "
        f"{int(rope['max_positions']):,} positions, RoPE theta {float(rope['theta']):g}."
    )
    use = f"contextgraft fetch hf:{to} --out model"
    note = "The recipe of every stage is in `contextgraft.json`."
    return _page(_front(base, "finetune", "transformers"), to, (what, use, _table({"base": base}), note))


CARDS: Mapping[str, Callable[[Sidecar, str], str]] = {
    "adapter": _adapter,
    "graft": _graft,
    "trained": _trained,
}


def _front(base: Mapping[str, Any], relation: str, library: str) -> dict[str, Any]:
    """The metadata that the hub reads; the base only where it is a repository."""
    match = SOURCE.fullmatch(str(base.get("source")))
    known = {"base_model": match["name"], "base_model_relation": relation} if match else {}
    return {**known, "library_name": library, "pipeline_tag": "text-generation", "tags": TAGS}


def _page(front: Mapping[str, Any], to: str, parts: tuple[str, str, str, str]) -> str:
    """The card: what it is, how to use it, the models it comes from, a note."""
    what, use, table, note = parts
    head = yaml.safe_dump(dict(front), sort_keys=True, allow_unicode=True)
    blocks = [f"---\n{head}---", f"# {to.partition('/')[2]}", what, f"```\n{use}\n```", table, note]
    return "\n\n".join(blocks) + "\n"


def _table(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Models by their role."""
    rows = [
        f"| {role} | {_who(each)} | {_code(each.get('revision') or '')} | {_code(each['digest'])} |"
        for role, each in models.items()
    ]
    return "\n".join(["| | model | revision | digest |", "|---|---|---|---|", *rows])


def _who(identity: Mapping[str, Any]) -> str:
    """A model by its repository, else by its name."""
    match = SOURCE.fullmatch(str(identity.get("source")))
    return _code(match["name"] if match else identity["name"])


def _code(text: object) -> str:
    """Text from a file as code in a table's cell: nothing of it is markup."""
    plain = "".join(c for c in str(text)[:200] if c.isprintable() and c not in "`|")
    return f"`{plain}`" if plain else ""
