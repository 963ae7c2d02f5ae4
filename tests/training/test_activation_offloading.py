"""Layer inputs in host memory between the two passes of a layer, copied while other layers are computed."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from typing_extensions import override

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import Recipe, load_recipe
from contextgraft.rope import settings
from contextgraft.training import engine as engines
from contextgraft.training.activations.host_copies import Copy, ImmediateCopies, host_copies
from contextgraft.training.activations.offloading import Offloading, offloading
from contextgraft.training.activations.selective_checkpointing import keep_sdpa
from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.engine import SingleProcessEngine

from .conftest import RECIPE, write_recipe

CPU = torch.device("cpu")
IDS = torch.randint(0, 20, (2, 37), generator=torch.Generator().manual_seed(0))


def gradients(base: Path, recipe_folder: Path, **changes: Any) -> tuple[float, dict[str, torch.Tensor]]:
    recipe = load_recipe(write_recipe(recipe_folder, **changes))
    engine, model = SingleProcessEngine(rows_at_once=1), open_model(base)
    state = engine.build(recipe, model, settings.read(model.config))
    result = engine.backward(state, TokenBatch(IDS, torch.ones(IDS.shape)), recipe)
    return result.loss, {name: p.grad for name, p in state.parameters.items() if p.grad is not None}


@pytest.mark.parametrize("mode", [True, "selective"])
@pytest.mark.parametrize("tiles", [1, 3])
def test_what_layers_keep_leaves_the_device_and_gradients_are_the_same(
    base: Path, recipe_folder: Path, monkeypatch: pytest.MonkeyPatch, mode: Any, tiles: int
) -> None:
    moved: list[torch.Size] = []

    class Recorded(ImmediateCopies):
        @override
        def to_host(self, tensor: torch.Tensor) -> Copy:
            moved.append(tensor.shape)
            return super().to_host(tensor)

    settings_ = {"activation_checkpointing": mode, "mlp_tiles": tiles}
    loss, expected = gradients(base, recipe_folder, **settings_)
    monkeypatch.setattr(engines, "offloading", lambda *_: Offloading(Recorded()))
    mine, found = gradients(base, recipe_folder, activation_offloading=True, **settings_)
    assert mine == loss
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    hidden = moved.count(torch.Size([1, 37, 16]))  # in each of two passes: two layers, and the last norm
    assert 2 * 2 <= hidden <= 2 * 5
    assert not any(24 in shape for shape in moved)  # nothing from inside of an MLP
    assert all(len(shape) > 1 for shape in moved)  # weights of norms stay
    vocabulary = expected["model.embed_tokens.weight"].shape[0]
    assert not any(vocabulary in shape for shape in moved)  # nor does anything of the loss move


class Late(ImmediateCopies):
    """Copies that are made when they are waited for, into garbage until then; keeps what was done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.waiting: dict[int, tuple[Copy, str]] = {}

    def begin(self, source: torch.Tensor, way: str) -> Copy:
        name = f"{source.shape[-1]}"  # tensors of layer n are n wide
        self.done.append(f"{way} {name}")
        copy = Copy(source, torch.full_like(source, torch.nan))
        self.waiting[id(copy)] = copy, f"{way} {name} ends"
        return copy

    @override
    def to_host(self, tensor: torch.Tensor) -> Copy:
        return self.begin(tensor, "out")

    @override
    def to_device(self, tensor: torch.Tensor) -> Copy:
        return self.begin(tensor, "in")

    @override
    def wait(self, copy: Copy) -> None:
        begun, name = self.waiting.pop(id(copy))
        self.done.append(name)
        begun.result.copy_(begun.source)


class Wider(torch.nn.Module):
    """A layer n wide, whose result is one wider; it says when it is computed."""

    def __init__(self, width: int, done: list[str]) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(width, width + 1, bias=False)
        self.width, self.done = width, done

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.done.append(f"layer {self.width}")
        return torch.tanh(self.linear(x))


def backward_of(layers: list[Wider], context_fn: Any, hooks: Any) -> list[torch.Tensor]:
    x = torch.ones(3, 1) / 3
    with hooks:
        for layer in layers:
            options = {} if context_fn is None else {"context_fn": context_fn}
            x = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False, **options)
    torch.autograd.backward(x.sum())
    return [layer.linear.weight.grad for layer in layers if layer.linear.weight.grad is not None]


