"""A training with the bundle's configs, small enough for a test: made-up pictures of 64 pixels, a batch of two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigWorkflow
from PIL import Image

SIDE = 64
"""Side of the network's square in pixels."""


def make_pictures(folder: Path) -> Path:
    """Dermoscopy pictures with a dark disc and X-rays with a bright one, two of each in every section; the datalist."""
    rows, columns = np.mgrid[:48, :64]
    entries = []
    for i, modality in enumerate(["dermoscopy", "xray"] * 2):
        disc = (rows - 20 - i) ** 2 + (columns - 30) ** 2 < 150
        grey = np.where(disc, 30, 200) if modality == "dermoscopy" else np.where(disc, 220, 40)
        picture = np.repeat(grey[..., None], 3, axis=2) if modality == "dermoscopy" else grey
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{i}.png")
        Image.fromarray(disc.astype(np.uint8) * 255).save(folder / f"{i}_seg.png")
        entries.append({"image": f"{i}.png", "label": f"{i}_seg.png", "modality": modality, "domain": f"set{i % 2}"})
    path = folder / "list.json"
    path.write_text(json.dumps({"training": entries, "validation": entries[:2], "test": entries}))
    return path


def run_training(repository: Path, *overlays: str, run_id: str = "training", **override: Any) -> ConfigWorkflow:
    """Run train.yaml with overlays.

    Args:
        repository: root of the checkout.
        overlays: names of further configs of the bundle, in order.
        run_id: what is run, ``training`` or another list of steps.
        override: options.

    Returns:
        the workflow, after its end.
    """
    bundle = repository / "bundles" / "esp_medsam"
    run = ConfigWorkflow(
        [str(bundle / "configs" / name) for name in ("train.yaml", *overlays)],
        meta_file=None,
        logging_file=False,
        workflow_type="train",
        run_id=run_id,
        **{
            "bundle_root": str(bundle),
            "device": "$torch.device('cpu')",
            "image_size": SIDE,
            "image_sizes": None,
            "batch_size": 2,
            "samples_per_epoch": 4,
            "num_workers": 0,
            "max_epochs": 1,
            "warmup_iterations": 1,
            **override,
        },
    )
    run.initialize()
    run.run()
    run.finalize()
    return run
