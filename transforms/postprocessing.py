"""The chain that bundles name for what happens to the inferer's labels."""

from __future__ import annotations

import os

from monai.config import KeysCollection
from monai.transforms import Compose

from .saving import SaveMaskd

__all__ = ["postprocessing"]


def postprocessing(keys: KeysCollection = "pred", output_dir: str | os.PathLike[str] | None = None) -> Compose:
    """Chain after inference: save. The inferer has decided already, so there is nothing to activate or discretise.

    Args:
        keys: keys of the masks.
        output_dir: see :class:`SaveMaskd`.
    """
    return Compose([SaveMaskd(keys, output_dir)])
