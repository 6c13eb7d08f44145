"""The training loss of ESP-MedSAM: masks of each image's own targets, plus the coarse patch map.

Source: ESP-MedSAM (arXiv 2407.14153), losses of the final mask and of the patch generator. The paper's weights could
not be read; 0.5 for the patch map is the value of the sibling system ``CUHK-AIM-Group/UN-SAM``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.losses import DiceFocalLoss
from torch import Tensor, nn
from torch.nn import functional as F

from esp_medsam_monai.modalities import label_values

__all__ = ["ESPMedSAMLoss", "labelled_targets", "patch_target"]


def labelled_targets(label: Tensor) -> list[Sequence[str] | None]:
    """For each image of a batch the targets that its label speaks of, None where that is all of its modality.

    Args:
        label: ``(B, 1, H, W)``; a ``MetaTensor`` says it with ``meta["labelled"]``, a plain tensor speaks of all.
    """
    return list(getattr(label, "meta", {}).get("labelled") or [None] * len(label))


def patch_target(foreground: Tensor, patch_size: int = 32) -> Tensor:
    """Target of the patch map: a patch is foreground if any of its pixels is.

    Args:
        foreground: ``(B, 1, H, W)``, 0 or 1.
        patch_size: pixels a patch.

    Returns:
        ``(B, 1, H/patch_size, W/patch_size)``.
    """
    return F.max_pool2d(foreground, patch_size, patch_size)


class ESPMedSAMLoss(nn.Module):
    """Mask loss plus weighted patch loss, averaged over images.

    Every target is its own sigmoid. Channels that an image's modality does not have are left out, and so are targets
    that its label does not speak of (:func:`labelled_targets`). The patch map means the foreground of all targets: an
    image whose label speaks of some alone says nothing about it, and adds 0 to the patch loss.

    Args:
        modalities: ``{modality: [targets]}`` of the network; gives the label values.
        mask_loss: loss of logits and target, both ``(1, T, H, W)``; default Dice plus focal loss of the sigmoid.
        patch_weight: weight of the patch map's binary cross-entropy; 0 leaves it out.

    Raises:
        ValueError: when ``patch_weight`` is negative.
    """

    def __init__(
        self,
        modalities: Mapping[str, Sequence[str]],
        mask_loss: nn.Module | None = None,
        patch_weight: float = 0.5,
    ) -> None:
        super().__init__()
        if patch_weight < 0:
            raise ValueError(f"patch_weight should not be negative, got {patch_weight}.")
        self.values = label_values(modalities)
        self.mask_loss = mask_loss if mask_loss is not None else DiceFocalLoss(sigmoid=True, lambda_focal=1.0)
        self.patch_weight = patch_weight

    def components(self, features: Mapping[str, Tensor], label: Tensor, modality: Sequence[str]) -> dict[str, Tensor]:
        """The parts of the loss, unweighted.

        Args:
            features: ``logits`` ``(B, C, H, W)`` and, unless the network has no patch prompt, ``patch_logits``
                ``(B, 1, H/32, W/32)``.
            label: ``(B, 1, H, W)`` with the network's label values, see also :func:`labelled_targets`.
            modality: the modality of each image.

        Returns:
            ``{"mask": scalar}`` and, where it applies, ``"patch"``.

        Raises:
            ValueError: when a modality is unknown.
        """
        unknown = sorted(set(modality) - set(self.values))
        if unknown:
            raise ValueError(f"unknown modality {unknown[0]!r}; the loss knows: {', '.join(self.values)}.")
        logits = features["logits"].float()
        spoken = labelled_targets(label)
        label = label.as_subclass(Tensor)
        losses = []
        for row, name in enumerate(modality):
            wanted = spoken[row]
            chosen = [
                (channel, value)
                for channel, (target, value) in enumerate(self.values[name].items())
                if wanted is None or target in wanted
            ]
            # Plain numbers and slices: lists and tensors of the host would have to wait for a GPU.
            target = torch.cat([label[row : row + 1] == value for _, value in chosen], dim=1).float()
            own = torch.cat([logits[row : row + 1, channel : channel + 1] for channel, _ in chosen], dim=1)
            losses.append(self.mask_loss(own, target))
        parts = {"mask": torch.stack(losses).mean()}
        if self.patch_weight and "patch_logits" in features:
            target = patch_target((label > 0).float())
            each = F.binary_cross_entropy_with_logits(features["patch_logits"].float(), target, reduction="none")
            means = each.flatten(1).mean(1)
            if any(wanted is not None for wanted in spoken):
                means = means * torch.stack([means.new_full((), wanted is None) for wanted in spoken])
            parts["patch"] = means.mean()
        return parts

    def forward(
        self, features: Mapping[str, Tensor], label: Tensor, modality: Sequence[str], return_components: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of :meth:`components`.

        Args:
            features: see :meth:`components`, as the next two.
            label: ``(B, 1, H, W)``.
            modality: the modality of each image.
            return_components: return the parts too.

        Returns:
            scalar; with ``return_components`` the scalar and :meth:`components`.
        """
        parts = self.components(features, label, modality)
        loss = parts["mask"] + self.patch_weight * parts["patch"] if "patch" in parts else parts["mask"]
        return (loss, parts) if return_components else loss
