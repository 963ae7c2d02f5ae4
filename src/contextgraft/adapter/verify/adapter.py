"""Checks of an adapter against its sidecar, with all figures recomputed from base and donor."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contextgraft.adapter.extract.model_pair import ModelPair, open_pair
from contextgraft.adapter.extract.rank_spec import TensorSelection
from contextgraft.adapter.lora.adapter import Adapter, open_adapter
from contextgraft.adapter.verify.checks import Check, check_equal, run_check
from contextgraft.checkpoint.input_files import files_of, unchanged
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.errors import InputError
from contextgraft.formats.architecture import architecture
from contextgraft.formats.model.aligned_names import corresponding_names
from contextgraft.formats.peft import module_of
from contextgraft.formats.sidecar import SIDECAR, identity
from contextgraft.rope import settings

if TYPE_CHECKING:
    from contextgraft.adapter.verify.residual import Residual

ROUNDING = 1e-4  # of the squared error: the effect of the factors' dtype


def verify_adapter(
    path: Path,
    base: Path,
    donor: Path,
    *,
    threads: int = 1,
    advance: Callable[[int], object] = int,
) -> list[Check]:
    """Read base and donor once and compare with every figure of the sidecar.

    An adapter without a sidecar raises InputError.
    """
    with unchanged(*map(files_of, (path, base, donor))):
        return _verify_adapter(path, base, donor, threads, advance)


def _verify_adapter(
    path: Path, base: Path, donor: Path, threads: int, advance: Callable[[int], object]
) -> list[Check]:
    adapter = open_adapter(path)
    sidecar = adapter.sidecar
    if sidecar is None:
        raise InputError(
            "has no sidecar, and so no figures to verify", path=path, expected=SIDECAR,
            remedy="extract from the same models and compare the two adapters",
        )  # fmt: skip
    models = open_pair(base, donor, TensorSelection.from_json(sidecar["selection"], path / SIDECAR))
    from contextgraft.adapter.compute.tensor_pool import for_each_tensor
    from contextgraft.adapter.verify.residual import ResidualPass

    work = ResidualPass(adapter, models, advance)
    for_each_tensor(work.run, [name for names in models.names_by_role.values() for name in names], threads)
    return list(_checks(adapter, sidecar, models, work.residuals))


def _checks(
    adapter: Adapter, sidecar: dict[str, Any], models: ModelPair, residuals: "dict[str, Residual]"
) -> Iterator[Check]:
    yield run_check("base", lambda: _model(sidecar, "base", models.base, residuals))
    yield run_check("donor", lambda: _model(sidecar, "donor", models.donor, residuals))
    yield run_check("rope", lambda: _rope(sidecar, models))
    yield run_check("modules", lambda: _modules(sidecar, residuals, adapter))
    yield run_check("dense", lambda: _dense(sidecar, residuals))


def _model(sidecar: dict[str, Any], side: str, folder: ModelFolder, residuals: "dict[str, Residual]") -> str:
    known = {name: getattr(residual.measure, f"{side}_digest") for name, residual in residuals.items()}
    check_equal(f"the digest of the {side}", sidecar[side]["digest"], identity(folder, known)["digest"])
    return f"is the {side} of the extraction: {sidecar[side]['name']}"


def _rope(sidecar: dict[str, Any], models: ModelPair) -> str:
    for side, folder in (("base", models.base), ("donor", models.donor)):
        own = settings.read_any_length(folder.config, folder.path)
        recorded = settings.from_json(sidecar["rope"][side]).with_fraction_of(own)
        check_equal(f"the {side}'s RoPE", recorded, own)
    rope = settings.read_any_length(models.donor.config)
    if sidecar["max_length"] != rope.max_positions:  # what older versions recorded
        check_equal("the context length", sidecar["max_length"], rope.context)
    if "attention" in sidecar:
        record = models.context_record()["attention"]
        if "base" not in sidecar["attention"]:  # older versions did not record it
            del record["base"]
        check_equal("the attention settings that differ", sidecar["attention"], record)
    values, recorded = architecture(models.base.config), sidecar["architecture"]  # older ones have fewer
    check_equal("the architecture", recorded, {key: values.get(key) for key in recorded})
    return rope.description


def _modules(sidecar: dict[str, Any], residuals: "dict[str, Residual]", adapter: Adapter) -> str:
    """Check norms, and errors: those of the stored factors include their rounding."""
    of_modules = {module_of(name): name for name in residuals}
    recorded = {of_modules.get(module, module): record for module, record in sidecar["modules"].items()}
    carried = sorted(name for name, record in recorded.items() if record["rank"])
    written = corresponding_names([*carried, *sidecar["dense"]], adapter.entries)  # by PEFT's names
    in_adapter = {name: written.get(name, name) for name in [*carried, *sidecar["dense"]]}
    check_equal("the list of modules", sorted(in_adapter[name] for name in carried), sorted(adapter.factors))
    check_equal("what is carried", sorted(in_adapter.values()), sorted(adapter.entries))
    check_equal("the largest rank", sidecar["rank"], adapter.rank)
    for name, record in recorded.items():
        check_close("the norm of the delta of", name, record["delta_norm"], residuals[name].norm, 1e-6)
        _check_error(name, record, residuals[name], trained=sidecar.get("trained") is True)
        check_close("the energy of", name, record["energy"], 1 - record["error"] ** 2, 1e-6)
        rank = adapter.config.rank(module_of(in_adapter.get(name, name)))
        if name in carried and record["rank"] > rank:
            check_equal(f"the rank of {name}", record["rank"], rank)
    total_norm = math.hypot(*(residuals[name].norm for name in recorded))
    rest = math.hypot(*(residuals[name].remaining_norm for name in recorded))
    check_close("the norm of", "all deltas", sidecar["delta_norm"], total_norm, 1e-6)
    known = math.hypot(*(record["delta_norm"] * record["error"] for record in recorded.values()))
    check_close(
        "the error of", "all modules", sidecar["error"], known / total_norm if total_norm else 0, 1e-4
    )
    check_close("the energy of", "all modules", sidecar["energy"], 1 - sidecar["error"] ** 2, 1e-6)
    if "rounding" in sidecar:
        rounding = math.hypot(*(record["rounding"] for record in recorded.values()))
        check_close("the rounding of", "all modules", sidecar["rounding"], rounding, 1e-6)
    if not total_norm:
        return f"{len(carried)} modules; base and donor do not differ in them"
    return f"{len(carried)} modules; the stored factors leave {rest / total_norm:.4f} of the delta's norm"


def _check_error(name: str, record: dict[str, Any], residual: "Residual", *, trained: bool) -> None:
    """Check what the factors leave of a delta: of factors that were trained it is the weights' rounding."""
    if trained and "rounding" in record:  # earlier versions recorded it as an error
        check_equal(f"the error of {name}", record["error"], 0)
        if abs(residual.remaining_norm - record["rounding"]) > ROUNDING * math.hypot(
            residual.norm, record["rounding"]
        ):
            check_equal(f"the rounding of {name}", record["rounding"], residual.remaining_norm)
    elif abs(residual.error**2 - record["error"] ** 2) > ROUNDING:
        check_equal(f"the error of {name}", record["error"], residual.error)


def _dense(sidecar: dict[str, Any], residuals: "dict[str, Residual]") -> str:
    for name, record in sidecar["dense"].items():
        check_close("the norm of the delta of", name, record["delta_norm"], residuals[name].norm, 1e-6)
        check_equal(f"what is left of {name}", 0.0, residuals[name].remaining_norm)
    return f"{len(sidecar['dense'])} deltas that are stored in full"


def check_close(what: str, name: str, recorded: float, residuals: float, tolerance: float) -> None:
    """Raise VerificationError if two figures differ by more than a relative tolerance."""
    if not math.isclose(recorded, residuals, rel_tol=tolerance):
        check_equal(f"{what} {name}", recorded, residuals)
