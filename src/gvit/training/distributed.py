"""Many processes as one: started by torchrun, a no-op without it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from gvit.errors import InputError, option

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass(frozen=True)
class World:
    """The processes of this run.

    Attributes:
        rank: which of them this is.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """This process prints and writes files."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """The mean over processes of each value; all have the same names."""
        if self.size == 1:
            return values
        total = [sum(column) for column in zip(*self._gather(list(values.values())), strict=True)]
        return {name: value / self.size for name, value in zip(values, total, strict=True)}

    def merge(self, values: dict[int, str]) -> dict[int, str]:
        """What any process has."""
        return values if self.size == 1 else {k: v for part in self._gather(values) for k, v in part.items()}

    def any(self, flag: bool) -> bool:
        """Whether it is set in any process."""
        if self.size == 1:
            return flag
        told = torch.tensor(float(flag), device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return bool(told.item())

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """What comes next needs all processes: an error of one's numbers becomes an error in each.

        Raises:
            FloatingPointError: the block raised it, here or in another process.
        """
        found = None
        try:
            yield
        except FloatingPointError as error:
            found = error
        if self.any(found is not None):
            raise found or FloatingPointError("numbers of another process are not finite")

    def interleave(self, shard: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
        """Per-image values in the order of the images, from shards that hold every ``size``-th image.

        Shards are filled up to the same length by images that come round again; those are dropped here.
        """
        if self.size == 1:
            return {name: values[:count] for name, values in shard.items()}
        shards = self._gather({name: values.cpu() for name, values in shard.items()})
        return {name: torch.stack([part[name] for part in shards], 1).flatten(0, 1)[:count] for name in shard}

    def _gather(self, value: Any) -> list[Any]:
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return gathered


ALONE = World()


@contextmanager
def joined(device: str) -> Iterator[tuple[World, str]]:
    """The world that torchrun started this process in, and this process's device; alone without torchrun.

    Args:
        device: ``cpu``, or ``cuda`` for the GPU of this process's local rank.

    Raises:
        InputError: more processes than GPUs on this machine.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield ALONE, device
        return
    if device == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise InputError(
                f"more processes than GPUs: lower --nproc-per-node to {torch.cuda.device_count()}"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size()), device
        dist.barrier()  # nobody leaves while another still talks
    finally:
        dist.destroy_process_group()


def distribute(network: nn.Module, world: World, fsdp: bool) -> nn.Module:
    """The network as it is called for training: as it is, inside DDP, or sharded in place, block by block (FSDP2).

    Raises:
        InputError: sharding was asked for in a single process.
    """
    if world.size == 1:
        if fsdp:
            raise InputError(
                f"{option('fsdp')} shards over processes: start them with torchrun --nproc-per-node N"
            )
        return network
    device = next(network.parameters()).device
    if fsdp:
        mesh = init_device_mesh(device.type, (world.size,))
        for block in network.blocks:  # type: ignore[union-attr]
            fully_shard(block, mesh=mesh)
        fully_shard(network, mesh=mesh)
        return network
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=ids)


@contextmanager
def synchronized(networks: Mapping[str, nn.Module], last: bool) -> Iterator[None]:
    """Gradients are exchanged between processes in the last part of a batch only."""
    with ExitStack() as stack:
        for network in networks.values():
            if isinstance(network, DistributedDataParallel) and not last:
                stack.enter_context(network.no_sync())
            elif isinstance(network, FSDPModule):
                network.set_requires_gradient_sync(last)
        yield


def gradient_norm(network: nn.Module) -> Tensor:
    """Of all of its parameters, in all processes; sharded where they are."""
    return nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])


def whole(value: Tensor) -> Tensor:
    """A number that may be sharded, put together; every process has to call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_weights(model: nn.Module) -> dict[str, Any]:
    """Weights on the CPU, sharded ones put together; every process has to call it, the main one gets them."""
    return dict(get_model_state_dict(model, options=_WHOLE)) if _is_sharded(model) else model.state_dict()


def whole_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimizer, sharded ones put together; as ``whole_weights``."""
    if not _is_sharded(network):
        return optimizer.state_dict()
    # torch would make a step, if only of length 0, to have a state to ask for
    return dict(get_optimizer_state_dict(network, optimizer, options=_WHOLE)) if optimizer.state else {}


def load_weights(model: nn.Module, state: dict[str, Any]) -> None:
    """What ``whole_weights`` gave, in every process."""
    if _is_sharded(model):
        set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True))
    else:
        model.load_state_dict(state)


def load_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """What ``whole_optimizer`` gave, in every process."""
    if not _is_sharded(network):
        # which kernels compute it is this machine's affair
        fused = [group["fused"] for group in optimizer.param_groups]
        # said before: it decides on which device the number of steps is kept
        groups = [group | {"fused": ours} for group, ours in zip(state["param_groups"], fused, strict=True)]
        optimizer.load_state_dict({**state, "param_groups": groups})
    elif state:
        set_optimizer_state_dict(network, optimizer, state, options=StateDictOptions(full_state_dict=True))


def _is_sharded(network: nn.Module) -> bool:
    return any(isinstance(module, FSDPModule) for module in network.modules())
