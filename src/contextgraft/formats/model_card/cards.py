"""The text of a model card: metadata that the hub reads, use, what was measured, origin, licence."""

from collections.abc import Mapping, Sequence
from typing import Any

from contextgraft.errors import CheckpointError
from contextgraft.formats.adapter_record import AdapterRecord, parse_adapter_record
from contextgraft.formats.graft_record import GraftRecord, parse_graft_record
from contextgraft.formats.hub_source import hub_repository
from contextgraft.formats.model_card.head import CardHead
from contextgraft.formats.model_card.markdown import code_block, escape, inline_code, table
from contextgraft.formats.model_card.scores import CardScores
from contextgraft.formats.model_card.usage import (
    REPOSITORY,
    AdapterUsage,
    ServerCommand,
    adapter_usage,
    graft_usage,
)
from contextgraft.formats.sidecar import SIDECAR
from contextgraft.rope import settings

Identity = Mapping[str, Any]
UNMEASURED = (
    "Nothing was measured for this card: settings that allow a length do not show that the model can use it. "
    "`contextgraft evaluate` measures it, and `contextgraft report` writes this card with the results."
)
EXPLANATION = (
    "Shares of right answers with 95 % Wilson intervals and the number of prompts. *Alone* is the original "
    "fine-tune, *theta only* the fine-tune with the donor's RoPE settings and its own weights: the effect of "
    "the delta is the difference from these rows. A needle score is not an effective context length as RULER "
    "defines it."
)


def adapter_card(
    adapter: AdapterRecord, usage: AdapterUsage | None = None, scores: Sequence[CardScores] = ()
) -> str:
    """The card of an adapter: `usage` gives its snippets, `scores` those of the grafts made of it."""
    base, donor = adapter.base, adapter.donor
    kept = (
        "Its factors are those that were trained, in float32."
        if adapter.trained
        else f"It captures {_percent(adapter.energy)} of the energy (squared Frobenius norm) of that "
        "difference in the modules it changes."
    )
    summary = (
        f"The difference between {_model(donor)} and its base {_model(base)}, as a LoRA adapter of rank "
        f"{adapter.rank}: it adds the long context of the first to fine-tunes of the second. {kept}"
    )
    note = (
        "The adapter works only with the donor's RoPE settings: these are settings, not evidence of a usable "
        "length."
    )
    sections = [
        summary,
        "## How to use it",
        adapter_usage(usage),
        "## What was measured",
        *_measured(scores),
        "## RoPE settings",
        _rope_table({"base": adapter.rope.get("base"), "donor": adapter.rope.get("donor")}),
        note,
        "## Origin",
        _origins({"base": base, "donor": donor}),
    ]
    title = f"Long context of {donor.get('name', 'a donor')}, rank {adapter.rank}"
    return CardHead(title, "adapter", (base,), donor, tuple(scores)).page(sections)


def graft_card(
    graft: GraftRecord, servers: Sequence[ServerCommand] = (), scores: Sequence[CardScores] = ()
) -> str:
    """The card of a graft: `servers` are commands that load it."""
    target, donor = graft.target, graft.donor
    scale = f", scaled by {graft.scale:g}" if graft.scale != 1 else ""
    rank = f" of rank {graft.rank}" if graft.rank is not None else ""
    summary = (
        f"The fine-tune {_model(target)} with the long context of {_model(donor)} added to its weights as a "
        f"LoRA delta{rank}{scale}. Made by contextgraft without training."
    )
    bases = [adapter.get("base") or {} for adapter in graft.adapters]
    models = {"fine-tune": target}
    for number, adapter in enumerate(graft.adapters, 1):
        which = f" {number}" if len(graft.adapters) > 1 else ""
        models[f"adapter{which}"] = {"name": _described(adapter), "digest": adapter.get("digest")}
        models |= {f"{role}{which}": adapter.get(role) or {} for role in ("base", "donor")}
    sections = [
        summary,
        "## How to use it",
        graft_usage(servers),
        "## What was measured",
        *_measured(scores),
        *_survival(graft),
        "## RoPE settings",
        _rope_table({"before": graft.rope.get("before"), "after": graft.rope.get("after")}),
        "## Origin",
        _origins(models),
    ]
    title = f"{target.get('name', 'model')}, long context of {donor.get('name', 'a donor')}"
    return CardHead(title, "merge", (target, *bases), donor, tuple(scores)).page(sections)


