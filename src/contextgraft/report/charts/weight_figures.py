"""Charts of energy by layer and of the alignment of deltas."""

from collections.abc import Sequence

from contextgraft.formats.read_alignment import LayerAlignment
from contextgraft.report.charts import layers
from contextgraft.report.charts.svg import Figure, figure, slug
from contextgraft.report.statistics.weights import LayerEnergy


def layer_energy_figure(energies: Sequence[LayerEnergy]) -> Figure | None:
    """Energy captured by layer and kind of module, a panel for each rank."""
    if not energies:
        return None
    ranks = sorted({energy.rank for energy in energies})
    means = {rank: [energy.mean for energy in energies if energy.rank == rank] for rank in ranks}
    ranges = "; ".join(
        f"rank {rank} {100 * min(means[rank]):.0f} to {100 * max(means[rank]):.0f} %" for rank in ranks
    )
    label = f"Energy held by layer and kind of module: {ranges}"
    return figure("energy_by_layer", "Energy by rank, layer and module", layers.energies(energies), label)


def alignment_figures(alignments: Sequence[LayerAlignment]) -> tuple[Figure, ...]:
    """Cosines by layer, a chart for each fine-tune and donor or adapter, all to one scale."""
    reach = layers.reach(alignments)
    charts: dict[tuple[str, str, str | None], list[LayerAlignment]] = {}
    for item in alignments:
        charts.setdefault((item.target, item.donor, item.adapter_digest), []).append(item)
    shown = [items for items in charts.values() if any(item.layer is not None for item in items)]
    sources = [_compared_source(items[0]) for items in shown]
    return tuple(
        _alignment_figure(items, reach, numbered=sources.count(_compared_source(items[0])) > 1)
        for items in shown
    )


def _compared_source(item: LayerAlignment) -> tuple[str, str, int | None]:
    return item.target, item.donor, item.adapter_rank


def _alignment_figure(alignments: Sequence[LayerAlignment], reach: float, *, numbered: bool) -> Figure:
    """One chart; `numbered`: the digest of the adapter distinguishes it from another of that rank."""
    target, donor, rank = _compared_source(alignments[0])
    digest = (alignments[0].adapter_digest or "")[:8] if numbered else ""
    name, title = f"alignment_{slug(target)}_{slug(donor)}", f"{target} and {donor}"
    if rank is not None:
        name += f"_r{rank}" + (f"_{digest}" if digest else "")
        title += f", with the delta of the adapter of rank {rank}" + (f" ({digest})" if digest else "")
    cosines = [alignment.cosine for alignment in alignments if alignment.layer is not None]
    label = f"Cosine of the deltas of {title} by layer: {min(cosines):+.3f} to {max(cosines):+.3f}"
    return figure(name, title, layers.alignment(alignments, reach), label)
