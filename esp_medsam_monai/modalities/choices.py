"""What a client of a server may choose as an image's modality, and what counts as no choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["AUTO", "is_said", "modality_choices"]

AUTO = "auto"
"""The word of who leaves it to the image to say what it is."""


def modality_choices(modalities: Mapping[str, Sequence[str]]) -> list[str]:
    """The values of a request parameter ``modality``: first :data:`AUTO`, then the names.

    Args:
        modalities: the network's ``{modality: [targets]}``.
    """
    return [AUTO, *modalities]


def is_said(word: Any) -> bool:
    """Whether a word names a modality, rightly or wrongly.

    Nothing, empty text and :data:`AUTO` do not. Nor does the list of :func:`modality_choices` as a whole, which is what
    MONAI Label hands on for a parameter that the client left alone.
    """
    if isinstance(word, str):
        return word.strip().lower() not in ("", AUTO)
    if isinstance(word, Sequence):
        return list(word[:1]) != [AUTO]
    return word is not None
