"""Files in, files out: images, cases of a folder, masks, previews, the report of a run."""

from __future__ import annotations

from .atomic import atomic_path, remove_partials
from .cases import Case, find_cases
from .claims import claim
from .dicom_seg import missing_for_dicom_seg, write_dicom_seg
from .label_table import read_label_table
from .mask_sidecar import is_our_sidecar, write_mask_sidecar
from .preview import write_preview
from .reader import MedicalImageReader
from .report import RunReport
from .report_page import write_report_page
from .report_table import write_report_table
from .rules import ReadingRules
from .scope import examined_body_part, outside_training
from .sidecar import sidecar_modality
from .statistics import target_statistics
from .writers import write_mask

__all__ = [
    "Case",
    "MedicalImageReader",
    "ReadingRules",
    "RunReport",
    "atomic_path",
    "claim",
    "examined_body_part",
    "find_cases",
    "is_our_sidecar",
    "missing_for_dicom_seg",
    "outside_training",
    "read_label_table",
    "remove_partials",
    "sidecar_modality",
    "target_statistics",
    "write_dicom_seg",
    "write_mask",
    "write_mask_sidecar",
    "write_preview",
    "write_report_page",
    "write_report_table",
]
