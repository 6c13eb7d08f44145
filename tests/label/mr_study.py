"""A DICOM study of one MR series, made of a volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.uid import generate_uid

from tests.conftest import write_dicom

__all__ = ["write_mr_study"]

MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


def write_mr_study(volume: Path, folder: Path) -> str:
    """Write the slices of a volume along its last axis, each into a file, the last slice first.

    Args:
        volume: NIfTI, values from 0 to 65535.
        folder: for the files.

    Returns:
        The StudyInstanceUID.
    """
    image = sitk.ReadImage(volume)
    array = np.rint(sitk.GetArrayFromImage(image)).astype(np.uint16)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    columns, rows, depth = image.GetSpacing()
    direction = np.reshape(image.GetDirection(), (3, 3))
    for k, pixels in enumerate(array):
        write_dicom(
            folder / f"{len(array) - k:03d}.dcm",
            pixels,
            MR_STORAGE,
            StudyInstanceUID=study,
            SeriesInstanceUID=series,
            FrameOfReferenceUID=frame,
            Modality="MR",
            PatientID=volume.name.split(".")[0],
            PatientName=volume.name.split(".")[0].replace("_", " "),
            PatientBirthDate="",
            PatientSex="",
            StudyID="1",
            StudyDate="20200101",
            StudyTime="120000",
            StudyDescription="Hippocampus",
            SeriesDescription="T1",
            AccessionNumber="",
            ReferringPhysicianName="",
            SeriesNumber=1,
            InstanceNumber=k + 1,
            ImageType=["ORIGINAL", "PRIMARY", "OTHER"],
            ImageOrientationPatient=[float(v) for v in (*direction[:, 0], *direction[:, 1])],
            ImagePositionPatient=[float(v) for v in image.TransformIndexToPhysicalPoint((0, 0, k))],
            PixelSpacing=[rows, columns],
            SliceThickness=depth,
            SpacingBetweenSlices=depth,
            WindowCenter=float(np.percentile(array, 60)),
            WindowWidth=float(np.percentile(array, 99.5)),
        )
    return str(study)
