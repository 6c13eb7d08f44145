"""Small pictures of previews, as text that a page can hold."""

from __future__ import annotations

import base64
import io
import json
import os

from PIL import Image

from .preview import PANELS

__all__ = ["thumbnail"]

SIZE = 360
"""Longest side in pixels."""

WIDEST = 2.2
"""Width of a thumbnail over its height at most: as many panels of a volume as this leaves room for."""


def thumbnail(path: str | os.PathLike[str]) -> str | None:
    """The middle of a preview as a small JPEG.

    Heading and legend of :func:`~esp_medsam_monai.io.write_preview` would be too small to read; only panels are shown.

    Args:
        path: the preview's PNG.

    Returns:
        A ``data:`` address, or None when there is no such picture.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            boxes = json.loads(picture.info.get(PANELS, "[]"))
            small = picture.convert("RGB").crop(_middle(boxes) if boxes else None)
    except (OSError, ValueError, SyntaxError):
        return None
    small.thumbnail((SIZE, SIZE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _middle(boxes: list[list[int]]) -> tuple[int, int, int, int]:
    """Box around panels in the middle of the row. Of two the second: a picture has its contours there."""
    left, upper, right, lower = boxes[len(boxes) // 2]
    for count in range(2, len(boxes) + 1 if len(boxes) > 2 else 0):
        first = (len(boxes) - count) // 2
        start, end = boxes[first][0], boxes[first + count - 1][2]
        if end - start > WIDEST * (lower - upper):
            break
        left, right = start, end
    return left, upper, right, lower
