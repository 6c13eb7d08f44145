"""The cases of a folder, none of which can stop the others."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset

from esp_medsam_monai.errors import warnings_of
from esp_medsam_monai.hashing import stamp_of_files
from esp_medsam_monai.io import Case, examined_body_part, find_cases, sidecar_modality

from .interruption import INTERRUPTED, Interruption
from .reasons import reason_of

__all__ = ["CaseDataset"]

_LOGGER = logging.getLogger(__name__)


class CaseDataset(Dataset):
    """Items ``{"image", "case", "input", "seconds", "stamp"}`` of the cases found in a folder.

    By ``stamp`` one can tell later whether the files are still those that were read; ``seconds`` is ``{"read",
    "prepare"}``: the first step of the transform, and the others.
    A case that cannot be loaded gives ``{"case", "input", "modality", "modality_source", "warnings", "failure",
    "traceback"}``, all text, instead of an exception that would end the loader; :class:`FolderEvaluator` reports it.
    A case in :attr:`finished` is not loaded: ``{"case", "input", "finished"}``.

    Nothing to do is no exception either: ``problem`` then says why, for building a workflow must succeed without data.

    Args:
        dataset_dir: folder that is searched to the bottom, or one file.
        transform: preprocessing that starts from the path or paths under ``image``.
        output_dir: folder of the results, which is never input.
        series: SeriesInstanceUID of the one DICOM series wanted.

    Attributes:
        cases: what was found, in the order of names.
        ignored: files that are no cases.
        problem: why there is nothing to do, None otherwise.
        is_output: whether images and results were to share a folder, in which nothing may be written then.
        index: place of each case, by name.
        finished: names of cases that need not be loaded.
    """

    def __init__(
        self,
        dataset_dir: str | os.PathLike[str] | None,
        transform: Sequence[Callable] | Callable,
        output_dir: str | os.PathLike[str] | None = None,
        series: str | None = None,
    ) -> None:
        with Interruption():
            try:
                self.cases, self.ignored, self.problem = _search(dataset_dir, output_dir, series)
            except KeyboardInterrupt:  # a large folder takes a while to search
                _LOGGER.error("interrupted while looking for images")
                raise SystemExit(INTERRUPTED) from None
        self.is_output = _is_same(dataset_dir, output_dir)
        self.index = {case.name: index for index, case in enumerate(self.cases)}
        self.finished: set[str] = set()
        super().__init__([_entry(case) for case in self.cases], transform)

    def _transform(self, index: int) -> dict[str, Any]:
        case = self.cases[index]
        known = {"case": case.name, "input": case.input}
        if case.name in self.finished:
            return known | {"finished": True}
        started = time.perf_counter()
        try:
            stamp = stamp_of_files(case.files)
            item = self.transform(self.data[index], end=1)  # the first step of a chain loads
            loaded = time.perf_counter()
            item = self.transform(item, start=1)
        except Exception as error:  # whatever a foreign file provokes
            return {
                **known,
                "modality": case.modality or "",
                "modality_source": case.modality_source or "",
                "failure": reason_of(error),
                "traceback": traceback.format_exc(),
            }
        seconds = {"read": loaded - started, "prepare": time.perf_counter() - loaded}
        image = item["image"]
        image.meta.update(known)
        # Always there, so that the metadata of any two images collate.
        image.meta["warnings"] = "\n".join(warnings_of(image.meta))
        if image.meta.get("modality_source") == "datalist":
            image.meta["modality_source"] = case.modality_source
        if case.kind == "dicom" and (body_part := examined_body_part(case.paths[0])):
            image.meta["body_part"] = body_part
        return {**known, "image": image, "stamp": stamp, "seconds": seconds}


def _search(
    dataset_dir: str | os.PathLike[str] | None, output_dir: str | os.PathLike[str] | None, series: str | None
) -> tuple[list[Case], list[str], str | None]:
    """Cases, ignored files, and the sentence to say when there are no cases."""
    if not dataset_dir:
        return [], [], "no folder with images was given; give IN (--dataset_dir FOLDER)."
    folder = Path(dataset_dir)
    if not folder.exists():
        return [], [], f"{folder} does not exist; IN (--dataset_dir) takes a folder with images, or one file."
    if _is_same(dataset_dir, output_dir):
        return [], [], f"{folder} is both input and output; give another OUT (--output_dir)."
    cases, ignored = find_cases(folder, Path(output_dir) if output_dir else None, series)
    if cases:
        return cases, ignored, None
    wanted = f"the DICOM series {series}" if series else "NIfTI (.nii, .nii.gz), PNG, JPEG and DICOM files"
    others = f" {len(ignored)} other files were ignored." if ignored else ""
    where = f"in {folder}; looked for {wanted} in it and below" if folder.is_dir() else f"{folder}: it is not {wanted}"
    return [], ignored, f"nothing matched {where}.{others}"


def _is_same(one: str | os.PathLike[str] | None, other: str | os.PathLike[str] | None) -> bool:
    return bool(one and other) and os.path.realpath(one or "") == os.path.realpath(other or "")


def _entry(case: Case) -> dict[str, Any]:
    """What preprocessing starts from. The search asks the sidecars of folders further up, which the reader does not."""
    from_above = case.modality_source == "sidecar" and sidecar_modality(case.paths[0]) is None
    return {"image": case.image} | ({"modality": case.modality} if from_above else {})
