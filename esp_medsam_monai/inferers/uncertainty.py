"""How unsure the network is of an image: a number to choose with what a person should label next.

Two signs that cost no further forward pass: probabilities near one half (entropy, the classic measure of uncertainty
sampling, Lewis and Gale 1994), and a patch prompt that says something else than the mask which it prompted. The second
belongs to ESP-MedSAM (arXiv 2407.14153), whose two outputs learn the same foreground from the same embedding.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor, nn
from torch.nn import functional as F

from esp_medsam_monai.geometry import slice_plan
from esp_medsam_monai.inferers.slice_batch import SliceBatchInferer

__all__ = ["ImageUncertainty", "Uncertainty", "slice_sums"]

_NO_PATCH = 0.5
"""Weight of the statement that there is nothing, in patches: two empty maps agree, whatever their last digits say."""


@dataclass(frozen=True)
class Uncertainty:
    """How unsure the network is of a slice, an image or a volume; every number from 0, certain, to 1.

    Args:
        score: mean of the two parts, or the one that there is.
        entropy: mean binary entropy, in bits, of the pixels of the mask; a pixel counts as much as it is believed to
            belong to the target. The mean over all pixels would call every image with a small target certain, and that
            over a cut mask would not see what is missed by a hair.
        disagreement: one minus soft Dice between the patch prompt and the mask of all targets, reduced to patches; None
            when the network has no patch prompt. Probabilities count as they are: patches that both half believe in
            are agreed upon by half.
        slices: number of slices that were looked at; with 0 the image is constant, and certain.
    """

    score: float
    entropy: float
    disagreement: float | None
    slices: int

    @classmethod
    def of_sums(cls, sums: Tensor) -> Uncertainty:
        """Of one or more slices together.

        Args:
            sums: ``(S, 2 or 4)``, see :func:`slice_sums`.
        """
        total = sums.double().sum(0).tolist()
        entropy = total[0] / total[1] if total[1] else 0.0
        if sums.shape[1] == 2:
            return cls(entropy, entropy, None, len(sums))
        disagreement = 1 - (2 * total[2] + _NO_PATCH) / (total[3] + _NO_PATCH)
        return cls((entropy + disagreement) / 2, entropy, disagreement, len(sums))

    def as_json(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)


def slice_sums(logits: Tensor, patch_logits: Tensor | None = None) -> Tensor:
    """What the uncertainty of slices is made of; it adds up over slices.

    A patch is foreground as far as its most probable pixel is, which is what the patch prompt learned.

    Args:
        logits: ``(S, K, h, w)`` of K targets, each its own sigmoid, at the low resolution of the decoder.
        patch_logits: ``(S, 1, h/8, w/8)`` of the patch prompt, or None.

    Returns:
        ``(S, 4)``: probability times entropy, and probability, summed over pixels and targets; patch prompt times mask,
        and patch prompt plus mask, summed over patches. Without ``patch_logits`` ``(S, 2)``.
    """
    logits = logits.float()
    probability = torch.sigmoid(logits)
    entropy = (probability * F.softplus(-logits) + (1 - probability) * F.softplus(logits)) / math.log(2)
    sums = [probability * entropy, probability]
    if patch_logits is not None:
        patches = torch.sigmoid(patch_logits.float())
        mask = F.adaptive_max_pool2d(probability.amax(1, keepdim=True), patches.shape[-2:])
        sums += [patches * mask, patches + mask]
    return torch.stack([each.flatten(1).sum(1) for each in sums], dim=1)


class ImageUncertainty:
    """Scores images and volumes, slice by slice as an inferer sees them.

    The slices of a volume count together, as one large image: slices without a target weigh nothing then, and one
    doubtful slice at the end of an organ little. (On validation volumes of the hippocampus the rank correlation with
    one minus Dice was 0.70 so, and 0.24 for the mean of the most uncertain quarter of the slices.) Slices that the
    inferer does not run, because they are constant, count nowhere.

    Args:
        inferer: gives the way from an image to squares; its runtime is not used, for it gives masks alone.
        most_slices: of a volume with more, so many are looked at, evenly spread; None for all.

    Raises:
        ValueError: when ``most_slices`` is below 1.
    """

    def __init__(self, inferer: SliceBatchInferer, most_slices: int | None = 32) -> None:
        if most_slices is not None and most_slices < 1:
            raise ValueError(f"most_slices should be at least 1, got {most_slices}.")
        self.inferer = inferer
        self.most_slices = most_slices

    def __call__(self, image: Tensor, network: nn.Module, modality: str | None = None) -> Uncertainty:
        """Score one image.

        Args:
            image: ``(C, *spatial)``, values 0..255, as after preprocessing; a ``MetaTensor`` as a rule.
            network: one of ours, see :class:`~esp_medsam_monai.networks.SelfPromptingNetwork`.
            modality: its name; None for that in ``image.meta``, and where there is none, the network's default.
        """
        witness = _Witness(network)
        self.inferer(self._spread(image).unsqueeze(0), witness, modality)
        return Uncertainty.of_sums(torch.cat(witness.sums)) if witness.sums else Uncertainty(0.0, 0.0, None, 0)

    def _spread(self, image: Tensor) -> Tensor:
        """So many slices of a volume as are looked at; the same ones for every storage order."""
        spatial = tuple(image.shape[1:])
        meta = image.meta if isinstance(image, MetaTensor) else {}
        affine = image.affine if isinstance(image, MetaTensor) else torch.eye(4)
        plan = slice_plan(affine, spatial, self.inferer.axis, meta.get("slice_axis"))
        if self.most_slices is None or plan.spatial_dims == 2 or spatial[plan.axis] <= self.most_slices:
            return image
        count = spatial[plan.axis]
        step = math.ceil(count / self.most_slices)
        chosen = range((count - 1) % step // 2, count, step)
        indices = [count - 1 - i for i in reversed(chosen)] if plan.flips[0] else list(chosen)
        return image.index_select(1 + plan.axis, torch.tensor(indices, device=image.device))


class _Witness(nn.Module):
    """Called like the network; notes the sums of every slice that passes."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.modalities = network.modalities
        self.img_size = network.img_size
        self.default_modality = network.default_modality
        self.sums: list[Tensor] = []

    def forward(self, x: Tensor, modality: str | None = None) -> Tensor:
        features = self.network(x, modality, return_features=True)
        logits: Tensor = features["logits"]
        self.sums.append(slice_sums(features["low_res_logits"], features.get("patch_logits")).cpu())
        return logits
