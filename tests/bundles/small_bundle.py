"""The shipped configs around a small network with random weights."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import torch

from esp_medsam_monai.modalities import shipped_modalities
from esp_medsam_monai.networks import ESPMedSAM

SIDE = 64
"""Side of the network's square in pixels."""


def make_small_bundle(repository: Path, root: Path, half: bool = False) -> Path:
    """A bundle that runs quickly.

    Args:
        repository: root of the checkout.
        root: folder of the bundle, made.
        half: weights in half precision, as the shipped ones.
    """
    shutil.copytree(repository / "bundles" / "esp_medsam" / "configs", root / "configs")
    for name in ("inference.yaml", "train.yaml"):
        config = root / "configs" / name
        text = config.read_text(encoding="utf-8")
        small = re.sub(
            r"^image_size: \d+\nimage_sizes:.*\n(  .*\n)*", f"image_size: {SIDE}\nimage_sizes: null\n", text, flags=re.M
        )
        assert small != text
        config.write_text(small, encoding="utf-8")
    (root / "models").mkdir()
    torch.manual_seed(0)
    state = ESPMedSAM(shipped_modalities(), img_size=SIDE).state_dict()
    if half:
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    torch.save(state, root / "models" / "model.pt")
    return root
