"""What one training or validation step does with a mixed-modality batch, for MONAI's supervised engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from monai.data import MetaTensor
from monai.engines import IterationEvents, SupervisedTrainer
from monai.utils import CommonKeys

from esp_medsam_monai.engines.host_numbers import HostNumbers
from esp_medsam_monai.engines.trainable_parts import TrainableParts

__all__ = ["TrainingStep", "prepare_batch", "step_loss"]

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def prepare_batch(
    batch: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor, tuple[list[str]], dict[str, Any]]:
    """Hand the modality of every image to the network; for ``SupervisedTrainer`` and ``SupervisedEvaluator``.

    Args:
        batch: ``image`` ``(B, 3, H, W)``, ``label`` ``(B, 1, H, W)``, ``modality`` (B names) and perhaps ``labelled``
            (B texts), the targets that a label speaks of, see :class:`~esp_medsam_monai.transforms.EncodeLabelsd`.
        device: where image and label go.
        non_blocking: copy without waiting where memory is pinned.
        kwargs: further arguments of ``Tensor.to``.

    Returns:
        image, label, positional arguments of the network (the names) and its keyword arguments (none). Where a label
        does not speak of all targets, ``label`` is a ``MetaTensor`` that says so in ``meta["labelled"]``.
    """
    image = batch[CommonKeys.IMAGE].to(device=device, non_blocking=non_blocking, **kwargs)
    label = batch[CommonKeys.LABEL].to(device=device, non_blocking=non_blocking, **kwargs)
    texts = batch.get("labelled", ())
    if any(texts):
        label = MetaTensor(label, meta={"labelled": [tuple(text.split(",")) if text else None for text in texts]})
    return image, label, (list(batch["modality"]),), {}


class TrainingStep:
    """``iteration_update`` of a ``SupervisedTrainer`` for losses that look at the network's features.

    MONAI's own step gives the loss one tensor and no modality, and autocasts on CUDA alone; this one calls
    ``network(image, modality, **forward_options)`` through the trainer's inferer, then
    ``loss_function(features, label, modality)``, and works on any device. A loss with a method ``components`` takes
    ``return_components=True`` too, and then returns ``(loss, {name: part})``, as :class:`ESPMedSAMLoss` does.

    With ``accumulation`` the weights change once in so many batches, by the mean gradient of all their images, as one
    large batch would have it (batch norms see each batch alone). A group never crosses the end of an epoch: the last
    batches of an epoch make a step of their own, however few they are. A checkpoint at the end of an epoch thus holds
    everything. ``IterationEvents.MODEL_COMPLETED`` is fired after those iterations alone that changed the weights.

    Args:
        precision: ``"bf16"`` and ``"fp16"`` run the network in half precision where autocast deems it safe (the loss
            stays in float32); fp16 scales the loss and needs CUDA. ``"fp32"`` does not.
        max_grad_norm: the gradient's norm is cut at this value; None leaves it.
        seed: what is random in the network (dropout) depends in each step on this and the number of the iteration
            alone, so that a resumed training repeats an undisturbed one; None leaves torch's random state as it is.
        accumulation: batches a step.
        parts: what is trained, see :class:`~esp_medsam_monai.engines.TrainableParts`; None: everything.
        forward_options: keyword arguments of the network; None asks for its features with ``return_features=True``.

    Raises:
        ValueError: when ``precision`` or ``accumulation`` makes no sense.
    """

    def __init__(
        self,
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
        max_grad_norm: float | None = 1.0,
        seed: int | None = None,
        accumulation: int = 1,
        parts: TrainableParts | None = None,
        forward_options: Mapping[str, Any] | None = None,
    ) -> None:
        if precision not in ("fp32", "bf16", "fp16"):
            raise ValueError(f"precision should be 'fp32', 'bf16' or 'fp16', got {precision!r}.")
        if accumulation < 1:
            raise ValueError(f"accumulation should be at least 1, got {accumulation}.")
        self.precision = precision
        self.max_grad_norm = max_grad_norm
        self.seed = seed
        self.accumulation = accumulation
        self.parts = parts
        self.forward_options = {"return_features": True} if forward_options is None else dict(forward_options)
        self._scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16" and torch.cuda.is_available())
        self._images = 0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to keep to go on: the scale of the loss with fp16, otherwise nothing."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`; one of another precision is passed over."""
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(dict(state))

    def __call__(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Train on one batch.

        Returns:
            one dictionary: ``image``, ``label``, ``pred`` (dictionary of features), ``loss`` and, of a loss that tells
            its ``components``, ``loss_parts`` ``{name: scalar}``; these numbers lie on the CPU. In a list, as MONAI's
            trainers give what they have decollated: handlers look there by ``from_engine(["loss"], first=True)``, the
            one of ``--tracking mlflow`` too.

        Raises:
            FloatingPointError: when the loss is not finite; the weights are still those of the step before.
            ValueError: when fp16 is asked for on another device than CUDA.
        """
        device = torch.device(engine.state.device)
        if self.precision == "fp16" and device.type != "cuda":
            raise ValueError(f"precision fp16 needs a CUDA device, and this one is {device}; take bf16 or fp32.")
        if self.seed is not None:
            state = np.random.SeedSequence([self.seed % 2**32, engine.state.iteration]).generate_state(1)
            torch.manual_seed(int(state[0]))
        image, label, names, kwargs = engine.prepare_batch(batchdata, device, engine.non_blocking, **engine.to_kwargs)
        if image.ndim == 4:  # as our networks' blocks have it inside: one order from the first layer on
            image = image.contiguous(memory_format=torch.channels_last)
        first, last = self._place(engine)
        engine.network.train()
        if self.parts is not None:
            self.parts.train()
        if first:
            engine.optimizer.zero_grad(set_to_none=True)
            self._images = 0
        output: dict[str, Any] = {CommonKeys.IMAGE: image, CommonKeys.LABEL: label}
        with _without_exchange(engine.network, not last):
            with torch.autocast(device.type, dtype=_HALF.get(self.precision), enabled=self.precision in _HALF):
                output[CommonKeys.PRED] = engine.inferer(
                    image, engine.network, *names, **{**self.forward_options, **kwargs}
                )
            engine.fire_event(IterationEvents.FORWARD_COMPLETED)
            features = {key: value.float() for key, value in output[CommonKeys.PRED].items()}
            loss, parts = _loss_and_parts(engine.loss_function, features, label, *names)
            loss = loss + _touched(engine.network, features)
            numbers = HostNumbers([loss, *parts.values()])
            engine.fire_event(IterationEvents.LOSS_COMPLETED)
            if hasattr(engine.network, "no_sync"):  # other ranks must not get, and use, gradients that are not finite
                _check_finite(numbers.get()[0], engine)
            if loss.requires_grad:
                # The sum over a group's images, to be divided by their number; a lone batch already is the mean.
                self._scaler.scale(loss if first and last else loss * len(image)).backward()
            elif hasattr(engine.network, "no_sync"):  # the other ranks would wait for its gradients for ever
                raise ValueError(
                    f"nothing that learns has a part in this batch ({', '.join(sorted(set(names[0])))}). With several "
                    "ranks give a datalist of those modalities alone that --trainable is about."
                )
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        output[CommonKeys.LOSS], *values = numbers.get()
        _check_finite(output[CommonKeys.LOSS], engine)
        if parts:
            output["loss_parts"] = dict(zip(parts, values, strict=True))
        self._images += len(image)
        if last and self._step(engine, 1 if first else self._images):
            engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return [output]

    def _place(self, engine: SupervisedTrainer) -> tuple[bool, bool]:
        """Whether this batch is the first, and the last, of its group."""
        state: Any = engine.state
        place = (state.iteration - 1) % state.epoch_length
        return place % self.accumulation == 0, (place + 1) % self.accumulation == 0 or place + 1 == state.epoch_length

    def _step(self, engine: SupervisedTrainer, divisor: int) -> bool:
        """Change the weights by the gradients divided by a number; False when there are none."""
        if all(parameter.grad is None for parameter in engine.network.parameters()):
            return False  # images of modalities alone that have no part in what learns
        self._scaler.unscale_(engine.optimizer)
        if divisor > 1:
            for parameter in engine.network.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(divisor)
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(engine.network.parameters(), self.max_grad_norm)
        self._scaler.step(engine.optimizer)
        self._scaler.update()
        return True


def _without_exchange(network: Any, wanted: bool) -> AbstractContextManager[None]:
    """Ranks need not exchange the gradients of a batch after which the weights stay as they are."""
    return network.no_sync() if wanted and hasattr(network, "no_sync") else nullcontext()


def _loss_and_parts(loss_function: Any, *args: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss, and its parts where it tells them."""
    return (
        loss_function(*args, return_components=True)
        if hasattr(loss_function, "components")
        else (loss_function(*args), {})
    )


def _check_finite(loss: torch.Tensor, engine: SupervisedTrainer) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {loss.item()} in iteration {engine.state.iteration}; a smaller learning rate helps most "
            "often, then precision fp32. Start again with --resume true."
        )


def _touched(network: Any, features: Mapping[str, torch.Tensor]) -> torch.Tensor | int:
    """0, with a gradient of 0 to every feature: ranks wait for ever for one that the loss has no use for."""
    return sum(value.flatten()[:0].sum() for value in features.values()) if hasattr(network, "no_sync") else 0


def step_loss(output: Sequence[Mapping[str, Any]]) -> float:
    """The loss out of a step's output, for handlers that take an ``output_transform``."""
    return float(output[0][CommonKeys.LOSS])
