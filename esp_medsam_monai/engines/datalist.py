"""Datalists: which image, which label, which modality, in which section. Reading one, and writing one from folders."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from esp_medsam_monai.io import atomic_path

__all__ = ["SECTIONS", "datalist_labels", "read_datalist", "write_datalist"]

SECTIONS = ("training", "validation", "test")
Labels = bool | Literal["optional"]
_PATH_KEYS = ("image", "label")
_SUFFIXES = (".nii.gz", ".nii", ".png", ".jpg", ".jpeg")
_LABEL_ENDINGS = ("_segmentation", "_seg", "_mask", "_label")


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such datalist. 'python -m esp_medsam_monai datalist' writes one.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: is no JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a datalist is an object with the lists {', '.join(SECTIONS)}.")
    return content


def _resolved(entry: Any, where: str, base: Path, check_files: bool, labels: Labels) -> dict[str, Any]:
    has_label = isinstance(entry, dict) and bool(entry.get("label"))
    keys = _PATH_KEYS if labels is True or (labels == "optional" and has_label) else _PATH_KEYS[:1]
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) and entry[key] for key in keys):
        needed = "the paths 'image' and 'label'" if len(keys) > 1 else "the path 'image'"
        raise ValueError(f"{where}: needs {needed}, got {entry!r}.")
    files = {key: base / entry[key] for key in keys}
    for key, path in files.items():
        if check_files and not path.exists():
            raise FileNotFoundError(f"{where}: {key} {path} does not exist (relative paths start at {base}).")
    kept = {key: value for key, value in entry.items() if key not in _PATH_KEYS}
    return {**kept, **{key: str(path) for key, path in files.items()}}


def read_datalist(
    path: str | PathLike[str] | None,
    section: str,
    dataset_dir: str | None = None,
    required: bool = True,
    check_files: bool = True,
    labels: Labels = True,
) -> list[dict[str, Any]]:
    """Entries of one section of a datalist, with every path absolute.

    The format is the Medical Segmentation Decathlon's: ``training``, ``validation`` and ``test`` are lists of
    ``{"image", "label", "modality", "domain" (optional)}``. Further keys of an entry are kept.

    Args:
        path: the JSON file.
        section: ``training``, ``validation`` or ``test``.
        dataset_dir: folder that relative paths start from; None or empty: the folder of the file.
        required: a missing or empty section is an error; otherwise it gives no entries.
        check_files: the first file that is missing is an error; otherwise they are left to a look at all of them, see
            :class:`~esp_medsam_monai.engines.DatalistCheck`.
        labels: True: every entry needs a ``label``; False: labels are left out; ``"optional"``: as the entries have it.

    Raises:
        FileNotFoundError: when the datalist, or with ``check_files`` a file that it names, is missing.
        ValueError: when there is no datalist, the file is none, the section is missing or empty, or an entry lacks
            ``image`` or, where it is needed, ``label``.
    """
    if not path:
        raise ValueError(f"there are no images for {section}: no datalist is given. Add --datalist LIST.json.")
    path = Path(path)
    content = _content(path)
    entries = content.get(section, [])
    if not isinstance(entries, list):
        raise ValueError(f"{path}: {section!r} should be a list of entries, got {type(entries).__name__}.")
    if not entries and required:
        filled = [name for name in SECTIONS if content.get(name)]
        raise ValueError(f"{path}: has nothing in {section!r}; it has entries in {filled or 'none of its sections'}.")
    base = Path(dataset_dir).resolve() if dataset_dir else path.resolve().parent
    return [_resolved(entry, f"{path}: {section}[{i}]", base, check_files, labels) for i, entry in enumerate(entries)]


def datalist_labels(path: str | PathLike[str] | None) -> dict[str, dict[str, int]] | None:
    """What the label files' values mean: ``{modality: {target: value}}``, the datalist's ``labels``.

    Args:
        path: the JSON file; None or empty gives None, as MONAI Label trains without a datalist.

    Returns:
        the table, or None when the datalist states none: then a modality with one target takes every non-zero value.
    """
    if not path:
        return None
    labels = _content(Path(path)).get("labels")
    if labels is None:
        return None
    if not isinstance(labels, dict) or not all(
        isinstance(targets, dict) and all(type(value) is int for value in targets.values())
        for targets in labels.values()
    ):
        raise ValueError(f"{path}: 'labels' should be {{modality: {{target: value}}}}, got {labels!r}.")
    return labels


def _files(folder: Path) -> dict[str, Path]:
    """Images below a folder by their name without suffix; folders between belong to the name (``sub/case1``)."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        suffix = next((end for end in _SUFFIXES if path.name.lower().endswith(end)), None)
        if suffix is None or path.name.startswith(".") or not path.is_file():
            continue
        name = path.relative_to(folder).as_posix()[: -len(suffix)]
        if name in found:
            raise ValueError(f"{path}: has the name of {found[name]}; an image and its label are matched by name.")
        found[name] = path
    return found


