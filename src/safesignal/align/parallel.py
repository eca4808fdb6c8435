"""Splitting a model over processes (`fully_shard`), and putting its tensors together again for checkpoints.

Tested with two CPU processes over gloo: one step equals that of the unsharded model, and a checkpoint written by two
processes goes on in two. Not tested: GPUs, NCCL, more than one node, mixed precision together with sharding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["gathered", "leave", "load_optimizer", "put_back", "shard", "whole"]


def shard(module: nn.Module, blocks: Sequence[nn.Module]) -> nn.Module:
    """Split a module's parameters over all processes, in place: one unit per block, and one for the rest.

    Needs a process group, and the module on its device. Gradients become means over processes, as with data parallel.
    """
    for block in blocks:
        fully_shard(block)
    fully_shard(module)
    return module


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Hold the parameters outside the blocks together, so that parts of a sharded module can be called by themselves.

    Blocks gather themselves as they run. Does nothing for a module that is not sharded.
    """
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


def whole(value: Any) -> Any:
    """Return nested state with every sharded tensor put together; all processes must call it, in the same order."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, Mapping):
        return {key: whole(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(part) for part in value)
    return value


@torch.no_grad()
def put_back(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into a model's own, splitting them where it is sharded; the names must agree.

    Raises:
        KeyError: If a tensor is missing from `saved`.
    """
    for name, tensor in own.items():
        tensor.copy_(_like(saved[name], tensor))


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Load an optimiser's whole state, splitting moments as the parameters they belong to are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        index: {name: _like(part, parameters[index]) for name, part in own.items()}
        for index, own in saved["state"].items()
    }
    optimizer.load_state_dict({**saved, "state": moments})


def leave() -> None:
    """Leave the group of processes, if this is one of several: the last thing that each of them does.

    A process that ends inside its group tears it down together with the interpreter, while gloo's threads still run: at
    times that ends in `terminate called without an active exception`, and a finished run counts as failed.
    """
    if distributed.is_initialized():
        distributed.barrier()  # no process goes while another still has something to say to it
        distributed.destroy_process_group()


def _like(value: Any, tensor: Tensor) -> Any:
    if isinstance(tensor, DTensor) and isinstance(value, Tensor) and value.shape == tensor.shape:
        return distribute_tensor(value, tensor.device_mesh, tensor.placements)
    return value
