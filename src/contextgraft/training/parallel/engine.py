"""The distributed engine: weights and optimiser sharded (FSDP2), sequences over a ring, one state."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from typing_extensions import override

from contextgraft.attention.kernels import KERNELS, check_dtype
from contextgraft.checkpoint import atomic
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.config.training import Recipe
from contextgraft.errors import InputError
from contextgraft.rope.settings import RopeSettings
from contextgraft.training.activations.compiled import check_compiler
from contextgraft.training.activations.offloading import Offloading, offloading
from contextgraft.training.activations.selective_checkpointing import KeptAttention
from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.engine import StepResult, TrainingEngine
from contextgraft.training.loss import CausalLMWithLoss
from contextgraft.training.model import (
    build_trainable,
    cast_frozen,
    decoder_layers,
    head_dim,
    load_weights,
    materialise,
    trainable_parameters,
    zero_frozen_rows,
)
from contextgraft.training.parallel import attention, checkpoints
from contextgraft.training.parallel.background import TaskStatus, WeightRequests, poll_result, run_in_thread
from contextgraft.training.parallel.communication import (
    ContextParallel,
    context_mesh,
    context_parallel,
    weight_mesh,
)
from contextgraft.training.parallel.devices import card_capability, check_kernel
from contextgraft.training.parallel.layout import LAYOUTS, Layout, choose_layout, topology
from contextgraft.training.parallel.options import ParallelOptions
from contextgraft.training.parallel.process_group import RankInfo, RemoteRankError
from contextgraft.training.parallel.shard_batch import shard_batch
from contextgraft.training.reporting.progress import SilentReporter, TrainingReporter
from contextgraft.training.result.gathered_weights import GatheredWeights
from contextgraft.training.state import SavedState, TrainState, build_optimiser, load_state, saved_step

T = TypeVar("T")


class DistributedEngine(TrainingEngine):
    """One of the processes of a distributed run, inside `process_group`."""

    offloaded: Offloading | None = None  # of the model that was built last

    def __init__(
        self,
        info: RankInfo,
        device: torch.device,
        options: ParallelOptions,
        config: dict[str, Any],
        reporter: TrainingReporter | None = None,
    ) -> None:
        self.main, self.options, self.device = info.rank == 0, options, device
        self.dtype = options.dtype
        rows = () if options.rows_at_once == 1 else ("--rows-at-once 1",)
        whole = ("no --sync-gradients-once",) if options.sync_gradients_once else ()
        self.memory_remedies = (*rows, *whole, "more processes on a sequence")
        check_dtype(device.type, options.dtype)
        if device.type == "cuda":
            check_kernel(device.type, head_dim(config), card_capability(device))
        layout = self._layout(info, config, reporter or SilentReporter())
        sequence_ranks = layout.ring * layout.heads
        self.replicas = info.world_size // sequence_ranks
        self.replica = info.rank // sequence_ranks
        self.cp: ContextParallel = context_parallel(
            layout,
            context_mesh(layout, replicas=self.replicas, device=device.type, timeout=options.timeout),
            KERNELS[device.type],
            ranks_per_node=options.ranks_per_node or info.local_world_size,
            timeout=options.timeout,
        )
        replicate = options.data_parallel_replicate
        self.mesh = weight_mesh(info.world_size, replicate, device.type, options.timeout)
        # two groups: checkpoints are written in a thread, and threads must not mix their messages
        self._control = dist.new_group(backend="gloo", timeout=options.timeout)
        self._saving = dist.new_group(backend="gloo", timeout=options.timeout)
        self._stager = checkpoints.pinned_stager(device)
        self.pending: checkpoints.PendingCheckpoint | None = None

    def _layout(self, info: RankInfo, config: dict[str, Any], reporter: TrainingReporter) -> Layout:
        sequence_ranks = self.options.context_parallel or info.world_size
        if info.world_size % sequence_ranks:
            raise InputError(
                "the number of ranks of a sequence must divide the number of all ranks",
                expected=f"a divisor of {info.world_size}",
                received=sequence_ranks,
            )
        shape = topology(sequence_ranks, self.options.ranks_per_node or info.local_world_size)
        heads = int(config["num_attention_heads"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        layout, reason = choose_layout(shape, heads, kv_heads)
        if self.options.layout is not None:
            layout, reason = LAYOUTS[self.options.layout](shape, heads, kv_heads), "requested"
        if self.main:
            reporter.message(
                f"{info.world_size} processes, {info.world_size // sequence_ranks} x {sequence_ranks} on a "
                f"sequence, layout {layout.name} ({reason})"
            )
        return layout

    @override
    def run_on_main(self, task: Callable[[], T]) -> T:
        """Run a task in a thread of the main process, which keeps sending messages: no rank times out."""
        future = run_in_thread(task) if self.main else None
        status = TaskStatus(done=False)
        while not status.done:
            if future is not None:
                status = poll_result(future, self.options.timeout / 4)
            message: list[Any] = [tuple(status)]
            dist.broadcast_object_list(message, src=0, group=self._control)
            status = TaskStatus(*message[0])
        if status.error is not None:
            raise (future and future.exception()) or RemoteRankError(status.error)
        return cast("T", status.result)

    @override
    @contextmanager
    def publish(self, out: Path, *, replace: bool = False) -> Iterator[Path]:
        """The main process makes, locks and publishes the directory; the others wait for it."""
        with ExitStack() as stack:
            yield self.run_on_main(lambda: stack.enter_context(atomic.publish(out, replace=replace)))
            self.run_on_main(stack.close)

    @override
    def check(self, recipe: Recipe, base: ModelFolder, rope: RopeSettings) -> None:
        attention.check_rope(rope)
        attention.check_supported(base.config, recipe, self.cp.layout.name, base.tensors)
        check_compiler(recipe, self.device)

    @override
    def build(self, recipe: Recipe, base: ModelFolder, rope: RopeSettings) -> TrainState:
        """A model with ring attention; each layer is an FSDP unit, gathered when it is needed.

        Everything outside the layers is gathered with the loss, whose token weights stay float32.
        """
        attention.register()
        self.offloaded = offloading(recipe, self.device)
        kept = KeptAttention(self.offloaded)
        self.cp = replace(self.cp, kept=kept)
        causal_lm = build_trainable(
            recipe,
            base,
            rope,
            attention=attention.NAME,
            keep_attention=kept.contexts,
            offloaded=self.offloaded,
        )
        cast_frozen(causal_lm, self.dtype)
        policy = MixedPrecisionPolicy(param_dtype=self.options.dtype, reduce_dtype=torch.float32)
        for layer in decoder_layers(causal_lm):
            self._shard(layer, policy)
        model = CausalLMWithLoss(causal_lm)
        self._shard(model, replace(policy, cast_forward_inputs=False))
        materialise(model, self.device)
        load_weights(causal_lm, base, self._local_rows)
        parameters = trainable_parameters(causal_lm)
        optimiser = build_optimiser(recipe.optimiser, parameters, frozen_rows=recipe.frozen_rows)
        return TrainState(model, parameters, optimiser)

    def _shard(self, module: torch.nn.Module, policy: MixedPrecisionPolicy) -> None:
        fully_shard(module, mesh=self.mesh, mp_policy=policy)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)  # the losses of the ranks add up to that of the batch
        module.set_force_sum_reduction_for_comms(True)  # otherwise gloo rejects the factor

    @override
    def backward(self, state: TrainState, batch: TokenBatch, recipe: Recipe) -> StepResult:
        """Compute this rank's shard, some rows at a time; FSDP adds up the gradients of all ranks."""
        shard = shard_batch(batch, self.cp, replica=self.replica, replicas=self.replicas)
        state.optimiser.zero_grad()
        skipping, traffic = batch.positions is not None and batch.starts is None, self.cp.traffic
        traffic.reset()
        sums = torch.zeros(5, dtype=torch.float64)
        hooks = self.offloaded or nullcontext()
        parts = list(shard.split(self.options.rows_at_once))
        for number, part in enumerate(parts, 1):
            self._sync_gradients(state.model, last=number == len(parts))
            tokens, positions = part.tokens.to(self.device), part.positions.to(self.device)
            cp = replace(self.cp, skipping=skipping, starts=part.starts)
            with hooks:
                loss, correct = state.model(tokens, position_ids=positions, context_parallel=cp)
            torch.autograd.backward(loss)
            sums[:3] += torch.tensor([loss.item(), correct, tokens.answers.sum()], dtype=torch.float64)
        sums[3], sums[4] = traffic.within_nodes, traffic.between_nodes
        dist.all_reduce(sums, group=self._control)
        zero_frozen_rows(state.parameters, recipe.frozen_rows, self._local_rows)
        total, *counts = sums.tolist()
        return StepResult(total, *map(int, counts))

    def _sync_gradients(self, model: torch.nn.Module, *, last: bool) -> None:
        """Choose what the next pass sums: replicas of the weights sum their gradients in the last one only.

        Until then a rank adds up those of its replica, in the memory that the gradient of its shard takes.
        """
        assert isinstance(model, FSDPModule)
        model.set_requires_all_reduce(last)
        if self.options.sync_gradients_once:
            model.set_requires_gradient_sync(last)

    def _local_rows(self, tensor: torch.Tensor) -> slice:
        """Which rows of a sharded tensor this rank holds: they are divided as by torch.chunk."""
        group = self.mesh["shard"]
        rows = -(-tensor.shape[0] // group.size())
        first = min(group.get_local_rank() * rows, tensor.shape[0])
        return slice(first, min(first + rows, tensor.shape[0]))

    @override
    def clip(self, state: TrainState, max_norm: float) -> float:
        norm = torch.nn.utils.clip_grad_norm_(state.parameters.values(), max_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    @override
    def sync_flags(self, *, save: bool, stop: bool) -> tuple[bool, bool]:
        """Also finish a checkpoint that a rank has written: it becomes complete, or ends the run everywhere.

        No checkpoint starts while another is being written, so that training never waits for the disk.
        """
        written = self.pending is not None and self.pending.future.done()
        flags = torch.tensor([save, stop, written], dtype=torch.int32)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._control)
        if flags[2]:
            self._finish_saving()
        return bool(flags[0]) and self.pending is None, bool(flags[1])

    def _finish_saving(self) -> None:
        if self.pending is not None:
            pending, self.pending = self.pending, None
            checkpoints.finish_saving(pending, main=self.main, keep=self.options.keep)

    @override
    def load(self, work: Path) -> SavedState:
        """The later of a distributed checkpoint and the state of one process, sharded over all ranks.

        A state that turns out to be spoiled is not used by any rank.
        """
        distributed_step = self.run_on_main(lambda: checkpoints.remove_unusable(work))
        if self.run_on_main(lambda: saved_step(work)) > distributed_step:
            saved = load_state(
                work,
                lambda tensor: distribute_tensor(
                    tensor, self.mesh, checkpoints.placements(self.mesh), src_data_rank=None
                ),
            )
            read = torch.tensor(saved.step)  # 0 if it is spoiled
            dist.all_reduce(read, op=dist.ReduceOp.MIN, group=self._control)
            if read:
                return saved
        return checkpoints.load_checkpoint(work, self.mesh, self._saving)

    @override
    def save(self, saved: SavedState, work: Path, *, wait: bool, written: Callable[[], None]) -> None:
        """Copied when this returns, written in the background, one checkpoint at a time."""
        self._finish_saving()
        self.pending = checkpoints.start_saving(saved, work, self._saving, self._stager)
        self.pending.future.add_done_callback(lambda _: written())
        if wait:
            self._finish_saving()

    @override
    def run_with_weights(self, saved: SavedState, task: Callable[[Mapping[str, torch.Tensor]], T]) -> T:
        """The task runs in a thread of the main process; all ranks gather the weight that it asks for."""
        weights, requests = saved.weights(), WeightRequests()
        future: Future[T] = Future()
        if self.main:
            gathered = GatheredWeights(weights, requests.ask)
            future = run_in_thread(lambda: task(gathered))
            future.add_done_callback(lambda _: requests.end())
        while (name := self.run_on_main(requests.next)) is not None:
            self._gather(weights[name], requests)
        return self.run_on_main(future.result)

    def _gather(self, weight: torch.Tensor, requests: WeightRequests) -> None:
        """Only the main process keeps the weight, in main memory."""
        full = weight.full_tensor() if isinstance(weight, DTensor) else weight
        if self.main:
            requests.give(full.cpu())
