"""A DICOM SEG read back by dcmqi, which knows nothing of this project, and compared with a mask."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom

__all__ = ["segments_in_place"]


def segments_in_place(seg: Path, reference: nib.Nifti1Image, folder: Path) -> dict[str, int]:
    """Voxels of each segment, as dcmqi reads them; each must be where the reference has its label value."""
    folder.mkdir()
    command = ["segimage2itkimage", "--inputDICOM", seg, "--outputDirectory", folder, "--outputType", "nii"]
    subprocess.run([Path(sys.executable).with_name(str(command[0])), *command[1:]], check=True, capture_output=True)
    labels = np.asarray(reference.dataobj)
    to_voxel, counts = np.linalg.inv(reference.affine), {}
    for number, segment_item in enumerate(pydicom.dcmread(seg).SegmentSequence, start=1):
        image = nib.load(folder / f"{number}.nii.gz")
        found = np.argwhere(np.asarray(image.dataobj))
        places = nib.affines.apply_affine(to_voxel @ image.affine, found)
        assert np.abs(places - np.rint(places)).max() < 1e-2
        values = labels[tuple(np.rint(places).astype(int).T)]
        value = int(str(segment_item.SegmentDescription).removeprefix("label value "))
        assert (values == value).all()
        counts[segment_item.SegmentLabel] = len(found)
        assert len(found) == np.count_nonzero(labels == value)
    return counts
