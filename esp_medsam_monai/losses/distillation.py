"""The loss of distillation: how far the student's embeddings are from the teacher's.

Source: the one stage of ESP-MedSAM's training that is public (``train.py`` of ``xq141839/De-LightSAM``): plain
mean-squared error between the two image embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = ["EmbeddingLoss", "embedding_errors"]


def embedding_errors(features: Mapping[str, Tensor], target: Tensor) -> Tensor:
    """Mean-squared error of every image.

    Args:
        features: ``image_embedding`` ``(B, 256, h, w)`` of the student.
        target: ``(B, 256, h, w)`` of the teacher.

    Returns:
        ``(B,)``, float32.

    Raises:
        ValueError: when the shapes differ, which broadcasting might hide.
    """
    found = features["image_embedding"]
    if found.shape != target.shape:
        raise ValueError(f"student and teacher embed differently: {tuple(found.shape)} and {tuple(target.shape)}.")
    return (found.float() - target.float()).square().flatten(1).mean(dim=1)


class EmbeddingLoss(nn.Module):
    """Mean over the images of the mean-squared error between student and teacher embedding.

    The mean is over images, so that ranks with equal batches average to the mean of the global batch.
    """

    def components(self, features: Mapping[str, Tensor], target: Tensor, modality: Sequence[str]) -> dict[str, Tensor]:
        """The loss of each modality in the batch.

        Args:
            features: ``image_embedding`` ``(B, 256, h, w)`` of the student.
            target: ``(B, 256, h, w)`` of the teacher.
            modality: the modality of each image.

        Returns:
            ``{modality: scalar}``, each a mean over its own images.
        """
        return _means(embedding_errors(features, target), modality)

    def forward(
        self, features: Mapping[str, Tensor], target: Tensor, modality: Sequence[str], return_components: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The loss of the batch.

        Args:
            features: see :meth:`components`, as the next two.
            target: ``(B, 256, h, w)`` of the teacher.
            modality: the modality of each image.
            return_components: return the loss of each modality too.

        Returns:
            scalar; with ``return_components`` the scalar and :meth:`components`.
        """
        errors = embedding_errors(features, target)
        return (errors.mean(), _means(errors, modality)) if return_components else errors.mean()


def _means(errors: Tensor, modality: Sequence[str]) -> dict[str, Tensor]:
    """Mean of each modality's own rows; one by one, as a list of rows would have to wait for a GPU."""
    rows: dict[str, list[Tensor]] = {}
    for error, name in zip(errors.unbind(), modality, strict=True):
        rows.setdefault(name, []).append(error)
    return {name: torch.stack(own).mean() for name, own in rows.items()}