def test_copies_overlap_with_the_layers_around_them() -> None:
    """A layer's input leaves while the two after it are computed, and returns while the one after it is."""
    copies = Late()
    offloaded = Offloading(copies)
    torch.manual_seed(0)
    layers = [Wider(width, copies.done) for width in range(1, 6)]
    expected = backward_of(layers, None, nullcontext())
    assert len(expected) == 5
    for _ in range(2):  # two micro-batches
        copies.done.clear()
        for layer in layers:
            layer.zero_grad()
        found = backward_of(layers, offloaded.contexts(None), offloaded)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))
        assert copies.done == [
            *("out 1", "layer 1", "out 2", "layer 2"),
            *("out 1 ends", "out 3", "layer 3"),
            *("out 2 ends", "out 4", "layer 4"),
            *("out 3 ends", "out 5", "layer 5"),
            *("out 5 ends", "layer 5"),  # both are still on the device
            *("in 3", "out 4 ends", "layer 4"),
            *("in 2", "in 3 ends", "layer 3"),
            *("in 1", "in 2 ends", "layer 2"),
            *("in 1 ends", "layer 1"),
        ]
        assert not copies.waiting  # no copy is left behind


def test_a_copy_that_nothing_takes_is_waited_for_before_its_memory_is_freed() -> None:
    copies = Late()
    offloaded = Offloading(copies)
    with offloaded:
        packed = []
        for width in range(1, 6):
            offloaded.contexts(keep_sdpa)()
            packed.append(offloaded.pack_hook(torch.ones(2, width)))
    for layer in (4, 3, 1):
        assert torch.equal(offloaded.unpack_hook(packed[layer]), torch.ones(2, layer + 1))
    assert len(copies.waiting) == 1  # the first layer's returns
    with offloaded:  # the next micro-batch
        assert not copies.waiting
    for _ in range(2):
        assert torch.equal(offloaded.unpack_hook(packed[0]), torch.ones(2, 1))
    assert not copies.waiting


class Stream:
    """A stream that does nothing but say what it waits for."""

    def __init__(self, name: str, done: list[str]) -> None:
        self.name, self.done = name, done

    def wait_stream(self, other: "Stream") -> None:
        self.done.append(f"{self.name} waits for {other.name}")

    def record_event(self) -> str:
        return f"a copy {self.name}"

    def wait_event(self, event: str) -> None:
        self.done.append(f"{self.name} waits for {event}")


def test_streams_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors and streams: each direction has a stream; no host waits."""
    done: list[str] = []
    computing, names = Stream("computing", done), iter(("outwards", "inwards"))

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        yield
        done.append(f"on {stream.name}")

    def copied(to: torch.Tensor, source: torch.Tensor, *, non_blocking: bool) -> None:
        done.append(f"{source.device.type} to {to.device.type}, {non_blocking}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda _: Stream(next(names), done))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: computing)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(FakeTensor, "copy_", copied)
    with FakeTensorMode():
        copies = host_copies(torch.device("cuda"))
        tensor = torch.empty(2, 3, device="cuda", dtype=torch.bfloat16)
        leaving = copies.to_host(tensor)
        assert leaving.source is tensor
        copies.wait(leaving)
        returning = copies.to_device(leaving.result)
        copies.wait(returning)
        assert (returning.result.device.type, returning.result.dtype) == ("cuda", torch.bfloat16)
    assert done == [
        *("outwards waits for computing", "cuda to cpu, True", "on outwards"),
        "computing waits for a copy outwards",
        *("inwards waits for computing", "cpu to cuda, True", "on inwards"),
        "computing waits for a copy inwards",
    ]


def test_nothing_is_offloaded_without_checkpointing() -> None:
    assert offloading(Recipe.model_validate(RECIPE), CPU) is None
    assert isinstance(host_copies(CPU), ImmediateCopies)
    with pytest.raises(ValidationError, match="activation_offloading needs activation_checkpointing"):
        Recipe.model_validate(RECIPE | {"activation_offloading": True})
