"""Which cases a folder holds, and what each is called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.io.dicom_header import DicomHeader, is_dicom, read_header
from esp_medsam_monai.io.dicom_series import group_series
from esp_medsam_monai.io.mask_sidecar import is_our_sidecar
from esp_medsam_monai.io.nifti import NIFTI_SUFFIXES
from esp_medsam_monai.io.reader import PICTURE_SUFFIXES
from esp_medsam_monai.io.report import read_rows
from esp_medsam_monai.io.sidecar import file_stem, sidecar_files, sidecar_modality

__all__ = ["Case", "find_cases"]

REPORT = "report.json"
MASK_ENDING, PREVIEW_ENDING = "_seg", "_preview"
OUR_ENDINGS = (f"{MASK_ENDING}.nii.gz", f"{MASK_ENDING}.png", f"{PREVIEW_ENDING}.png")


@dataclass(frozen=True)
class Case:
    """One image to work on.

    Args:
        name: ``<relative folder>/<case>`` with forward slashes; no two cases of a folder share it.
        image: path, or the paths of a DICOM series of several files.
        kind: ``nifti``, ``picture`` or ``dicom``.
        modality: our name where DICOM tags or a sidecar tell, None otherwise.
        modality_source: ``dicom`` or ``sidecar``, None where nothing tells.
        sidecars: the JSON files that were asked for the modality.
    """

    name: str
    image: str | tuple[str, ...]
    kind: Literal["nifti", "picture", "dicom"]
    modality: str | None = None
    modality_source: str | None = None
    sidecars: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The image as a tuple of paths, also where it is one file."""
        return (self.image,) if isinstance(self.image, str) else self.image

    @property
    def input(self) -> str:
        """The file of the image, or the folder of its series."""
        return self.paths[0] if len(self.paths) == 1 else str(Path(self.paths[0]).parent)

    @property
    def files(self) -> tuple[str, ...]:
        """All files that the case is made of, its sidecars included; those that exist, for hashing."""
        return tuple(path for path in (*self.paths, *self.sidecars) if Path(path).is_file())


def find_cases(
    dataset_dir: str | Path, output_dir: str | Path | None = None, series: str | None = None
) -> tuple[list[Case], list[str]]:
    """Search a folder to the bottom.

    A NIfTI, PNG or JPEG file is a case, named by its stem. A DICOM series is a case (grouped within one folder by
    series, orientation and size), named by its folder, plus ``_<SeriesNumber>`` where the folder holds several. Where
    names still collide the extension joins the name of a file, and the stem of its first file that of a series. A file
    that cannot be read is a case too: it fails later, by name. Left out: hidden files, ``output_dir``, sidecars, files
    that an earlier run of ours wrote (named by its ``report.json`` or by the sidecar of the mask), DICOM objects that
    are no images.

    Args:
        dataset_dir: folder to search, or one image file.
        output_dir: folder of results, never searched unless it holds ``dataset_dir``.
        series: SeriesInstanceUID; only this DICOM series is wanted.

    Returns:
        Cases in the order of their names, and the files left out as DICOM objects without an image or as results of an
        earlier run, relative to ``dataset_dir``.

    Raises:
        NotADirectoryError: when ``dataset_dir`` is neither a folder nor a file.
    """
    root = Path(dataset_dir)
    if root.is_file():
        case = _case_of_file(root)
        return [] if case is None else [_finish(case, Path(), root.parent)], []
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is no folder; give the folder that holds the images, or one image.")
    ours = _earlier_results([root] if output_dir is None else [root, Path(output_dir)])
    cases: list[Case] = []
    ignored: list[str] = []
    closed: list[OSError] = []
    for folder, files in _folders(root, None if output_dir is None else Path(output_dir), closed):
        relative = folder.relative_to(root)
        dicom: list[DicomHeader] = []
        found: list[Case] = []
        for file in files:
            case = _case_of_file(file)
            if case is None:
                continue
            header = None
            if case.kind == "dicom":
                with suppress(InputRefused):  # then it is a case that fails by name
                    header = read_header(file)
            if _real(file) in ours or _is_ours(case) or (header is not None and not header.is_image):
                ignored.append((relative / file.name).as_posix())
            elif header is not None:
                dicom.append(header)
            else:
                found.append(case)
        if series is not None:
            dicom = [header for header in dicom if header.series == series]
            found = []
        found += _dicom_cases(dicom, folder.resolve().name)
        cases += [_finish(case, relative, root) for case in _without_collisions(found)]
    # A folder that cannot be opened fails by name too, rather than hide what it holds.
    cases += [Case(Path(e.filename).relative_to(root).as_posix(), str(e.filename), "dicom") for e in closed]
    return sorted(cases, key=lambda case: case.name), sorted(ignored)


