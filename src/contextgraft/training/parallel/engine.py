"""A run in many processes: weights and optimiser sharded (FSDP2), sequences in the ring, one state."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from contextgraft.checkpoint import atomic as publish
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.config.training import Recipe
from contextgraft.errors import InputError
from contextgraft.rope.settings import RopeSettings
from contextgraft.training import model as models
from contextgraft.training import state as states
from contextgraft.training.data.batches import Batch
from contextgraft.training.engine import Outcome, Trainee
from contextgraft.training.loss import Learner
from contextgraft.training.parallel import attention, checkpoints
from contextgraft.training.parallel.attention_kernels import KERNELS, check_dtype
from contextgraft.training.parallel.background import beside, result_within
from contextgraft.training.parallel.communication import ContextParallel, context_mesh, context_parallel
from contextgraft.training.parallel.layout import LAYOUTS, Layout, choose, topology
from contextgraft.training.parallel.process_group import ElsewhereError, Launch
from contextgraft.training.parallel.shard_batch import share

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """How the processes divide the work; nothing here changes what is learnt but by rounding.

    `context`: ranks that share one sequence (all if None); the others are replicas with other rows.
    `layout` None: by the topology. `rows`: rows at once, the gradient adds up (None: all). `dtype`: of
    activations and of gathered weights; sums between ranks, weights and optimiser stay float32.
    """

    context: int | None = None
    layout: str | None = None
    ranks_per_node: int | None = None
    dtype: torch.dtype = torch.float32
    rows: int | None = None
    keep: int = 2
    patience: timedelta = timedelta(minutes=10)


class Together:
    """One process among the others; `joined` must be open around it."""

    def __init__(
        self,
        launch: Launch,
        device: torch.device,
        options: Options,
        config: dict[str, Any],
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.main, self.options, self.device = launch.rank == 0, options, device
        self.dtype = options.dtype
        check_dtype(device.type, options.dtype)
        layout = self._layout(launch, config, tell)
        context = layout.ring * layout.heads
        self.replicas = launch.world // context
        self.replica = launch.rank // context
        per_node = options.ranks_per_node or launch.local_world
        self.cp: ContextParallel = context_parallel(
            layout,
            context_mesh(layout, replicas=self.replicas, device=device.type),
            KERNELS[device.type],
            ranks_per_node=per_node,
            patience=options.patience,
        )
        self.mesh: DeviceMesh = init_device_mesh(device.type, (launch.world,), mesh_dim_names=("shard",))
        # two groups: checkpoints are written in a thread, and threads must not mix their messages
        self.talking, self.saving = (dist.new_group(backend="gloo", timeout=options.patience) for _ in "12")
        self.pending: checkpoints.Pending | None = None

    def _layout(self, launch: Launch, config: dict[str, Any], tell: Callable[[str], None]) -> Layout:
        context = self.options.context or launch.world
        if launch.world % context:
            raise InputError(
                "the ranks of a sequence must divide all ranks",
                expected=f"a divisor of {launch.world}",
                received=context,
            )
        shape = topology(context, self.options.ranks_per_node or launch.local_world)
        heads = int(config["num_attention_heads"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        layout, reason = choose(shape, heads, kv_heads)
        if self.options.layout is not None:
            layout, reason = LAYOUTS[self.options.layout](shape, heads, kv_heads), "as asked for"
        if self.main:
            tell(
                f"{launch.world} processes, {launch.world // context} x {context} on a sequence, "
                f"layout {layout.name} ({reason})"
            )
        return layout

    def once(self, act: Callable[[], T]) -> T:
        """Done in the main process, the result sent to all; they are told meanwhile that it goes on."""
        doing = beside(act) if self.main else None
        sent: list[Any] = [False, None, None]
        while not sent[0]:
            if doing is not None:
                sent = result_within(doing, self.options.patience / 4)
            dist.broadcast_object_list(sent, src=0, group=self.talking)
        if sent[2] is not None:
            raise (doing and doing.exception()) or ElsewhereError(sent[2])
        return cast("T", sent[1])

    @contextmanager
    def publish(self, out: Path, *, replace: bool = False) -> Iterator[Path]:
        """The main process makes, locks and publishes it; the others wait for that."""
        with ExitStack() as stack:
            yield self.once(lambda: stack.enter_context(publish.publish(out, replace=replace)))
            self.once(stack.close)

    def build(self, recipe: Recipe, base: ModelFolder, rope: RopeSettings) -> Trainee:
        """A model with the ring's attention, each layer a unit that is gathered when it is needed.

        What is no layer is gathered with the loss, in which a token's weight stays float32.
        """
        attention.check_rope(rope)
        attention.check_windows(base.config)
        attention.register()
        model = models.prepared(recipe, base, rope, attention=attention.NAME)
        half = self.options.dtype
        policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
        for layer in model.get_decoder().layers:  # type: ignore[operator]
            self._shard(layer, policy)
        learner = Learner(model)
        self._shard(learner, replace(policy, cast_forward_inputs=False))
        models.put_weights(model, base, self._rows)
        moving = models.moving(model)
        adam = states.optimiser(recipe.optimiser, moving, frozen_rows=recipe.frozen_rows)
        return Trainee(learner, moving, adam)

    def _shard(self, module: torch.nn.Module, policy: MixedPrecisionPolicy) -> None:
        fully_shard(module, mesh=self.mesh, mp_policy=policy)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)  # each rank's loss is a summand of the batch's
        module.set_force_sum_reduction_for_comms(True)  # which gloo needs in order to take the factor

    def backward(self, trainee: Trainee, batch: Batch, recipe: Recipe) -> Outcome:
        """The rank's share, some rows at a time; FSDP adds up the gradients of all ranks."""
        mine, positions = share(batch, self.cp, replica=self.replica, replicas=self.replicas)
        trainee.adam.zero_grad()
        traffic = self.cp.traffic
        traffic.inside = traffic.between = 0
        sums = torch.zeros(5, dtype=torch.float64)
        for part in mine.on(self.device).split(self.options.rows):
            held = positions.to(self.device).expand(len(part.ids), -1)
            summand, right = trainee.learner(part, position_ids=held, context_parallel=self.cp)
            torch.autograd.backward(summand)
            sums[:3] += torch.tensor([summand.item(), right, part.answers.sum()], dtype=torch.float64)
        sums[3], sums[4] = traffic.inside, traffic.between
        dist.all_reduce(sums, group=self.talking)
        models.keep_rows(trainee.moving, recipe.frozen_rows, self._rows)
        total, *counts = sums.tolist()
        return Outcome(total, *map(int, counts))

    def _rows(self, tensor: torch.Tensor) -> slice:
        """Which rows of a sharded tensor this rank holds: they are dealt by torch.chunk."""
        each = -(-tensor.shape[0] // self.mesh.size())
        first = min(self.mesh.get_rank() * each, tensor.shape[0])
        return slice(first, min(first + each, tensor.shape[0]))

    def clip(self, trainee: Trainee, most: float) -> float:
        """The norm over all ranks."""
        norm = torch.nn.utils.clip_grad_norm_(trainee.moving.values(), most)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def agree(self, *, save: bool, stop: bool) -> tuple[bool, bool]:
        """Looks after the checkpoint under way as well: it becomes whole, or ends the run everywhere.

        None is begun while one is being written, so that training never waits for the disk.
        """
        done = self.pending is not None and self.pending.future.done()
        wishes = torch.tensor([save, stop, done], dtype=torch.int32)
        dist.all_reduce(wishes, op=dist.ReduceOp.MAX, group=self.talking)
        if wishes[2]:
            self._settle()
        return bool(wishes[0]) and self.pending is None, bool(wishes[1])

    def _settle(self) -> None:
        if self.pending is not None:
            pending, self.pending = self.pending, None
            checkpoints.settle(pending, main=self.main, keep=self.options.keep)

    def load(self, work: Path) -> states.State:
        """Of many processes or of one, whichever is later, sharded over this run's."""
        alone = self.once(lambda: states.step(work))
        last = self.once(lambda: checkpoints.tidied(work))
        if alone <= last:
            return checkpoints.load(work, self.mesh, self.saving)
        return states.load(
            work, lambda tensor: distribute_tensor(tensor, self.mesh, [Shard(0)], src_data_rank=None)
        )

    def save(self, state: states.State, work: Path, *, wait: bool) -> None:
        """Copied when this returns, written in the background; one at a time."""
        self._settle()
        self.pending = checkpoints.begin(state, work, self.saving)
        if wait:
            self._settle()

    def whole(self, state: states.State) -> dict[str, torch.Tensor]:
        """Gathered one by one; the main process keeps them in its memory."""
        gathered = {}
        for name, value in states.weights(state).items():
            full = value.full_tensor() if isinstance(value, DTensor) else value
            if self.main:
                gathered[name] = full.cpu()
        return gathered
