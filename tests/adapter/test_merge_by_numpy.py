"""The merge by numpy: PyTorch's rounding, the evidence of the merge by PyTorch, and no import of PyTorch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from contextgraft.adapter.compute.arrays import WIDEN, Floats, read_floats
from contextgraft.adapter.compute.tensor_pool import Buffers, for_each_tensor
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.lora.array_deltas import LowRankArrays
from contextgraft.adapter.lora.entries import AdditiveEntry
from contextgraft.adapter.merge.kernels.by_numpy import ROUND, merge_arrays
from contextgraft.adapter.merge.plan import MergePlan, ScaledAdapter, plan_merge
from contextgraft.adapter.merge.tensor import merge_planned
from contextgraft.adapter.verify.graft import verify
from contextgraft.checkpoint.model_folder import open_model, open_tensors


@pytest.fixture(scope="module")
def plan(world: Any) -> MergePlan:
    return plan_merge([ScaledAdapter(open_adapter(world.adapters / "r8"), 0.7)], world.target)


def special_values() -> torch.Tensor:
    """Ties, subnormal, largest and random numbers, infinities, zeros of both signs."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31 - 1, (40000,), generator=generator, dtype=torch.int64)
    ties = bits.bitwise_or(0x8000).bitwise_and(~0x7FFF)
    few = torch.tensor([0, 1, 0x8000, 0x18000, 0x7F7FFFFF, 0x7F7F8000, 0x7F800000, 0x80000000 - 2**32])
    values = torch.cat([bits, ties, few]).to(torch.int32).view(torch.float32)
    return values[~values.isnan()]


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_rounding_is_that_of_pytorch(dtype: str) -> None:
    values = special_values()
    expected = values.to({"BF16": torch.bfloat16, "F32": torch.float32}[dtype])
    rounded: Floats = np.empty(len(values), np.float32)
    stored = np.empty(len(values) * expected.itemsize, np.uint8)
    ROUND[dtype](values.numpy().copy(), rounded, stored)
    assert stored.tobytes() == expected.view(torch.uint8).numpy().tobytes()
    assert torch.equal(torch.from_numpy(rounded), expected.float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_tensors_are_read_as_pytorch_reads_them(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    save_file({"x": tensor}, tmp_path / "x.safetensors")
    assert torch.equal(
        torch.from_numpy(read_floats(open_tensors(tmp_path / "x.safetensors"), "x")), tensor.float()
    )
    assert set(WIDEN) == {"BF16", "F16", "F32", "F64"}


def merged(plan: MergePlan, name: str, *, arrays: bool) -> tuple[np.ndarray[Any, Any], Any]:
    info = plan.layout.tensors[name]
    data = bytearray(info.bytes)

    def write(offset: int, block: memoryview) -> None:
        data[offset : offset + len(block)] = block

    evidence = merge_planned(plan, name, buffers=Buffers(), write=write, arrays=arrays)
    return torch.frombuffer(data, dtype=torch.bfloat16).float().numpy(), evidence


def test_numpy_and_pytorch_give_the_same_sum_and_evidence(plan: MergePlan) -> None:
    assert all(plan.uses_arrays(name, "cpu") for name in plan.changed)
    for name in plan.changed:
        (ours, evidence), (theirs, other) = (merged(plan, name, arrays=arrays) for arrays in (True, False))
        assert (np.abs(ours - theirs) <= np.abs(theirs) * 2.0**-7).all()  # one unit in the last place
        assert (ours != theirs).mean() < 0.001
        assert evidence.digest_before == other.digest_before
        for key in ("delta_norm", "survived_norm", "kept"):
            assert getattr(evidence, key) == pytest.approx(getattr(other, key), rel=1e-3)


@pytest.mark.parametrize("columns", [8200, 4101])
def test_threads_do_not_change_products_of_wide_factors(toy: Any, tmp_path: Path, columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {f"{n}.weight": torch.randn(150, columns, generator=generator).bfloat16() for n in range(3)}
    model = open_model(toy.write(tmp_path / "m", weights, toy.config()))
    left, right = (torch.randn(shape, generator=generator).numpy() for shape in ((150, 32), (32, columns)))
    digests: list[dict[str, str]] = []
    for threads in (1, 3):
        known: dict[str, str] = {}

        def one(name: str, buffers: Buffers, known: dict[str, str] = known) -> None:
            known[name] = merge_arrays(
                model, name, [LowRankArrays(left, right)], buffers=buffers, write=lambda offset, data: None
            ).digest_after

        for_each_tensor(one, sorted(weights), threads)
        digests.append(known)
    assert digests[0] == digests[1]


def test_a_graft_of_an_older_version_is_verified_by_pytorch(
    world: Any, plan: MergePlan, tmp_path: Path
) -> None:
    from contextgraft.adapter.merge.merge import merge

    graft = tmp_path / "graft"
    merge(plan, graft)
    sidecar = graft / "contextgraft.json"
    manifest = json.loads(sidecar.read_text())
    assert manifest.pop("library") == "numpy"
    shards = {name: bytearray((graft / name).read_bytes()) for name in plan.target.shards}
    for name in plan.changed:
        info = plan.layout.tensors[name]

        def write(offset: int, block: memoryview, info: Any = info) -> None:
            shards[info.shard][info.begin + offset : info.begin + offset + len(block)] = block

        evidence = merge_planned(plan, name, buffers=Buffers(), write=write, arrays=False)
        manifest["tensors"][name] = vars(evidence)
    for name, data in shards.items():
        (graft / name).write_bytes(data)
    sidecar.write_text(json.dumps(manifest))
    checks = verify(graft, target=world.target, adapters=[world.adapters / "r8"])
    assert all(check.holds for check in checks), checks


def test_merge_and_verify_of_plain_factors_do_not_import_pytorch(world: Any, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from contextgraft.cli.main import cli\n"
        "target, adapter, graft = sys.argv[1:]\n"
        "inputs = ['--target', target, '--adapter', adapter]\n"
        "cli.main(['merge', *inputs, '--out', graft], standalone_mode=False)\n"
        "cli.main(['verify', graft, *inputs], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules\n"
    )
    words = map(str, (world.target, world.adapters / "r4", tmp_path / "graft"))
    done = subprocess.run(
        [sys.executable, "-c", program, *words], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "recomputed" in done.stdout


def test_values_of_a_bias_follow_their_tokens() -> None:
    entry = AdditiveEntry((3,), 2.0, "bias")
    bias, rows = np.array([10, 20, 30], np.float32), [2, -1, 0, 1]
    array = entry.load_arrays(lambda _: bias, 0.5, rows).tile(0, 4, np.empty((4, 1), np.float32))
    zeros = torch.zeros(4, 1)
    tensor = entry.load(lambda _: torch.from_numpy(bias), 0.5, rows).tile(zeros, 0, 4, zeros.clone())
    assert array.ravel().tolist() == tensor.ravel().tolist() == [30, 0, 10, 20]
