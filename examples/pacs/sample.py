"""A small MR series, made of the volume of a head that comes with nibabel: nothing is downloaded."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

__all__ = ["write_sample"]

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM counts to the left and to the back, NIfTI to the right and to the front


def write_sample(folder: Path) -> list[Path]:
    """Write the sample as a series of axial slices, one file each; patient and examination are made up.

    Args:
        folder: made when missing.

    Returns:
        The files, from inferior to superior.
    """
    with resources.as_file(resources.files("nibabel") / "tests" / "data" / "anatomical.nii") as file:
        image = nib.as_closest_canonical(nib.load(file))
        voxels, affine = np.asarray(image.dataobj), _LPS @ image.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / spacing
    # Columns of the picture run to the patient's left and rows to the back, as radiologists look at it.
    columns, rows = -directions[:, 0], -directions[:, 1]
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    stack = np.clip(np.rint(voxels), 0, None).astype(np.uint16)[::-1, ::-1]
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index in range(stack.shape[2]):
        dataset = _header(study, series, frame, index + 1)
        corner = affine @ (voxels.shape[0] - 1, voxels.shape[1] - 1, index, 1)
        dataset.ImagePositionPatient = [f"{value:.6f}" for value in corner[:3]]
        dataset.ImageOrientationPatient = [f"{value:.6f}" for value in (*columns, *rows)]
        dataset.PixelSpacing = [f"{spacing[1]:.6f}", f"{spacing[0]:.6f}"]
        dataset.SliceThickness = dataset.SpacingBetweenSlices = f"{spacing[2]:.6f}"
        plane = np.ascontiguousarray(stack[:, :, index].T)
        dataset.Rows, dataset.Columns = plane.shape
        dataset.PixelData = plane.tobytes()
        files.append(folder / f"{index + 1:03d}.dcm")
        dataset.save_as(files[-1])
    return files


def _header(study: str, series: str, frame: str, number: int) -> FileDataset:
    """What all slices share, but for their own identifier and number."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    if int(pydicom.__version__.split(".")[0]) < 3:
        dataset.is_little_endian, dataset.is_implicit_VR = True, False
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = "Sample", "SAMPLE", "", ""
    dataset.Modality, dataset.BodyPartExamined, dataset.SeriesDescription = "MR", "BRAIN", "sample of nibabel"
    dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber, dataset.StudyID = "20200101", "120000", "", "1"
    dataset.ReferringPhysicianName, dataset.PositionReferenceIndicator, dataset.Manufacturer = "", "", "nibabel"
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "GR", "NONE", ""
    dataset.MRAcquisitionType, dataset.ImageType = "3D", ["DERIVED", "SECONDARY"]
    dataset.SeriesNumber, dataset.InstanceNumber = 1, number
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    return dataset