def trained_card(sidecar: Mapping[str, Any]) -> str:
    """The card of a model that `train` wrote."""
    base, rope = sidecar["base"], sidecar["rope"]
    summary = (
        f"{_model(base)}, trained to a longer context in {int(sidecar['steps']):,} steps: the settings allow "
        f"{settings.from_json(rope).context:,} positions, RoPE theta {float(rope['theta']):g}. The recipe of "
        f"every stage is in `{SIDECAR}`."
    )
    usage = code_block(f"contextgraft fetch hf:{REPOSITORY} --out model")
    sections = [summary, usage, "## What was measured", UNMEASURED, "## Origin", _origins({"base": base})]
    title = str(sidecar.get("name") or f"{base.get('name', 'a base')}, longer context")
    return CardHead(title, "finetune", (base,)).page(sections)


def card_of(sidecar: Mapping[str, Any]) -> str:
    """The card of a folder that has none, from its sidecar of kind adapter, graft or trained."""
    try:
        kind = sidecar["kind"]
        if kind == "adapter":
            return adapter_card(parse_adapter_record(sidecar))
        return graft_card(parse_graft_record(sidecar)) if kind == "graft" else trained_card(sidecar)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise CheckpointError(
            "lacks the information that a model card needs",
            path=SIDECAR,
            remedy="verify the folder, or pass a card with --card",
        ) from None


def _measured(scores: Sequence[CardScores]) -> list[str]:
    if not scores:
        return [UNMEASURED]
    sections = []
    for item in scores:
        reached = (
            f"found enough needles (95 %) up to {item.reached:,} tokens"
            if item.reached
            else "found enough needles (95 %) at no length that was evaluated"
        )
        sections += [
            f"### {escape(item.title)}",
            f"The graft {reached}. Needles: {escape(item.condition)}, at {item.length:,} tokens.",
            table(
                "| | needles found | own skill |",
                [
                    (escape(label), escape(needle.words), escape(skill.words))
                    for label, needle, skill in item.rows
                ],
            ),
        ]
    return [*sections, EXPLANATION]


def _survival(graft: GraftRecord) -> list[str]:
    """How much of the delta was left after rounding to the target's type, over all changed tensors."""
    norms = [(tensor.delta_norm**2, tensor.kept) for tensor in graft.tensors]
    total = sum(square for square, _ in norms)
    if not total:
        return []
    kept = sum(square * share for square, share in norms) / total
    lowest = min(share for _, share in norms)
    return [
        f"{_percent(kept)} of the delta survived rounding to the stored type, over {len(norms)} tensors (the "
        f"worst: {_percent(lowest)})."
    ]


def _rope_table(sides: Mapping[str, Any]) -> str:
    """Theta and positions of recorded RoPE settings, by side."""
    rows = [(side, _number(rope, "theta"), _number(rope, "max_positions")) for side, rope in sides.items()]
    return table("| | theta | max_position_embeddings |", rows)


def _percent(share: float) -> str:
    """A share in percent, with one decimal if that is not zero."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def _number(rope: Any, key: str) -> str:
    value = rope.get(key) if isinstance(rope, Mapping) else None
    return f"{value:,.0f}" if value and isinstance(value, int | float) else "–"


def _described(adapter: Mapping[str, Any]) -> str:
    rank = f"rank {adapter['rank']}, " if adapter.get("rank") else ""
    return f"{rank}scale {adapter.get('scale', 1)}"


def _origins(models: Mapping[str, Identity]) -> str:
    """A table of the models that the folder was made of, by role, without unknown ones."""
    rows = [
        (
            role,
            _model(model),
            inline_code(model.get("revision") or ""),
            inline_code(model.get("digest") or "–"),
        )
        for role, model in models.items()
        if model.get("name") or model.get("digest")
    ]
    return table("| | model | revision | digest |", rows)


def _model(identity: Identity) -> str:
    """The repository of a model, or its name, as code."""
    return inline_code(hub_repository(identity.get("source")) or identity.get("name") or "–")
