"""What one training or validation step does with a mixed-modality batch, for MONAI's supervised engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from monai.engines import IterationEvents, SupervisedTrainer
from monai.utils import CommonKeys

__all__ = ["TrainingStep", "prepare_batch", "step_loss"]


def prepare_batch(
    batch: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor, tuple[list[str]], dict[str, Any]]:
    """Hand the modality of every image to the network; for ``SupervisedTrainer`` and ``SupervisedEvaluator``.

    Args:
        batch: ``image`` ``(B, 3, H, W)``, ``label`` ``(B, 1, H, W)``, ``modality`` (B names).
        device: where image and label go.
        non_blocking: copy without waiting where memory is pinned.
        kwargs: further arguments of ``Tensor.to``.

    Returns:
        image, label, positional arguments of the network (the names) and its keyword arguments (none).
    """
    image = batch[CommonKeys.IMAGE].to(device=device, non_blocking=non_blocking, **kwargs)
    label = batch[CommonKeys.LABEL].to(device=device, non_blocking=non_blocking, **kwargs)
    return image, label, (list(batch["modality"]),), {}


class TrainingStep:
    """``iteration_update`` of a ``SupervisedTrainer`` for losses that look at the network's features.

    MONAI's own step gives the loss one tensor and no modality, and autocasts on CUDA alone; this one calls
    ``network(image, modality, return_features=True)`` through the trainer's inferer, then
    ``loss_function(features, label, modality)``, and works on any device.

    Args:
        precision: ``"bf16"`` runs the network in bfloat16 where autocast deems it safe (the loss stays in float32);
            ``"fp32"`` does not.
        max_grad_norm: the gradient's norm is cut at this value; None leaves it.
        seed: what is random in the network (dropout) depends in each step on this and the number of the iteration
            alone, so that a resumed training repeats an undisturbed one; None leaves torch's random state as it is.
    """

    def __init__(
        self,
        precision: Literal["fp32", "bf16"] = "fp32",
        max_grad_norm: float | None = 1.0,
        seed: int | None = None,
    ) -> None:
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision should be 'fp32' or 'bf16', got {precision!r}.")
        self.precision = precision
        self.max_grad_norm = max_grad_norm
        self.seed = seed

    def __call__(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        """Train on one batch.

        Returns:
            ``image``, ``label``, ``pred`` (dictionary of features) and ``loss``, as MONAI's handlers expect.

        Raises:
            FloatingPointError: when the loss is not finite; the weights are still those of the step before.
        """
        device = torch.device(engine.state.device)
        if self.seed is not None:
            state = np.random.SeedSequence([self.seed % 2**32, engine.state.iteration]).generate_state(1)
            torch.manual_seed(int(state[0]))
        image, label, names, kwargs = engine.prepare_batch(batchdata, device, engine.non_blocking, **engine.to_kwargs)
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)
        output: dict[str, Any] = {CommonKeys.IMAGE: image, CommonKeys.LABEL: label}
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            output[CommonKeys.PRED] = engine.inferer(image, engine.network, *names, return_features=True, **kwargs)
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        features = {key: value.float() for key, value in output[CommonKeys.PRED].items()}
        loss = engine.loss_function(features, label, *names)
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} in iteration {engine.state.iteration}; a smaller learning rate helps most "
                "often, then precision fp32. Start again with --resume true."
            )
        loss.backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(engine.network.parameters(), self.max_grad_norm)
        engine.optimizer.step()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        output[CommonKeys.LOSS] = loss.detach()
        return output


def step_loss(output: Mapping[str, Any]) -> float:
    """The loss out of a step's output, for handlers that take an ``output_transform``."""
    return float(output[CommonKeys.LOSS])