def _case(name: str) -> str:
    return next((name[: -len(end)] for end in _LABEL_ENDINGS if name.endswith(end)), name)


def _pairs(images_dir: Path, labels_dir: Path) -> list[tuple[Path, Path]]:
    images, labels = _files(images_dir), _files(labels_dir)
    if images_dir.resolve() == labels_dir.resolve():
        images = {name: path for name, path in images.items() if _case(name) == name}
        labels = {name: path for name, path in labels.items() if _case(name) != name}
    # An exact name wins over one with an ending.
    by_case = {**{_case(name): path for name, path in labels.items()}, **labels}
    pairs = [(path, by_case[name]) for name, path in images.items() if name in by_case]
    if not pairs:
        raise ValueError(
            f"{images_dir}: none of {len(images)} images has a label among the {len(labels)} files of {labels_dir}; a "
            f"label is named as its image, or with {', '.join(_LABEL_ENDINGS)} added before the suffix."
        )
    return pairs


def write_datalist(
    images_dir: str | PathLike[str],
    labels_dir: str | PathLike[str],
    output: str | PathLike[str],
    modality: str,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    targets: Mapping[str, int] | None = None,
    domain: str | None = None,
    split: Mapping[str, Sequence[str]] | None = None,
    append: bool = False,
) -> dict[str, int]:
    """Write a datalist of the images in a folder that have a label in another (or in the same) folder.

    An image and its label have the same relative path without suffix; the label may end in ``_seg``, ``_mask``,
    ``_label`` or ``_segmentation``. Images without a label are left out. Paths are written relative to the datalist.

    Args:
        images_dir: folder with the images (NIfTI, PNG, JPEG), searched to the bottom.
        labels_dir: folder with the labels.
        output: JSON file to write.
        modality: our name of the modality of all these images.
        fractions: shares of training, validation and test; they are divided by their sum.
        seed: of the shuffle before the split; the same files and seed give the same split.
        targets: ``{target: value in the label files}``; None where every non-zero value is the one target.
        domain: name of the set, kept with every entry.
        split: ``{section: [names]}`` instead of fractions, names relative to ``images_dir`` without suffix.
        append: add to the datalist that ``output`` already is, for instance another modality.

    Returns:
        number of entries written per section by this call.
    """
    images_dir, labels_dir, output = Path(images_dir), Path(labels_dir), Path(output)
    for folder in (images_dir, labels_dir):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder.")
    if len(fractions) != len(SECTIONS) or min(fractions) < 0 or sum(fractions) <= 0:
        raise ValueError(
            f"fractions should be three shares, none negative, for {', '.join(SECTIONS)}; got {fractions}."
        )
    base = output.resolve().parent

    def entry(image: Path, label: Path) -> dict[str, str]:
        paths = (Path(os.path.relpath(path.resolve(), base)).as_posix() for path in (image, label))
        fields = dict(zip(("image", "label"), paths, strict=True))
        return {**fields, "modality": modality, **({"domain": domain} if domain else {})}

    pairs = _pairs(images_dir, labels_dir)
    if split is None:
        random.Random(seed).shuffle(pairs)
        ends = [round(len(pairs) * sum(fractions[: i + 1]) / sum(fractions)) for i in range(len(SECTIONS))]
        parts = {name: pairs[start:end] for name, start, end in zip(SECTIONS, [0, *ends], ends, strict=False)}
    else:
        parts = _given_split(pairs, split, images_dir)

    content: dict[str, Any] = json.loads(output.read_text(encoding="utf-8")) if append and output.is_file() else {}
    for name, part in parts.items():
        content.setdefault(name, []).extend(entry(*pair) for pair in part)
    if targets:
        content.setdefault("labels", {})[modality] = dict(targets)
    with atomic_path(output) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return {name: len(part) for name, part in parts.items()}


def _given_split(
    pairs: list[tuple[Path, Path]], split: Mapping[str, Sequence[str]], images_dir: Path
) -> dict[str, list[tuple[Path, Path]]]:
    by_name = {}
    for pair in pairs:
        name = pair[0].relative_to(images_dir).as_posix()
        by_name[name[: -len(next(end for end in _SUFFIXES if name.lower().endswith(end)))]] = pair
    unknown = sorted(set(split) - set(SECTIONS))
    if unknown:
        raise ValueError(f"the split names the sections {unknown}; known are {', '.join(SECTIONS)}.")
    missing = [name for names in split.values() for name in names if name not in by_name]
    if missing:
        raise ValueError(f"{images_dir}: the split names {missing[:5]}, which have no image with a label here.")
    return {section: [by_name[name] for name in names] for section, names in split.items()}
