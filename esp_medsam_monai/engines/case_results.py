"""What a case leaves besides its mask: sidecar, preview, DICOM SEG, sizes and warnings."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.data import MetaTensor
from monai.utils import MetaKeys

from esp_medsam_monai.errors import add_warning, warnings_of
from esp_medsam_monai.geometry import slice_plan
from esp_medsam_monai.io import (
    missing_for_dicom_seg,
    outside_training,
    target_statistics,
    write_dicom_seg,
    write_mask_sidecar,
    write_preview,
)

from .reasons import one_line, reason_of

__all__ = ["CaseResults"]

NO_SEG = "NO_DICOM_SEG"

_LOGGER = logging.getLogger(__name__)


@dataclass
class CaseResults:
    """Writes what belongs to a mask that has been saved.

    A result other than the mask and its sidecar that cannot be written costs a warning, not the case.

    Args:
        output_dir: folder of the results.
        axis: axis that volumes are cut along, as for the inferer.
        preview: write ``<case>_preview.png``.
        dicom_seg: write ``<case>_seg.dcm`` for DICOM input.
    """

    output_dir: Path
    axis: int | str | None = None
    preview: bool = True
    dicom_seg: bool = False

    def note(self) -> str | None:
        """The sentence to say when DICOM SEG is wanted and cannot be written."""
        missing = missing_for_dicom_seg() if self.dicom_seg else None
        return None if missing is None else f"{NO_SEG}: {missing}"

    def wanted(self, row: Mapping[str, Any] | None, is_dicom: bool) -> list[str]:
        """Entries of a report's row that name a file which must be there for a case to count as done."""
        wanted = ["output", "sidecar", *(["preview"] if self.preview else [])]
        found = any(target.get("voxels") for target in (row or {}).get("targets") or ())
        refused = any(NO_SEG in warning for warning in (row or {}).get("warnings") or ())
        if self.dicom_seg and is_dicom and found and not refused and missing_for_dicom_seg() is None:
            wanted.append("dicom_seg")
        return wanted

    def write(
        self,
        case: str,
        image: MetaTensor,
        mask: MetaTensor,
        sources: Sequence[str],
        targets: dict[str, int],
        provenance: dict[str, Any],
        notes: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Write everything.

        Args:
            case: name of the case with its relative folder.
            image: ``(C, *spatial)`` with the reader's metadata.
            mask: ``(1, *spatial)`` label values, saved already; warnings are added to its metadata.
            sources: DICOM files of the case, empty for other kinds.
            targets: ``{target: label value}`` of the modality.
            provenance: ``input``, ``modality``, ``modality_source``, ``weights_sha256``, ``configuration_sha256``.
            notes: further warnings.

        Returns:
            Entries of the report's row.
        """
        modality = str(provenance["modality"])
        plan = slice_plan(image.affine, image.shape[1:], self.axis, image.meta.get("slice_axis"))
        # Pixels of a picture have no size.
        is_volume = image.ndim == 4
        sides = [float(image.pixdim[i]) * image.shape[1 + i] for i in plan.order[-2:]] if is_volume else None
        for sentence in [*notes, *outside_training(modality, targets, sides, image.meta.get("body_part"))]:
            add_warning(mask.meta, sentence)
        found = target_statistics(mask, targets, modality, self.axis)
        row: dict[str, Any] = {
            "output": self._relative(mask.meta[MetaKeys.SAVED_TO]),
            "slices": image.shape[1 + plan.axis] if is_volume else 1,
            "shape": list(mask.shape[1:]),
            "targets": found,
            "preview": None,
            "dicom_seg": None,
        }

        def preview() -> str:
            path = self.output_dir / f"{case}_preview.png"
            title = one_line(case)
            write_preview(path, image, mask, targets, modality, title, warnings_of(mask.meta), self.axis)
            return self._relative(path)

        def dicom_seg() -> str | None:
            written = write_dicom_seg(self.output_dir / f"{case}_seg.dcm", mask, sources, modality, targets)
            return None if written is None else self._relative(written)

        if self.preview:
            row["preview"] = self._try(preview, mask, case, "no preview")
        if self.dicom_seg and sources and missing_for_dicom_seg() is None:
            row["dicom_seg"] = self._try(dicom_seg, mask, case, NO_SEG)
        sidecar = self.output_dir / f"{case}_seg.json"
        write_mask_sidecar(sidecar, case=case, targets=found, warnings=warnings_of(mask.meta), **provenance)
        return row | {"sidecar": self._relative(sidecar), "warnings": warnings_of(mask.meta)}

    @staticmethod
    def _try(write: Callable[[], str | None], mask: MetaTensor, case: str, what: str) -> str | None:
        try:
            return write()
        except Exception as error:  # the mask is there, and it is what was asked for
            reason = reason_of(error)
            sentence = reason if reason.startswith(what) else f"{what}: {reason}"
            add_warning(mask.meta, sentence)
            _LOGGER.warning("%s: %s", one_line(case), sentence)
            _LOGGER.debug(sentence, exc_info=True)
            return None

    def _relative(self, path: str | os.PathLike[str]) -> str:
        return Path(os.path.relpath(path, self.output_dir)).as_posix()
