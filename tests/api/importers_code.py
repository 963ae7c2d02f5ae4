"""Code of somebody who imports the package: nothing runs it, mypy checks it with the other tests."""

from pathlib import Path

from contextgraft import (
    Comparison,
    ContextgraftError,
    ExtractedAdapter,
    MergeResult,
    RopeSettings,
    Verification,
    align,
    compare,
    extract,
    fetch,
    merge,
    open_adapter,
    open_model,
    plan_merge,
    read_rope,
    verify,
)


def study(base: Path, donor: str, target: Path) -> float | None:
    adapters: list[ExtractedAdapter] = extract(base, donor, "out", ranks=[8, 32], energies=(0.9,))
    shape: tuple[int, ...] = open_model(base)["lm_head.weight"].shape
    rank: int = open_adapter(adapters[0].path).rank
    names: tuple[str, ...] = plan_merge(adapters[0].path, target, scale=0.5).changed
    rope: RopeSettings = read_rope(donor)
    result: MergeResult = merge([adapters[0].path], target, fetch("demo:zh", "zh") / "graft", rope=rope)
    checked: Verification = verify(result.path, target=target, adapters=[adapters[0].path])
    norms = [tensor.donor_norm for tensor in align(base, donor, target).tensors]
    distance: Comparison = compare(adapters[0].path, adapters[1].path)
    print(shape, rank, names, checked.holds, norms, isinstance(ContextgraftError("x"), Exception))
    return distance.total.relative


def wrong() -> None:
    """Mypy reports a comment to ignore an error where there is none."""
    merge(1, 2)  # type: ignore[call-arg, arg-type]
