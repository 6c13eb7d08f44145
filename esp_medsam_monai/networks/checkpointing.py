"""Activation checkpointing: a block keeps its input alone, and is computed a second time in the backward pass.

Source: training deep nets with sublinear memory cost (arXiv 1604.06174), as ``torch.utils.checkpoint`` has it. That the
second computation leaves the statistics of batch norms as they are is the idea of fairscale's ``patch_batchnorm``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

__all__ = ["run_block"]


def run_block(block: Callable[..., Tensor], *args: Any, use_checkpoint: bool) -> Tensor:
    """Call a block, with its activations kept or computed again.

    Losses, gradients and running statistics are the same either way. Without gradients nothing would be kept anyway,
    and the block is simply called.

    Args:
        block: draws no random numbers. What it uses besides its arguments may learn too.
        args: of the block; a module among them counts as part of it.
        use_checkpoint: compute the activations again in the backward pass.

    Returns:
        what the block returns.
    """
    if not use_checkpoint or not torch.is_grad_enabled():
        return block(*args)
    roots = [each for each in (block, *args) if isinstance(each, nn.Module)]
    norms = [module for root in roots for module in root.modules() if isinstance(module, _NormBase)]
    return checkpoint(
        block, *args, use_reentrant=False, preserve_rng_state=False, context_fn=partial(_first_and_second, norms)
    )


def _first_and_second(norms: Sequence[_NormBase]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds the first computation, and what surrounds the second."""
    return nullcontext(), _spare_statistics(norms)


@contextmanager
def _spare_statistics(norms: Sequence[_NormBase]) -> Iterator[None]:
    """Let norms that are training write their statistics into copies, which are thrown away.

    To switch ``track_running_stats`` off would do the same, but fewer tensors would be saved for the backward pass than
    in the first computation, which torch refuses.
    """
    kept = [(norm, name, value) for norm in norms if norm.training for name, value in norm.named_buffers(recurse=False)]
    for norm, name, value in kept:
        setattr(norm, name, value.clone())
    try:
        yield
    finally:
        for norm, name, value in kept:
            setattr(norm, name, value)
