"""Files in, files out: images, cases of a folder, masks, previews, the report of a run."""

from __future__ import annotations

from .atomic import atomic_path
from .cases import Case, find_cases
from .preview import write_preview
from .reader import MedicalImageReader
from .report import RunReport
from .scope import examined_body_part, outside_training
from .sidecar import sidecar_modality
from .writers import write_mask

__all__ = [
    "Case",
    "MedicalImageReader",
    "RunReport",
    "atomic_path",
    "examined_body_part",
    "find_cases",
    "outside_training",
    "sidecar_modality",
    "write_mask",
    "write_preview",
]
