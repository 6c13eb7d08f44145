"""Which expert each row of a batch uses, and how experts are applied without asking the device.

Two ways to the same result. Where the choice is known on the host (names, or an index tensor on the CPU) rows are
grouped, so that a batch of one modality costs a plain layer. Where only the device knows it (an index tensor on a
GPU) the experts' parameters are stacked and gathered: no shape depends on a value, so nothing waits for the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["Route", "apply_experts", "select"]


@dataclass(frozen=True)
class Route:
    """The expert of each of N rows.

    Args:
        host: expert numbers where the host knows them, else None.
        index: expert numbers ``(N,)`` on the device where the host does not know them, else None.
    """

    host: tuple[int, ...] | None = None
    index: Tensor | None = None

    @classmethod
    def from_host(cls, experts: Sequence[int], device: torch.device) -> Route:
        """A route known on the host; a mixed one is handed to the device at once where the device is not the CPU."""
        host = tuple(experts)
        if device.type == "cpu" or len(set(host)) <= 1:
            return cls(host=host)
        return cls(index=to_device(host, device))

    @property
    def uniform(self) -> int | None:
        """The one expert of all rows, None if they differ or the host does not know."""
        return self.host[0] if self.host and len(set(self.host)) == 1 else None


def to_device(values: Sequence[int], device: torch.device) -> Tensor:
    """Host integers as an int64 tensor on the device, without waiting for work queued there."""
    tensor = torch.tensor(values, dtype=torch.long)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def select(parameters: Sequence[Tensor], route: Route) -> Tensor:
    """One tensor a row out of one tensor an expert.

    Args:
        parameters: one tensor an expert, all of one shape ``(...)``.
        route: the expert of each of N rows.

    Returns:
        ``(N, ...)``, or ``(1, ...)`` for a uniform route, to be broadcast.
    """
    if route.uniform is not None:
        return parameters[route.uniform].unsqueeze(0)
    if route.host is not None:
        return torch.stack([parameters[expert] for expert in route.host])
    return torch.stack(tuple(parameters))[route.index]


def apply_experts(experts: Sequence[nn.Module], route: Route, x: Tensor) -> Tensor:
    """Apply to each row of ``x`` its own expert.

    Args:
        experts: modules of one structure, without buffers; each maps ``(N, ...)`` to ``(N, ...)`` row by row.
        route: the expert of each of N rows.
        x: ``(N, ...)``.

    Returns:
        The experts' outputs ``(N, ...)`` in the order of ``x``.
    """
    if route.uniform is not None:
        return experts[route.uniform](x)
    if route.host is not None:
        groups = [[row for row, expert in enumerate(route.host) if expert == e] for e in sorted(set(route.host))]
        parts = [experts[route.host[rows[0]]](x[rows]) for rows in groups]
        order = torch.tensor([row for rows in groups for row in rows], device=x.device)
        return torch.cat(parts)[torch.argsort(order)]
    per_expert = [dict(expert.named_parameters()) for expert in experts]
    gathered = {name: torch.stack([p[name] for p in per_expert])[route.index] for name in per_expert[0]}

    def one_row(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(experts[0], parameters, (row.unsqueeze(0),)).squeeze(0)

    return torch.vmap(one_row)(gathered, x)
