"""Does a runtime compute what PyTorch computes in fp32, and how fast: tried once on a machine, then remembered."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from torch import Tensor

from esp_medsam_monai.hashing import sha256_of_settings
from esp_medsam_monai.networks import SelfPromptingNetwork
from esp_medsam_monai.runtimes.base import Runtime
from esp_medsam_monai.runtimes.freed_memory import trim_memory
from esp_medsam_monai.runtimes.processor import cpu_name

__all__ = ["SelfCheck", "cache_folder", "check_picture", "fingerprint", "self_check"]

TOLERANCE = {"fp32": 1e-3, "bf16": 0.05, "fp16": 0.02, "int8": 0.2}
"""Largest error that is accepted: root of the mean square over that of the logits."""

_PACKAGES = ("esp-medsam-monai", "torch", "openvino", "onnxruntime", "onnxruntime-gpu", "tensorrt", "nncf")
_TIMED = 3


@dataclass(frozen=True)
class SelfCheck:
    """What a self-check found.

    Attributes:
        error: root of the mean squared difference to PyTorch's fp32 logits, over the root of their mean square.
        seconds: time of one image, best of three.
        passed: whether the error is within what the precision allows.
    """

    error: float
    seconds: float
    passed: bool


def self_check(runtime: Runtime) -> SelfCheck:
    """Compare a runtime with the plain network on a fixed picture, or remember what that gave on this machine.

    The result is kept in :func:`cache_folder` for the weights, the machine, the versions of all packages that matter,
    the runtime, its precision and its threads.

    Args:
        runtime: to be checked, at the network's own image side and with its first modality.
    """
    where = cache_folder() / f"self_check_{_key(runtime)}.json"
    try:
        return SelfCheck(**json.loads(where.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        result = _check(runtime)
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=where.parent, delete=False, encoding="utf-8") as stream:
            json.dump(asdict(result), stream)
        os.replace(stream.name, where)
    except OSError:
        pass  # a home that cannot be written to costs a check a run, and nothing else
    return result


def _check(runtime: Runtime) -> SelfCheck:
    network = runtime.network
    modality = next(iter(network.modalities))
    x = check_picture(network.in_channels, network.img_size).to(runtime.device)
    training = network.training
    with torch.inference_mode():
        expected = network.eval()(x, modality).float()
    network.train(training)
    found = runtime(x, modality)
    error = float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt().clamp(min=1e-6))
    times = []
    for _ in range(_TIMED):
        begin = time.perf_counter()
        runtime(x, modality).sum().item()
        times.append(time.perf_counter() - begin)
    # Images to come are of another modality, or wait for their turn: a network of side 1024 holds half a GB.
    runtime.release()
    trim_memory()
    return SelfCheck(error, min(times), error <= TOLERANCE[runtime.precision])


def check_picture(channels: int, side: int) -> Tensor:
    """A fixed picture of blobs and noise, ``(1, channels, side, side)``, about -2..2 as NormalizeSlices leaves it."""
    axis = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    blobs = [(0.3, -0.2, 8.0), (-0.4, 0.5, 20.0), (0.1, 0.6, 60.0), (-0.6, -0.5, 5.0)]
    picture = sum(torch.exp(-s * ((y - cy) ** 2 + (x - cx) ** 2)) for cy, cx, s in blobs) - 0.5
    noise = torch.rand((channels, side, side), generator=torch.Generator().manual_seed(0)) - 0.5
    return (1.5 * picture + 0.5 * noise).unsqueeze(0)


def fingerprint(network: SelfPromptingNetwork) -> str:
    """SHA-256 of a network's weights and their names."""
    digest = sha256()
    for key, value in network.state_dict().items():
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(
            value.detach().cpu().contiguous().view(torch.uint8).numpy() if value.ndim else str(value).encode()
        )
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where checks are remembered: ``$ESP_MEDSAM_CACHE``, else ``esp_medsam_monai`` in the user's cache folder."""
    own = os.environ.get("ESP_MEDSAM_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "esp_medsam_monai"


def _key(runtime: Runtime) -> str:
    device = torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else str(runtime.device)
    facts = {
        "weights": fingerprint(runtime.network),
        "side": runtime.img_size,
        "runtime": runtime.name,
        "precision": runtime.precision,
        "device": device,
        "processor": cpu_name(),
        "threads": torch.get_num_threads(),
        "versions": {package: _version(package) for package in _PACKAGES},
    }
    return sha256_of_settings(facts)[:24]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
