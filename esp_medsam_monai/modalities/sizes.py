"""The side of the square that a modality's slices are stretched to: fine structures want more pixels."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["image_side", "shipped_image_sizes"]


def shipped_image_sizes() -> dict[str, int]:
    """Sides in pixels of the modalities that the shipped weights see at more than the common side.

    Vessels and nuclei are a few pixels wide. A mask is drawn at a quarter of the side, where they would vanish at the
    side that a lung or a polyp needs.
    """
    return {"fundus": 896, "microscopy": 448}


def image_side(modality: str | None, image_size: int, image_sizes: Mapping[str, int] | None = None) -> int:
    """Side of the square in pixels for images of a modality.

    Args:
        modality: its name; None counts as one without a side of its own.
        image_size: side common to all modalities, which is also that of a training crop.
        image_sizes: sides of single modalities; one below ``image_size`` has no effect.
    """
    own = (image_sizes or {}).get(modality, 0) if modality is not None else 0
    return max(image_size, own)
