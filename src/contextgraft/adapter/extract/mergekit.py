"""Adapters extracted by mergekit's command, one run per rank, and then measured here.

mergekit (arcee-ai/mergekit) has another licence: its program is started, never imported.
"""

import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contextgraft.adapter.analysis.card import write_adapter_card
from contextgraft.adapter.compute.tensor_pool import for_each_tensor
from contextgraft.adapter.extract.model_pair import ModelPair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.extract.write_adapter import UNDO
from contextgraft.adapter.lora.adapter import Adapter, open_adapter
from contextgraft.adapter.verify.residual import Residual, ResidualPass
from contextgraft.checkpoint.atomic import write_json
from contextgraft.checkpoint.model_folder import read_json
from contextgraft.checkpoint.resume import BUILT, input_files, publish_folders
from contextgraft.errors import CheckpointError, InputError, MismatchError
from contextgraft.formats import peft
from contextgraft.formats.architecture import architecture
from contextgraft.formats.hub_source import peft_base
from contextgraft.formats.sidecar import SIDECAR, identity, origin, sidecar
from contextgraft.formats.tensor_names import BY_TOKEN, EMBEDDINGS, TensorRole

COMMAND = "mergekit-extract-lora"
INSTALL = (
    "install it in an environment of its own (`python -m venv ENV && ENV/bin/pip install mergekit==0.1.5`) "
    f"and give --mergekit ENV/bin/{COMMAND}; or leave out --backend mergekit"
)
VERSION = "from importlib.metadata import version; print(version('mergekit'))"
KEPT = (peft.ADAPTER_CONFIG, peft.ADAPTER_WEIGHTS)
Advance = Callable[[int], object]


def find_command(named: Path | None) -> Path:
    """The named command, else the one next to this Python, else that of PATH; InputError if there is none."""
    sibling = Path(sys.executable).with_name(COMMAND)
    residuals = named or (sibling if sibling.exists() else shutil.which(COMMAND))
    if residuals is None or not os.access(residuals, os.X_OK):
        raise InputError(f"{COMMAND} was not found", received=named, remedy=INSTALL)
    return Path(residuals).absolute()


def refuse_unsuited(models: ModelPair) -> None:
    """Raise MismatchError for models whose adapter mergekit would write in a form that cannot be merged."""
    biases = {peft.module_of(name) + ".bias" for name in models.factorised} & set(
        models.names_by_role[TensorRole.DENSE]
    )
    own = "use contextgraft's own backend"
    if models.parameters:
        raise MismatchError(
            "has weights that no linear layer has (stacked experts), which mergekit does not factorise",
            path=models.donor.path, received=min(models.parameters), remedy=f"{own}, or --exclude them",
        )  # fmt: skip
    if biases:
        raise MismatchError(
            "has biases, whose deltas mergekit writes under keys that PEFT does not read",
            path=models.donor.path, received=min(biases), remedy=own,
        )  # fmt: skip
    if models.donor_rows is not None:
        raise MismatchError(
            "has other tokens than the base; mergekit aligns embeddings by row, not by token",
            path=models.donor.path, remedy=f"{own}, or leave out --embeddings",
        )  # fmt: skip


def extract(
    models: ModelPair,
    ranks: Sequence[int],
    out: Path,
    command: Path,
    *,
    replace: bool = False,
    threads: int = 1,
    device: str = "cpu",
    advance: Advance = int,
) -> dict[str, dict[str, Any]]:
    """Write `out`/r<rank> for every rank and return the sidecars; `advance` is called with bytes read.

    The weights are left as mergekit wrote them; norms and errors in the sidecar are those of the stored
    factors, measured here. Modules that mergekit does not factorise have rank 0. A rerun continues with the
    first rank that is not finished. Raises as `adapter.extract.extract`, and InputError where the command
    fails.
    """
    refuse_unsuited(models)
    specs = [RankSpec(rank) for rank in sorted(set(ranks))]
    job = {
        "verb": "extract by mergekit",
        "base": input_files(models.base),
        "donor": input_files(models.donor),
        "cuts": [asdict(spec) for spec in specs],
        "selection": asdict(models.selection),
        "device": device,
        "command": str(command),
    }
    inputs, names = (models.base.path, models.donor.path), [spec.name for spec in specs]
    with publish_folders(out, names, job, replace=replace, inputs=inputs) as log:
        for spec in specs:
            if log.get(spec.name) is None:
                folder = log.work / spec.name
                _run(models, spec, folder, command, threads=threads, device=device)
                reading = _read(models, folder, threads, advance)
                content = _sidecar(models, spec, reading.adapter, reading.residuals)
                content["backend"] = {"name": "mergekit", "version": version(command)}
                write_json(folder / SIDECAR, content)
                write_adapter_card(open_adapter(folder))
                log.put(spec.name, content)
        sidecars = {spec.name: log.get(spec.name) or {} for spec in specs}
        if log.get(BUILT) is None:
            log.put(BUILT, sidecars)
        return sidecars


