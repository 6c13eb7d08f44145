"""ESP-MedSAM for MONAI: promptless 2D medical segmentation over many modalities, as MONAI networks and bundles."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

__all__ = ["__version__", "segment"]

__version__ = "0.5.0"

# `transforms/` lies at the top of the repository and becomes a subpackage when installed (see setup.cfg). From a mere
# checkout Python finds this folder and not the other, so say what to do instead of failing somewhere deep inside.
if find_spec(f"{__name__}.transforms") is None:
    raise ImportError(f"{__name__} is not installed; run `pip install -e .` in the folder that holds setup.cfg.")


def __getattr__(name: str) -> Any:
    """``esp_medsam_monai.segment``, the command as a function, without loading it for those who do not call it."""
    if name == "segment":
        return import_module(f"{__name__}.commands.segment").segment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
