"""The processes of a distributed run, as a component for configs; ``torchrun`` starts them."""

from __future__ import annotations

import logging
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from esp_medsam_monai.engines.device import default_device

__all__ = ["ProcessGroup", "distributed"]

_LOGGER = logging.getLogger(__name__)


class ProcessGroup:
    """Joins this process to those that ``torchrun`` started, and gives it its device; :meth:`end` leaves them.

    Gradients travel by NCCL between GPUs; tensors and objects on the CPU always by gloo. Where one process dies,
    ``torchrun`` ends the others of its machine; those of other machines notice at the latest after ``timeout_minutes``.
    Not started by ``torchrun``, the process stays alone, and says so.

    Args:
        device: ``"cpu"`` leaves the GPUs alone; None takes the GPU of the process's number on its machine, or the CPU
            where there is none.
        timeout_minutes: longest time that a process waits for the others, for instance while the main one checks the
            data.
        quiet: the other ranks log nothing below warnings.

    Raises:
        ValueError: when the machine has fewer GPUs than processes.
    """

    def __init__(self, device: str | None = None, timeout_minutes: float = 60.0, quiet: bool = True) -> None:
        self.device = default_device(device)
        self._quiet = False
        if "RANK" not in os.environ:
            _LOGGER.warning(
                "one process on %s; several: python -m torch.distributed.run --standalone --nproc_per_node=N -m "
                "monai.bundle run ...",
                self.device,
            )
            return
        backend = "gloo"
        if self.device.type == "cuda":
            self.device = _own_gpu()
            backend = "cpu:gloo,cuda:nccl"
        if not dist.is_initialized():
            dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
        self._quiet = quiet and dist.get_rank() > 0
        if self._quiet:
            logging.disable(logging.INFO)
        _LOGGER.info("%d processes, this one on %s", dist.get_world_size(), self.device)

    def end(self) -> None:
        """Leave the group, once all are here."""
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()
        if self._quiet:
            logging.disable(logging.NOTSET)


def distributed(network: nn.Module, device: torch.device | str) -> nn.Module:
    """A network whose gradients are the mean over all ranks, for the trainer; checkpoints and validation take the bare.

    Batch norms that learn see the batches of all GPUs (``SyncBatchNorm``); gloo has no such thing, so on CPUs each rank
    normalises by its own images. Where a rank's batch lacks a modality, the controller and the queries of it get the
    gradients of the others.

    Args:
        network: on the device; its parts that stay as they are must not require gradients any more.
        device: of this process.

    Returns:
        ``DistributedDataParallel`` around it; the network itself without a process group, or where nothing of it is
        trained.
    """
    if not dist.is_initialized() or not any(parameter.requires_grad for parameter in network.parameters()):
        return network
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu and _learns_batch_norm(network):
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return DistributedDataParallel(network, device_ids=[device] if on_gpu else None, find_unused_parameters=True)


def _own_gpu() -> torch.device:
    number, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= count:
        raise ValueError(
            f"this machine has {count} GPUs for at least {number + 1} processes; give --nproc_per_node={count}."
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _learns_batch_norm(network: nn.Module) -> bool:
    return any(
        isinstance(module, nn.modules.batchnorm._BatchNorm)
        and any(parameter.requires_grad for parameter in module.parameters())
        for module in network.modules()
    )
