"""`contextgraft merge` in a study: the adapter that the report recommends, and the verdict on the graft."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contextgraft.cli.output import echo
from contextgraft.errors import (
    CheckpointError,
    ConfigError,
    ContextgraftError,
    InputError,
    OtherRecommendation,
    raise_read_error,
)

if TYPE_CHECKING:
    from contextgraft.adapter.merge.plan import MergePlan

RECOMMENDATION_KEYS = ("rank", "reason", "target", "adapters")
EVALUATE_AGAIN = "evaluate this fine-tune with these adapters again, with --recommendation"


@dataclass(frozen=True)
class RecommendedAdapter:
    """The adapter to merge into `target`, and the digest of the fine-tune with which it was evaluated.

    `options` are the recorded options of the evaluated graft.
    """

    path: Path
    target: Path
    target_digest: str
    recommendation: Path
    options: Mapping[str, Any] = field(default_factory=dict)

    def check_plan(self, plan: "MergePlan") -> None:
        """Raise OtherRecommendation unless a planned graft has the evaluated one's rounding and settings."""
        from contextgraft.adapter.merge.plan import plan_merge
        from contextgraft.cli.graft_options import recorded_arguments

        given = recorded_arguments(self.options, [scaled.adapter for scaled in plan.adapters])
        evaluated = plan_merge(plan.adapters, self.target, **given, replace_modules=True)
        if _settings_of(evaluated) != _settings_of(plan):
            raise OtherRecommendation(
                "is for a graft with other options", path=self.recommendation,
                expected=f"what was evaluated: {_described(evaluated)}", received=_described(plan),
                remedy="merge with the options of the evaluation, or evaluate with these",
            )  # fmt: skip

    def check_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Raise OtherRecommendation if the graft is of another fine-tune.

        The merge computes the digest of the target, so that no weight is read twice.
        """
        digest = manifest["target"]["digest"]
        if digest != self.target_digest:
            raise OtherRecommendation(
                f"is for another fine-tune than {self.target}", path=self.recommendation,
                expected=f"the digest {self.target_digest}", received=digest, remedy=EVALUATE_AGAIN,
            )  # fmt: skip


def recommended_adapter(file: Path, adapters: Sequence[Path], target: Path) -> RecommendedAdapter:
    """The adapter of the recommended rank.

    InputError if no rank is recommended. What follows is not recorded as a refusal of the fine-tune:
    ConfigError if the file is not a recommendation, OtherRecommendation if the adapters are other ones than
    those that were evaluated.
    """
    from contextgraft.adapter.lora.adapter import open_adapter
    from contextgraft.checkpoint.model_folder import open_model

    content = _read_recommendation(file)
    rank = content["rank"]
    if rank is None:
        open_model(target)  # a target that was refused is refused for its own reason
        raise InputError(
            "recommends no rank", path=file, received=content["reason"],
            remedy="see the report; merge an adapter of your choice with `contextgraft merge`",
        )  # fmt: skip
    opened = [open_adapter(path) for path in adapters]
    chosen = next((adapter for adapter in opened if adapter.rank == rank), None)
    if chosen is None:
        raise OtherRecommendation(
            "recommends a rank that no --adapter has", path=file, received=rank,
            expected=", ".join(str(adapter.rank) for adapter in opened), remedy=EVALUATE_AGAIN,
        )  # fmt: skip
    evaluated = content["adapters"].get(str(rank), [])
    if not any(map(chosen.is_recorded_as, evaluated)):
        raise OtherRecommendation(
            f"is for another adapter of rank {rank} than {chosen.path}", path=file,
            expected=f"the digest {' or '.join(map(str, evaluated))}", received=chosen.digest,
            remedy=EVALUATE_AGAIN,
        )  # fmt: skip
    if chosen.digest not in evaluated:
        echo(
            f"contextgraft: warning: {file}: an earlier version recorded the digest of {chosen.path}, "
            "which does not cover the tokenizer and tied embeddings",
            err=True,
        )
    options = content.get("options", {})
    return RecommendedAdapter(chosen.path, target, content["target"], file, options)


def _settings_of(plan: "MergePlan") -> tuple[Any, ...]:
    return plan.rounding, plan.rope_from == "target", plan.rope, plan.config


def _described(plan: "MergePlan") -> str:
    origin = " of the target" if plan.rope_from == "target" else ""
    attention = {name: setting.donor for name, setting in plan.context.attention.items()}
    return f"--rounding {plan.rounding}, {plan.rope.description}{origin}" + (
        f", {attention}" if attention else ""
    )


def _read_recommendation(file: Path) -> dict[str, Any]:
    from contextgraft.checkpoint.model_folder import read_json

    if not file.is_file():
        raise InputError(
            "cannot read the recommendation", path=file, expected="a JSON file",
            received="a folder" if file.exists() else "no such file",
            remedy="`contextgraft evaluate --recommendation FILE` writes it",
        )  # fmt: skip
    try:
        content = read_json(file)
    except CheckpointError as error:
        raise_read_error(error, file)
        content = {}
    rank = content.get("rank")
    whole = set(RECOMMENDATION_KEYS) <= content.keys() and isinstance(content["adapters"], dict)
    whole = whole and all(isinstance(digests, list) for digests in content["adapters"].values())
    whole = whole and isinstance(content.get("options", {}), dict)
    if not whole or not (rank is None or (type(rank) is int and isinstance(content["target"], str))):
        raise ConfigError(
            "is not a recommendation", path=file,
            expected=f"the keys {', '.join(RECOMMENDATION_KEYS)}, as `contextgraft evaluate` writes them",
            remedy=EVALUATE_AGAIN,
        )  # fmt: skip
    return content


@contextmanager
def refusal_verdict(verdict: Path | None) -> Iterator[None]:
    """With --refusal, an error about a model that is raised inside becomes the verdict, too."""
    from contextgraft.formats.refusal import is_final

    try:
        yield
    except ContextgraftError as error:
        recorded = click.get_current_context().find_root().params.get("refusal") is not None
        if verdict is not None and recorded and is_final(error):
            _write(verdict, {"holds": None, "refused": str(error)})
        raise


def write_verdict(
    verdict: Path,
    graft: Path,
    *,
    target: Path,
    adapters: Sequence[Path],
    threads: int,
    advance: Callable[[int], object] = int,
) -> None:
    """Verify a written graft against its target and adapters; exit code 1 if anything differs."""
    from contextgraft.adapter.verify.checks import as_json
    from contextgraft.adapter.verify.graft import verify

    checks = verify(graft, target=target, adapters=adapters, threads=threads, advance=advance)
    result = as_json(checks)
    _write(verdict, result)
    if not result["holds"]:
        for check in checks:
            if not check.holds:
                echo(f"contextgraft: error: {graft}: {check.name}: {check.detail}", err=True)
        sys.exit(1)


def _write(verdict: Path, content: object) -> None:
    from contextgraft.checkpoint.atomic import write_json

    verdict.parent.mkdir(parents=True, exist_ok=True)
    write_json(verdict, content)
