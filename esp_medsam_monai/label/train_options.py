"""What a client may ask of a training, checked before anything is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.modalities import is_said
from esp_medsam_monai.transforms import RouteModality

__all__ = ["VAL_SPLIT", "TrainOptions"]

VAL_SPLIT = 0.2
"""Share of the labelled images that a training is measured on, unless the request says otherwise."""


@dataclass(frozen=True)
class TrainOptions:
    """Parameters of a training request; None: as the bundle's ``label.yaml`` says.

    Args:
        val_split: share of the images of each modality that are kept for validation, 0 to below 1.
        max_epochs: number of epochs.
        lr: highest learning rate.
        device: name of a device of torch.
        modality: one of the network's modalities, for all images; None: each as it says itself.
    """

    val_split: float = VAL_SPLIT
    max_epochs: int | None = None
    lr: float | None = None
    device: str | None = None
    modality: str | None = None

    @classmethod
    def of(cls, request: Mapping[str, Any], modalities: Mapping[str, Sequence[str]]) -> TrainOptions:
        """Read them from a request. A list is what a client sends for a choice that was left alone: it says nothing.

        Args:
            request: the request's parameters; numbers may be texts.
            modalities: the network's ``{modality: [targets]}``.

        Raises:
            InputRefused: ``BAD_OPTION``, ``UNKNOWN_MODALITY`` or ``NO_WEIGHTS``, with a sentence about the value.
        """
        said = {key: value for key, value in request.items() if not isinstance(value, list) and value not in (None, "")}
        epochs = _number(said, "max_epochs", 1, None)
        if epochs is not None and epochs != int(epochs):
            raise InputRefused("BAD_OPTION", f"max_epochs should be a whole number, got {said['max_epochs']!r}.")
        split = _number(said, "val_split", 0, 1)
        rate = _number(said, "lr", 0, None)
        if rate == 0:
            raise InputRefused("BAD_OPTION", "lr should be more than 0: with 0 nothing is learned.")
        return cls(
            val_split=VAL_SPLIT if split is None else split,
            max_epochs=None if epochs is None else int(epochs),
            lr=rate,
            device=_device(said.get("device")),
            modality=_modality(said.get("modality"), modalities),
        )

    def overrides(self) -> dict[str, Any]:
        """What of it goes to the bundle's config, by id."""
        given = {"max_epochs": self.max_epochs, "lr": self.lr, "device#name": self.device}
        return {name: value for name, value in given.items() if value is not None}


def _number(said: Mapping[str, Any], name: str, lowest: float, below: float | None) -> float | None:
    if name not in said:
        return None
    try:
        value = math.nan if isinstance(said[name], bool) else float(said[name])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value) or value < lowest or (below is not None and value >= below):
        limits = f"from {lowest} on" if below is None else f"from {lowest} to below {below}"
        raise InputRefused("BAD_OPTION", f"{name} should be a number {limits}, got {said[name]!r}.")
    return value


def _device(name: Any) -> str | None:
    if name is None:
        return None
    try:
        device = torch.device(str(name))
    except RuntimeError as error:
        raise InputRefused("BAD_OPTION", f"device {name!r} is none that torch knows; take cpu or cuda.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise InputRefused("BAD_OPTION", f"there is no device {name!r}: this machine has {found} of CUDA; take cpu.")
    return str(device)


def _modality(word: Any, modalities: Mapping[str, Sequence[str]]) -> str | None:
    if not is_said(word):
        return None
    request = SimpleNamespace(meta={"filename_or_obj": "the request"})
    return str(RouteModality(word, modalities)(request).meta["modality"])
