"""Published weights become a complete bundle: the shipped bundle's configs with the imported network's options."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from esp_medsam_monai.bundle import shipped_bundle, write_sha256
from esp_medsam_monai.checkpoints.official import load_official, published_index, published_options
from esp_medsam_monai.modalities import label_names
from esp_medsam_monai.networks import ESPMedSAM

__all__ = ["import_weights"]

IMAGE_SIZE = 1024
DIVISOR = "published"
BATCH_SIZES = {"inference.yaml": 1, "train.yaml": 4}
"""Images of 1024 pixels at a time: one fits anywhere, the published training took four."""

_VALUE_RANGE = [-1.0, 1.463]
"""0 and 255 under the published normalisation ``(x - m) / m``, m = 123.675, 116.28, 103.53."""


def import_weights(
    files: Mapping[str, str | os.PathLike[str]],
    output: str | os.PathLike[str],
    indices: Mapping[str, int] | None = None,
    separate: bool = False,
) -> list[Path]:
    """Write a bundle that runs published weights: configs, ``models/model.pt`` with its SHA-256, documents.

    Args:
        files: ``{modality: published file}``, one to six.
        output: folder for the bundle; it must not exist, or be empty.
        indices: published index 0 to 5 of names that are not among the published six.
        separate: one bundle a file, in ``output/<modality>``, for files that do not share a trunk.

    Returns:
        the folders of the bundles.

    Raises:
        FileExistsError: when there is something at the output already.
        FileNotFoundError: when a file, or the installation's own bundle, is missing.
        ValueError: see :func:`~esp_medsam_monai.checkpoints.load_official`.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} exists and is not empty; name a new folder with --output.")
    template = shipped_bundle()
    rows = published_index(list(files), indices)
    if not separate:
        return [_write(load_official(files, indices, IMAGE_SIZE), output, template)]
    bundles = []
    for name in rows:
        net = load_official({name: files[name]}, {name: rows[name]}, IMAGE_SIZE)
        bundles.append(_write(net, output / name, template))
    return bundles


def _write(net: ESPMedSAM, output: Path, template: Path) -> Path:
    """Write a bundle under a temporary name and rename it, so that there is never half of one."""
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name in ("configs", "docs", "models"):
        (partial / name).mkdir(parents=True)
    shutil.copyfile(template / "LICENSE", partial / "LICENSE")
    for path in sorted((template / "configs").iterdir()):
        text = path.read_text(encoding="utf-8")
        if path.name in BATCH_SIZES:
            text = _edit(text, _settings(net, yaml.safe_load(text), BATCH_SIZES[path.name]), path)
        elif path.name == "metadata.json":
            text = json.dumps(_metadata(net, json.loads(text)), indent=4) + "\n"
        text = text.replace("bundles/esp_medsam", output.name)
        (partial / "configs" / path.name).write_text(text, encoding="utf-8")
    (partial / "docs" / "README.md").write_text(_readme(net, output.name), encoding="utf-8")
    (partial / "docs" / "data_license.txt").write_text(_TERMS, encoding="utf-8")
    torch.save(net.state_dict(), partial / "models" / "model.pt")
    write_sha256(partial / "models" / "model.pt")
    if output.exists():
        output.rmdir()
    os.replace(partial, output)
    return output


def _settings(net: ESPMedSAM, config: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    """What an imported config says otherwise than the template."""
    modalities = {name: list(targets) for name, targets in net.modalities.items()}
    options = {"default_modality": next(iter(modalities)), **published_options(len(modalities))}
    return {
        "modalities": modalities,
        "image_size": IMAGE_SIZE,
        "image_sizes": None,
        "divisor": DIVISOR,
        "batch_size": batch_size,
        "network_def": {**config["network_def"], **options},
    }


def _edit(text: str, settings: Mapping[str, Any], path: Path) -> str:
    """Replace top-level entries of a YAML file, keeping everything else to the letter, comments included."""
    edited = text
    for key, value in settings.items():
        found = re.search(rf"^{key}:[^#\n]*(#.*)?\n(?:[ \t]+.*\n)*", edited, flags=re.MULTILINE)
        if found:
            first, *others = yaml.safe_dump({key: value}, sort_keys=False).splitlines()
            lines = [f"{first} {found[1]}" if found[1] else first, *others, ""]
            edited = edited[: found.start()] + "\n".join(lines) + edited[found.end() :]
    if yaml.safe_load(edited) != {**yaml.safe_load(text), **settings}:
        raise ValueError(f"{path} is not laid out as a template should be: entries at the left margin, in block style.")
    return edited


def _metadata(net: ESPMedSAM, template: Mapping[str, Any]) -> dict[str, Any]:
    """``metadata.json`` of the imported weights."""
    names = ", ".join(net.modalities)
    side = [IMAGE_SIZE, IMAGE_SIZE]
    inputs = {**template["network_data_format"]["inputs"]["image"]}
    inputs.update(modality=names, spatial_shape=side, value_range=_VALUE_RANGE)
    outputs = {**template["network_data_format"]["outputs"]["pred"]}
    channels = {str(value): name for value, name in label_names(net.modalities).items()}
    outputs.update(num_channels=1, spatial_shape=side, channel_def=channels)
    return {
        **template,
        "changelog": {template["version"]: "Imported from published weights."},
        "name": "ESP-MedSAM, published weights",
        "description": f"The published ESP-MedSAM network for {names}, imported from its authors' files.",
        "data_source": "as stated by the publishers of the weights; see docs/data_license.txt",
        "image_classes": "three channels, 0 to 255 less SAM's mean over SAM's mean (the published divisor)",
        "eval_metrics": {},
        "intended_use": "Research; not a medical device. See docs/data_license.txt for terms.",
        "network_data_format": {"inputs": {"image": inputs}, "outputs": {"pred": outputs}},
    }


_TERMS = """\
These weights were imported from files of the ESP-MedSAM authors (xq141839/De-LightSAM). Their code is under the Apache
License 2.0; no terms are stated for the weights and for the data they were trained on. Ask the authors before any use
other than research.
"""

_README = """\
# Bundle `{bundle}`: published ESP-MedSAM weights

Imported by `esp-medsam import-weights`, for {names}.

The network is the published one: queries see each other, key and value share a token, one hyper-network MLP serves all
targets. It takes {side} x {side} pixels under the published divisor; slices are stretched to the square.

```
esp-medsam segment IN OUT --bundle {bundle}
```

or, the same in MONAI's words,

```
python -m monai.bundle run inference --config_file {bundle}/configs/inference.yaml \\
    --bundle_root {bundle} --dataset_dir IN --output_dir OUT
```

| value in masks | structure |
|---|---|
{rows}

What the weights were trained on, and how well they do, is for their authors to say (arXiv 2407.14153). They are not a
medical device. See [data_license.txt](data_license.txt).
"""


def _readme(net: ESPMedSAM, bundle: str) -> str:
    rows = "\n".join(f"| {value} | {label} |" for value, label in label_names(net.modalities).items())
    return _README.format(bundle=bundle, names=", ".join(net.modalities), side=IMAGE_SIZE, rows=rows)