def arguments(models: ModelPair, rank: int, out: Path, threads: int, device: str) -> list[str]:
    """Mergekit's arguments: exactly the selected tensors, and no tensor stored in full."""
    chosen = [f"^{re.escape(peft.module_of(name))}$" for name in models.factorised]
    carried = {
        peft.module_of(name).rpartition(".")[2] for kind in BY_TOKEN for name in models.names_by_role[kind]
    }
    others = [rf"(^|\.){name}$" for name in EMBEDDINGS if name not in carried]
    return [
        *("--model", str(models.donor.path.resolve()), "--base-model", str(models.base.path.resolve())),
        *("--out-path", str(out), "--max-rank", str(rank), "--num-threads", str(threads)),
        *("--skip-undecomposable", "--quiet"),
        *(["--embed-lora"] if carried else []),
        *([] if device == "cpu" else ["--device", device]),
        *(word for pattern in chosen for word in ("--include-regex", pattern)),
        *(word for pattern in others for word in ("--exclude-regex", pattern)),
    ]


def version(command: Path) -> str | None:
    """The version of mergekit in the environment of a command; None if it is unknown."""
    python = command.with_name("python")
    if not python.exists():
        return None
    done = subprocess.run([python, "-c", VERSION], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _run(
    models: ModelPair, spec: RankSpec, folder: Path, command: Path, *, threads: int, device: str
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    words = [str(command), *arguments(models, spec.max_rank, folder, threads, device)]
    env = os.environ | {"HF_HUB_OFFLINE": "1"}  # the two folders have everything it needs
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", env=env, check=False)
    missing = [name for name in KEPT if not (folder / name).is_file()]
    if done.returncode or missing:
        output = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise InputError(
            f"{COMMAND} failed at rank {spec.max_rank} with exit code {done.returncode}",
            path=models.donor.path,
            received=output[-1][:300] if output else "no output",
            remedy="leave out --backend mergekit",
        )
    for path in folder.iterdir():
        if path.name not in KEPT:
            path.unlink()
    _tidy(models, folder)


def _tidy(models: ModelPair, folder: Path) -> None:
    """Replace the base's path by its name, and sort lists, so that the same models give the same bytes."""
    config = read_json(folder / peft.ADAPTER_CONFIG)
    config |= peft_base(origin(models.base))
    config["target_modules"] = sorted(config["target_modules"])
    write_json(folder / peft.ADAPTER_CONFIG, config)
    mode = (folder / peft.ADAPTER_CONFIG).stat().st_mode
    (folder / peft.ADAPTER_WEIGHTS).chmod(mode)  # mergekit's file is readable for its owner only


def _read(models: ModelPair, folder: Path, threads: int, advance: Advance) -> ResidualPass:
    """Measure mergekit's adapter against both models; CheckpointError if it has other tensors."""
    adapter = open_adapter(folder)
    unexpected = sorted(set(adapter.entries) - set(models.factorised))
    if unexpected or adapter.replaced:
        raise CheckpointError(
            "has tensors that were not selected", path=folder, received=", ".join(unexpected)[:200],
            remedy="leave out --backend mergekit",
        )  # fmt: skip
    reading = ResidualPass(adapter, models, advance)
    for_each_tensor(reading.run, [name for names in models.names_by_role.values() for name in names], threads)
    return reading


def _sidecar(
    models: ModelPair, spec: RankSpec, adapter: Adapter, residuals: Mapping[str, Residual]
) -> dict[str, Any]:
    modules = {peft.module_of(name): _module(adapter, name, residuals[name]) for name in models.factorised}
    total_norm = math.hypot(*(residuals[name].norm for name in models.factorised))
    if not total_norm:
        raise MismatchError(
            "has the same linear weights as the base: there is nothing to extract",
            path=models.donor.path, received=models.base.path,
        )  # fmt: skip
    error = math.hypot(*(residuals[name].remaining_norm for name in models.factorised)) / total_norm
    rest = [*models.names_by_role[TensorRole.DENSE], *models.names_by_role[TensorRole.IGNORED]]
    ignored: dict[str, Any] = {name: _norms(residuals[name]) for name in rest if residuals[name].norm}
    return sidecar(
        "adapter",
        base=identity(
            models.base, {name: residual.measure.base_digest for name, residual in residuals.items()}
        ),
        donor=identity(
            models.donor, {name: residual.measure.donor_digest for name, residual in residuals.items()}
        ),
        architecture=architecture(models.base.config),
        selection=asdict(models.selection),
        **models.context_record(),
        rank=adapter.rank,
        asked={"rank": spec.max_rank},
        modules=modules,
        energy=max(0.0, 1 - error**2),
        error=error,
        delta_norm=total_norm,
        dense={},
        ignored=ignored | dict.fromkeys(models.unpaired, "not in both models, or of another shape"),
        undo=UNDO,
    )


def _module(adapter: Adapter, name: str, residuals: Residual) -> dict[str, Any]:
    carried = name in adapter.factors
    return {
        "rank": adapter.config.rank(peft.module_of(name)) if carried else 0,
        "energy": max(0.0, 1 - residuals.error**2),
        "error": residuals.error,
        "excess": None,
        **_norms(residuals),
    }


def _norms(residuals: Residual) -> dict[str, Any]:
    base = residuals.measure.base_norm
    return {"delta_norm": residuals.norm, "relative_delta": residuals.norm / base if base else None}
