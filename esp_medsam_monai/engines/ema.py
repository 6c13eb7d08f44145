"""An exponential moving average of a network's weights, beside the network that learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from esp_medsam_monai.engines.ranks import share_running_statistics

__all__ = ["EMAWeights"]


class EMAWeights:
    """Handler: after each step of the optimizer the average moves towards the weights; validation uses the average.

    ``average = d * average + (1 - d) * weights`` with ``d = min(decay, (1 + n) / (10 + n))`` after ``n`` steps: the
    average of a short training is not held back by the weights that it began with (the rule of TensorFlow's
    ``ExponentialMovingAverage``). The first step copies.

    Buffers of floating numbers (running means and variances of batch norms) are averaged like weights, to which they
    belong; others (counters) are copied. What does not move in the network (frozen parameters, batch norms in eval
    mode) is bit for bit the same in the average.

    torch's ``AveragedModel`` does the work. ignite's ``EMAHandler`` counts iterations and not the optimizer's steps,
    which gradient accumulation tells apart, and its rounding moves what is frozen. Attach it before the handler that
    validates, and give it to ``TrainingCheckpoints``.

    Args:
        network: network that is trained, also behind ``DistributedDataParallel``.
        optimizer: whose steps count.
        decay: ``d`` of a long training, between 0 and 1, for instance 0.999; None: no average, nothing is done.
        validator: evaluator that is to use the average.

    Raises:
        ValueError: when ``decay`` is not between 0 and 1.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        decay: float | None = None,
        validator: SupervisedEvaluator | None = None,
    ) -> None:
        if decay is not None and not 0 < decay < 1:
            raise ValueError(f"ema_decay should be between 0 and 1, for instance 0.999, or null; got {decay}.")
        self.network = network
        self.optimizer = optimizer
        self.decay = decay
        self.validator = validator
        self.average: AveragedModel | None = None
        if decay is not None:
            self.average = AveragedModel(self._module(), multi_avg_fn=self._move, use_buffers=True)
            self.average.eval().requires_grad_(False)

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if self.average is None:
            return
        if self.validator is not None:
            self.validator.network = self.average.module
        self.optimizer.register_step_post_hook(lambda *_: self._step())
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._share)

    def weights(self) -> dict[str, torch.Tensor] | None:
        """Bare state dict of the average, on the CPU; None without one."""
        if self.average is None:
            return None
        return {key: value.detach().cpu().contiguous() for key, value in self.average.module.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """``{"steps", "network"}``; empty without an average."""
        if self.average is None:
            return {}
        return {"steps": int(self.average.n_averaged), "network": self.weights()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with an average.

        Args:
            state: from :meth:`state_dict`; not looked at without ``decay``.
        """
        if self.average is not None:
            self.average.module.load_state_dict(state["network"])
            self.average.n_averaged.fill_(state["steps"])

    def _module(self) -> nn.Module:
        return getattr(self.network, "module", self.network)

    def _step(self) -> None:
        assert self.average is not None
        self.average.update_parameters(self._module())

    def _move(self, average: Any, weights: Any, steps: torch.Tensor | int) -> None:
        assert self.decay is not None
        if average[0].is_floating_point():
            n = int(steps)
            get_ema_multi_avg_fn(min(self.decay, (1 + n) / (10 + n)))(average, weights, n)
        else:
            torch._foreach_copy_(average, weights)

    def _share(self, _: Engine) -> None:
        """Ranks have seen other images, and are to validate the network that is kept."""
        assert self.average is not None
        share_running_statistics(self.average.module)
