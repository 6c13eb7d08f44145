"""What an inferer asks of whatever it is given as a network."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn

__all__ = ["device_of", "unwrapped"]


def unwrapped(network: Any) -> Any:
    """The network itself behind ``DistributedDataParallel``."""
    return network.module if isinstance(network, (nn.parallel.DistributedDataParallel, nn.DataParallel)) else network


def device_of(network: Any, default: torch.Tensor) -> torch.device:
    """Where the network computes; that of the input for a callable without parameters."""
    parameters = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), default.device)
