"""Any 2D network with an output channel a target, behind the interface of this package's networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from esp_medsam_monai.modalities import check_modalities
from esp_medsam_monai.networks.self_prompting import ABSENT_LOGIT

__all__ = ["RoutedChannels"]


class RoutedChannels(nn.Module):
    """A plain network for many modalities: it draws all targets of all modalities, and each image's own are taken.

    Trains and segments with the same configs as ESP-MedSAM, so that both can be compared: it knows of the modality what
    a choice of channels tells.

    Args:
        network: for instance a MONAI UNet with ``in_channels`` 3; ``(B, 3, S, S)`` -> ``(B, T, S, S)``, T the number of
            all targets.
        modalities: ``{modality: [targets]}``.
        img_size: side of the images it is meant for, in pixels.
        default_modality: modality of images that come without one.

    Example:
        >>> from monai.networks.nets import UNet
        >>> unet = UNet(2, in_channels=3, out_channels=3, channels=(8, 16), strides=(2,))
        >>> net = RoutedChannels(unet, {"xray": ["lung"], "mr": ["grey", "white"]}, img_size=64)
        >>> net(torch.zeros(2, 3, 64, 64), ["mr", "xray"]).shape
        torch.Size([2, 2, 64, 64])
    """

    def __init__(
        self,
        network: nn.Module,
        modalities: Mapping[str, Sequence[str]],
        img_size: int,
        default_modality: str | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.modalities = check_modalities(modalities)
        self.img_size = img_size
        self.default_modality = default_modality or (next(iter(self.modalities)) if len(self.modalities) == 1 else None)
        self._channels: dict[str, range] = {}
        for name, targets in self.modalities.items():
            first = sum(len(channels) for channels in self._channels.values())
            self._channels[name] = range(first, first + len(targets))

    def forward(
        self, x: Tensor, modality: str | Sequence[str] | None = None, return_features: bool = False
    ) -> Tensor | dict[str, Tensor]:
        """Segment a batch, which may mix modalities.

        Args:
            x: ``(B, 3, S, S)``.
            modality: a name for all images, one an image, or None for the default one.
            return_features: return ``{"logits": ...}``.

        Returns:
            mask logits ``(B, C, S, S)``, C the largest number of targets in the batch; absent channels hold -1e4.

        Raises:
            ValueError: when a modality is unknown or missing.
        """
        names = (
            [modality or self.default_modality] * len(x) if modality is None or isinstance(modality, str) else modality
        )
        unknown = [name for name in names if name not in self._channels]
        if unknown:
            raise ValueError(f"unknown modality {unknown[0]!r}; this network knows: {', '.join(self._channels)}.")
        everything = self.network(x)
        own = [self._channels[str(name)] for name in names]
        logits = everything.new_full((len(x), max(map(len, own)), *everything.shape[2:]), ABSENT_LOGIT)
        rows = torch.tensor([row for row, channels in enumerate(own) for _ in channels], device=x.device)
        slots = torch.tensor([slot for channels in own for slot in range(len(channels))], device=x.device)
        taken = torch.tensor([channel for channels in own for channel in channels], device=x.device)
        logits = logits.index_put((rows, slots), everything[rows, taken])
        return {"logits": logits} if return_features else logits
