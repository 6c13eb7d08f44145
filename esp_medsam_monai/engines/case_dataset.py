"""The cases of a folder, none of which can stop the others."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset

from esp_medsam_monai.errors import find_refusal
from esp_medsam_monai.io import Case, examined_body_part, find_cases, sidecar_modality

__all__ = ["CaseDataset", "reason_of"]


class CaseDataset(Dataset):
    """Items ``{"image", "case", "input", "seconds"}`` of the cases found in a folder.

    A case that cannot be loaded gives ``{"case", "input", "modality", "modality_source", "failure", "traceback"}``, all
    text, instead of an exception that would end the loader; :class:`FolderEvaluator` reports it.

    Nothing to do is no exception either: ``problem`` then says why, for building a workflow must succeed without data.

    Args:
        dataset_dir: folder that is searched to the bottom.
        transform: preprocessing that starts from the path or paths under ``image``.
        output_dir: folder of the results, which is never input.
        series: SeriesInstanceUID of the one DICOM series wanted.
    """

    def __init__(
        self,
        dataset_dir: str | os.PathLike[str] | None,
        transform: Sequence[Callable] | Callable,
        output_dir: str | os.PathLike[str] | None = None,
        series: str | None = None,
    ) -> None:
        self.cases, self.ignored, self.problem = _search(dataset_dir, output_dir, series)
        super().__init__([_entry(case) for case in self.cases], transform)

    def _transform(self, index: int) -> dict[str, Any]:
        case = self.cases[index]
        known = {"case": case.name, "input": _input_path(case)}
        started = time.perf_counter()
        try:
            item = super()._transform(index)
        except Exception as error:  # whatever a foreign file provokes
            return {
                **known,
                "modality": case.modality or "",
                "modality_source": case.modality_source or "",
                "failure": reason_of(error),
                "traceback": traceback.format_exc(),
            }
        image = item["image"]
        image.meta.update(known)
        if image.meta.get("modality_source") == "datalist":
            image.meta["modality_source"] = case.modality_source
        if case.kind == "dicom" and (body_part := examined_body_part(_files(case)[0])):
            image.meta["body_part"] = body_part
        return {**known, "image": image, "seconds": time.perf_counter() - started}


def reason_of(error: BaseException) -> str:
    """One line that begins with the refusal's code, or with ``INTERNAL_ERROR`` for what nobody foresaw."""
    refusal = find_refusal(error)
    if refusal is not None:
        return " ".join(str(refusal).split())
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    return " ".join(f"INTERNAL_ERROR: {type(root).__name__}: {root}".split())


def _search(
    dataset_dir: str | os.PathLike[str] | None, output_dir: str | os.PathLike[str] | None, series: str | None
) -> tuple[list[Case], list[str], str | None]:
    """Cases, ignored files, and the sentence to say when there are no cases."""
    if not dataset_dir:
        return [], [], "no folder with images was given; add --dataset_dir FOLDER."
    folder = Path(dataset_dir)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        return [], [], f"{folder} {what}; --dataset_dir takes a folder with images."
    if output_dir and Path(output_dir).resolve() == folder.resolve():
        return [], [], f"{folder} is both input and output; give another --output_dir."
    cases, ignored = find_cases(folder, Path(output_dir) if output_dir else None, series)
    if cases:
        return cases, ignored, None
    wanted = f"the DICOM series {series}" if series else "NIfTI (.nii, .nii.gz), PNG, JPEG and DICOM files"
    others = f" {len(ignored)} other files were ignored." if ignored else ""
    return [], ignored, f"nothing matched in {folder}; looked for {wanted} in it and below.{others}"


def _entry(case: Case) -> dict[str, Any]:
    """What preprocessing starts from. The search asks the sidecars of folders further up, which the reader does not."""
    from_above = case.modality_source == "sidecar" and sidecar_modality(_files(case)[0]) is None
    return {"image": case.image} | ({"modality": case.modality} if from_above else {})


def _files(case: Case) -> tuple[str, ...]:
    return (case.image,) if isinstance(case.image, str) else case.image


def _input_path(case: Case) -> str:
    """The file of a case, or the folder of its series."""
    files = _files(case)
    return files[0] if len(files) == 1 else str(Path(files[0]).parent)
