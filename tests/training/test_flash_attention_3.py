"""FlashAttention-3 in place of PyTorch's own: who gets it, and PyTorch's glue on fake tensors of a GPU.

The kernels themselves need a Hopper GPU and are not run.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch._subclasses.fake_tensor import FakeTensorMode

from contextgraft.attention import kernels
from contextgraft.attention.kernels import KERNELS, AttentionBlock
from contextgraft.cli.commands.train import command
from contextgraft.errors import InputError
from contextgraft.training.parallel import devices
from contextgraft.training.parallel.devices import use_flash_attention_3

from .conftest import write_recipe

fa3: Any = pytest.importorskip("torch.nn.attention._fa3")
GPU = torch.device("cuda")


def test_other_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"needs a Hopper card.*received cpu; remove --flash-attention-3"):
        use_flash_attention_3(torch.device("cpu"))
    monkeypatch.setattr(devices, "card_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A100")
    with pytest.raises(InputError, match=r"needs a Hopper card.*received A100"):
        use_flash_attention_3(GPU)


def test_without_its_package_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "card_capability", lambda _: (9, 0))
    with pytest.raises(InputError, match=r"does not work here; expected its package.*'flash_attn_interface'"):
        use_flash_attention_3(GPU)
    assert torch.nn.attention.current_flash_attention_impl() is None


def test_it_is_registered_where_torch_can(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(devices, "card_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.nn.attention, "activate_flash_attention_impl", asked.append)
    use_flash_attention_3(GPU)
    assert asked == ["FA3"]


def test_the_command_asks_for_it(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    recipe, out = write_recipe(recipe_folder), tmp_path / "out"
    words = ["--config", str(recipe), "--base", str(base), "--device", "cpu", "--out", str(out)]
    with pytest.raises(InputError, match="--flash-attention-3 needs a Hopper card"):
        CliRunner().invoke(command, [*words, "--flash-attention-3"], catch_exceptions=False)
    assert not out.exists()


@pytest.mark.parametrize(("queries", "keys", "causal"), [(6, 6, True), (4, 6, False)])
def test_torch_takes_what_the_ring_computes(
    monkeypatch: pytest.MonkeyPatch, queries: int, keys: int, causal: bool
) -> None:
    """The operators that PyTorch replaces, called as the ring calls them; the kernels only have shapes."""
    computed: list[tuple[Any, ...]] = []

    def forward(q: torch.Tensor, *rest: Any) -> tuple[Any, ...]:
        computed.append((tuple(q.shape), rest[23]))
        batch, length, heads, _ = q.shape
        return torch.empty_like(q), q.new_empty(batch, heads, length, dtype=torch.float32), None, None

    def backward(dout: torch.Tensor, q: torch.Tensor, k: torch.Tensor, *rest: Any) -> None:
        computed.append((tuple(dout.shape), tuple(q.shape), tuple(k.shape), rest[13]))

    monkeypatch.setattr(fa3, "_FA3_CUDA_FWD", forward)
    monkeypatch.setattr(fa3, "_FA3_CUDA_BWD", backward)
    monkeypatch.setattr(fa3, "_get_device_major", lambda _: 9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    replaced = SimpleNamespace(
        _scaled_dot_product_flash_attention=fa3._fa3_scaled_dot_product_flash_attention_forward_impl_default,
        _scaled_dot_product_flash_attention_backward=fa3._fa3_scaled_dot_product_flash_attention_backward_impl,
    )
    monkeypatch.setattr(kernels, "aten", replaced)
    with FakeTensorMode():
        q, dout = (torch.empty(1, 4, queries, 8, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        k, v = (torch.empty(1, 2, keys, 8, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        block = AttentionBlock(q, k, v, causal, 0.5)
        result = KERNELS["cuda"].forward(block)
        gradients = KERNELS["cuda"].backward(block, dout, result)
    assert (result.out.shape, result.lse.shape) == (q.shape, (1, 4, queries))
    assert [gradient.shape for gradient in gradients] == [q.shape, k.shape, v.shape]
    shapes = (1, queries, 4, 8), (1, keys, 2, 8)
    assert computed == [(shapes[0], causal), (shapes[0], *shapes, causal)]
