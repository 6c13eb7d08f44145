"""Weights from files that may come from anywhere: tensors only, strictly, with errors that name what does not fit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from esp_medsam_monai.bundle import verified_sha256

__all__ = ["load_state_dict", "load_weights", "name_few"]

WRAPPERS = ("model", "network", "state_dict")
"""Keys under which checkpoints (MONAI's, our own ``last.pt``, Lightning's) hold the state dict."""

SHOWN = 5


def load_state_dict(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read a state dict, without running anything that the file may hold (``weights_only=True``, never otherwise).

    Args:
        path: a state dict written by ``torch.save``, bare or under ``model``, ``network`` or ``state_dict``. When
            ``<path>.sha256`` lies beside it, the file must be the one that it describes.

    Returns:
        Tensors on the CPU; half precision becomes float32, a ``module.`` of data-parallel training is dropped.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is broken, is not the one whose hash is stated, or holds something other than tensors.
    """
    return _read(Path(path))[0]


def _read(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """State dict and SHA-256 of a file."""
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; is that the path of a file of weights?")
    digest = verified_sha256(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(
            f"{path} cannot be read as weights: it is damaged, or holds more than tensors, which is not loaded because "
            f"it could run code. Save the bare state dict with torch.save. ({type(error).__name__})"
        ) from error
    state = next((content[key] for key in WRAPPERS if _holds_mapping(content, key)), content)
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{path} holds no state dict but {type(state).__name__}; save network.state_dict() there.")
    foreign = [str(key) for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if foreign:
        raise ValueError(
            f"{path} holds entries that are no tensors: {name_few(foreign)}; save network.state_dict() there."
        )
    prefix = "module." if all(key.startswith("module.") for key in state) else ""
    return {key.removeprefix(prefix): _single(value) for key, value in state.items()}, digest


def load_weights(network: nn.Module, path: str | os.PathLike[str], strict: bool = True) -> str:
    """Load weights from a file into a network.

    Args:
        network: takes the weights, also behind ``DistributedDataParallel``.
        path: see :func:`load_state_dict`.
        strict: refuse missing and surplus entries; False leaves them out. Shapes must always agree.

    Returns:
        SHA-256 of the file, in hexadecimal.

    Raises:
        FileNotFoundError: as :func:`load_state_dict`.
        ValueError: as :func:`load_state_dict`, or when entries do not fit; the message names them.
    """
    module = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
    assert isinstance(module, nn.Module)
    state, digest = _read(Path(path))
    expected = module.state_dict()
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected.keys() & state.keys()
        if state[key].shape != expected[key].shape
    ]
    wrong = {
        "missing": sorted(expected.keys() - state.keys()) if strict else [],
        "not known to the network": sorted(state.keys() - expected.keys()) if strict else [],
        "of another shape": sorted(shapes),
    }
    if any(wrong.values()):
        told = "; ".join(f"{len(keys)} {what} ({name_few(keys)})" for what, keys in wrong.items() if keys)
        raise ValueError(
            f"{path} does not fit the network: {told}. Modalities, targets and options of network_def must be those "
            "that the weights were trained with; fine-tuned ones want the --new_targets that they were fine-tuned with."
        )
    module.load_state_dict(state, strict=strict)
    return digest


def _holds_mapping(content: Any, key: str) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get(key), Mapping)


def _single(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def name_few(names: Sequence[str]) -> str:
    """The first names of a list for an error message, and how many more there are."""
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