def _case_of_file(file: Path) -> Case | None:
    """The file as a case of its own, None when it is no image by its name and first bytes."""
    name = file.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        return Case(file_stem(file), str(file), "nifti")
    if name.endswith(PICTURE_SUFFIXES):
        return Case(file_stem(file), str(file), "picture")
    return Case(file_stem(file), str(file), "dicom") if is_dicom(file) else None


def _is_ours(case: Case) -> bool:
    """Whether a mask's sidecar says that we made this image: the mask itself, or the preview beside it."""
    if case.kind == "dicom":
        return False
    path, stem = Path(case.input), file_stem(case.input)
    names = [stem]
    if stem.endswith(PREVIEW_ENDING):
        names.append(stem.removesuffix(PREVIEW_ENDING) + MASK_ENDING)
    return any(is_our_sidecar(path.with_name(f"{name}.json")) for name in names)


def _folders(root: Path, output_dir: Path | None, closed: list[OSError]) -> Iterator[tuple[Path, list[Path]]]:
    """Folders below ``root`` with their visible files, both sorted; links are followed once.

    What cannot be opened goes to ``closed``.
    """
    skipped = None if output_dir is None else output_dir.resolve()
    if skipped == root.resolve():
        skipped = None
    seen: set[Path] = set()
    for folder, subfolders, names in os.walk(root, onerror=closed.append, followlinks=True):
        real = Path(folder).resolve()
        if real in seen or real == skipped:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        files = [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
        yield Path(folder), [file for file in files if file.is_file() or file.is_symlink()]


def _dicom_cases(headers: list[DicomHeader], folder: str) -> list[Case]:
    groups = group_series(headers)
    numbered = [folder if len(groups) == 1 else f"{folder}_{group[0].number}" for group in groups]
    repeated = Counter(numbered)
    cases = []
    for group, name in zip(groups, numbered, strict=True):
        paths = tuple(header.path for header in group)
        if len(groups) > 1 and (repeated[name] > 1 or not group[0].number):
            name = f"{name.rstrip('_')}_{file_stem(paths[0])}"
        modality = group[0].modality
        cases.append(
            Case(
                name,
                paths[0] if len(paths) == 1 else paths,
                "dicom",
                modality,
                None if modality is None else "dicom",
            )
        )
    return cases


def _without_collisions(cases: list[Case]) -> list[Case]:
    """The cases of one folder, with the extension in the names that several have."""
    repeated = Counter(case.name for case in cases)
    cases = [case if repeated[case.name] == 1 else replace(case, name=_with_extension(case)) for case in cases]
    taken: set[str] = set()
    result = []
    for case in cases:
        name, count = case.name, 1
        while name in taken:  # for instance a_png.nii beside a.png and a.jpg
            count += 1
            name = f"{case.name}_{count}"
        taken.add(name)
        result.append(replace(case, name=name))
    return result


def _with_extension(case: Case) -> str:
    path = case.paths[0]
    extension = Path(path).name[len(file_stem(path)) :].strip(".").replace(".", "_")
    return f"{case.name}_{extension or case.kind}"


def _finish(case: Case, relative: Path, root: Path) -> Case:
    """The case with its folder in its name and, where nothing better speaks, the modality of a sidecar."""
    case = replace(case, name=(relative / case.name).as_posix())
    if case.modality is not None:
        return case
    case = replace(case, sidecars=tuple(str(path) for path in sidecar_files(case.paths[0], root)))
    try:
        modality = sidecar_modality(case.paths[0], root)
    except InputRefused:
        return case  # the reader tells, when the case runs
    return case if modality is None else replace(case, modality=modality, modality_source="sidecar")


def _earlier_results(folders: list[Path]) -> set[Path]:
    """Masks and previews that the reports below the folders name."""
    files: set[Path] = set()
    for report in {path for folder in folders for path in folder.rglob(REPORT)}:
        for row in read_rows(report) or ():
            output, name = row.get("output"), row.get("case")
            if isinstance(output, str):
                files.add(_real(report.parent / output))
            if isinstance(name, str):
                files.update(_real(report.parent / f"{name}{ending}") for ending in OUR_ENDINGS)
    return files


def _real(path: Path) -> Path:
    """Where a file really lies; ``Path.resolve`` raises where links lead in a circle."""
    return Path(os.path.realpath(path))
