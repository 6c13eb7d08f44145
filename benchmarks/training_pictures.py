"""Made-up pictures with labels for benchmarks of training, where real ones are not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

MODALITIES = ("dermoscopy", "xray", "ultrasound", "fundus", "microscopy", "colonoscopy")


def save_pictures(folder: Path, each: int = 4, shape: tuple[int, int] = (480, 640)) -> Path:
    """Noisy pictures with a disc, the disc as label, and a datalist of them.

    Args:
        folder: is there.
        each: pictures of each modality.
        shape: rows and columns of a picture.

    Returns:
        the datalist, with everything in ``training``.
    """
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    entries = []
    for number in range(each * len(MODALITIES)):
        generator = np.random.default_rng(number)
        middle = generator.uniform(0.3, 0.7, 2) * shape
        disc = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < (min(shape) * generator.uniform(0.1, 0.3)) ** 2
        noise = generator.integers(0, 60, (*shape, 3))
        picture = (np.where(disc[..., None], 40, 160) + noise).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
        Image.fromarray((disc * 255).astype(np.uint8)).save(folder / f"{number}_seg.png")
        modality = MODALITIES[number % len(MODALITIES)]
        entries.append({"image": f"{number}.png", "label": f"{number}_seg.png", "modality": modality})
    path = folder / "list.json"
    path.write_text(json.dumps({"training": entries}), encoding="utf-8")
    return path
