"""What every runtime is: the network's function, computed by some library in some precision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from esp_medsam_monai.networks import ABSENT_LOGIT, SelfPromptingNetwork

__all__ = ["PRECISIONS", "Runtime", "RuntimeMissing"]

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
"""Number formats of the large matrix products, the most exact first."""


class RuntimeMissing(RuntimeError):
    """A runtime or a precision cannot be used here; the message says why and what to do."""


class Runtime(ABC):
    """A trained network, called like it, on one device and in one precision; not for training.

    What a runtime needs for a modality and an image side it makes at their first use. The network is read at that
    moment: whoever changes its weights makes a new runtime.

    Args:
        network: the trained network; it is left as it is.
        precision: one of :data:`PRECISIONS`.
        device: where to compute; None for the network's.

    Raises:
        RuntimeMissing: when it cannot be used here.
    """

    name: ClassVar[str]
    """As users write it."""

    def __init__(
        self, network: SelfPromptingNetwork, precision: str = "fp32", device: torch.device | None = None
    ) -> None:
        self.network = network
        self.precision = precision
        self.device = device if device is not None else network.target_table.device
        reason = self.missing(self.device, precision)
        if reason is not None:
            raise RuntimeMissing(f"runtime {self.name} in {precision} cannot be used: {reason}")
        self.modalities = network.modalities
        self.img_size = network.img_size
        self.default_modality = network.default_modality

    @classmethod
    @abstractmethod
    def missing(cls, device: torch.device, precision: str) -> str | None:
        """Why this runtime cannot be used for a device and a precision, with what to do; None when it can."""

    @abstractmethod
    def prepare(self, modality: str, side: int) -> None:
        """Make what images of a modality and a side in pixels need; else the first such image waits for it."""

    @abstractmethod
    def release(self) -> None:
        """Give up what was made for modalities and sides; what is needed again is made again."""

    @abstractmethod
    def _segment(self, x: Tensor, modality: str) -> Tensor:
        """Mask logits ``(B, targets, S, S)``, float32, of images ``(B, 3, S, S)`` of one modality."""

    @torch.no_grad()
    def __call__(self, x: Tensor, modality: str | Sequence[str] | Tensor | None = None) -> Tensor:
        """Segment a batch, as :meth:`SelfPromptingNetwork.forward` does.

        Args:
            x: ``(B, in_channels, S, S)``, normalised, S a multiple of 32.
            modality: a name for all images, a name an image, an index tensor ``(B,)``, or None for the default one.

        Returns:
            mask logits ``(B, C, S, S)``, float32, on the runtime's device. Channels that an image's modality does not
            have hold -1e4.

        Raises:
            ValueError: when the modality is unknown or missing.
        """
        names = self._names(modality, len(x))
        x = x.to(self.device, torch.float32)
        channels = [len(self.modalities[name]) for name in names]
        width = max(map(len, self.modalities.values())) if isinstance(modality, Tensor) else max(channels, default=1)
        if len(set(names)) == 1 and channels[0] == width:
            return self._segment(x, names[0])
        logits = x.new_full((len(x), width, *x.shape[-2:]), ABSENT_LOGIT)
        for name in dict.fromkeys(names):
            rows = torch.tensor([row for row, other in enumerate(names) if other == name], device=self.device)
            part = self._segment(x[rows], name)
            logits[rows, : part.shape[1]] = part
        return logits

    def _names(self, modality: str | Sequence[str] | Tensor | None, batch: int) -> list[str]:
        """The modality of each image."""
        known = list(self.modalities)
        if isinstance(modality, Tensor):
            numbers = modality.tolist()
            if any(not 0 <= number < len(known) for number in numbers):
                raise ValueError(f"unknown modality index in {numbers}; this network has {len(known)} modalities.")
            names = [known[number] for number in numbers]
        elif modality is None or isinstance(modality, str):
            name = modality or self.default_modality
            if name is None:
                raise ValueError(f"this network needs a modality for every image; it knows: {', '.join(known)}.")
            names = [name] * batch
        else:
            names = list(modality)
        if len(names) != batch:
            raise ValueError(f"got {len(names)} modalities for {batch} images.")
        for name in names:
            self.network.modality_index(name)
        return names

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.precision}, {self.device})"
