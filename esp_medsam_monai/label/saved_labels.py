"""From the labels that a user saved on a server to the entries of a datalist; what cannot be used is told, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from esp_medsam_monai.engines import PairCheck
from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.io import MedicalImageReader, find_cases
from esp_medsam_monai.modalities import check_modalities, label_names, label_values, modality_from_code

__all__ = ["EntryMaker", "SavedLabel", "stated_names"]


@dataclass(frozen=True)
class SavedLabel:
    """A label as a server keeps it.

    Args:
        image: path of the image: a file, or a folder with one DICOM series.
        label: path of the label file.
        source: folder of the DICOM series that ``image`` was converted from, if any. The two may be stored in different
            orders; that one is learned from that has the order of the label.
        hint: DICOM modality code that the server noted when it fetched the image, if any.
        names: ``{value in the label file: name of the target}`` as the client wrote it, empty where it wrote nothing.
    """

    image: str
    label: str
    source: str | None = None
    hint: str | None = None
    names: Mapping[int, str] | None = None


def stated_names(info: Mapping[str, Any] | None) -> dict[int, str]:
    """Names of a label file's values, as 3D Slicer sends them with a label: a list of ``{"name", "idx"}``.

    Slicer numbers the segments of a scene anew whenever it saves them, so that the values alone do not say what they
    are.

    Args:
        info: what the server noted of the label, with these under ``label_info``; None for nothing.

    Returns:
        ``{value: name in lower case}``, empty where the list is missing or lacks a number.
    """
    rows = (info or {}).get("label_info")
    if not isinstance(rows, list):
        return {}
    try:
        return {int(row["idx"]): str(row["name"]).lower() for row in rows}
    except (TypeError, KeyError, ValueError):
        return {}


class EntryMaker:
    """Makes an entry ``{"image", "label", "modality", "labels" (where values have names)}`` of a saved label.

    The modality is the user's word; or else what the label's values say, by the client's names or by the network's
    table; or else what the image's DICOM or sidecar says, and at last the server's note.

    Args:
        modalities: the network's ``{modality: [targets]}``.
        modality: the user's word for all images, one of the network's modalities; None when she said nothing.
    """

    def __init__(self, modalities: Mapping[str, Sequence[str]], modality: str | None = None) -> None:
        self.modalities = check_modalities(modalities)
        self.modality = modality
        self.targets = {
            f"{name}_{target}": (name, target) for name, targets in self.modalities.items() for target in targets
        }
        self._table = label_names(modalities)
        self._check = PairCheck(modalities, label_values=label_values(modalities))
        self._reader = MedicalImageReader(labels=True)

    def __call__(self, saved: SavedLabel) -> tuple[dict[str, Any], list[str]]:
        """
        Args:
            saved: the label.

        Returns:
            The entry, and sentences about what is doubtful in it.

        Raises:
            InputRefused: when image or label cannot be read, do not belong together, or nothing says the modality; the
                message names the file.
        """
        values = self._values(saved.label)
        modality = self.modality or self._modality(saved, values)
        entry: dict[str, Any] = {"label": saved.label, "modality": modality}
        if saved.names:
            known = {value: self.targets[name] for value, name in saved.names.items() if name in self.targets}
            entry["labels"] = {target: value for value, (name, target) in known.items() if name == modality}
        looked_at = []
        for image in (saved.image, saved.source):
            if image:
                facts = self._check({**entry, "image": image})
                if not facts.errors:
                    return {"image": image, **entry}, [f"{each.code}: {each.message}" for each in facts.findings]
                looked_at.append(facts)
        first = looked_at[0].errors
        raise InputRefused(first[0].code, " ".join(finding.message for finding in first))

    def _values(self, path: str) -> list[int]:
        array, _ = self._reader.get_data(self._reader.read(path))
        # What is no whole number is refused by the check of the pair, with a sentence of its own.
        return [int(value) for value in np.unique(array) if value > 0 and value == int(value)]

    def _modality(self, saved: SavedLabel, values: Iterable[int]) -> str:
        names = [(saved.names or self._table).get(value, "") for value in values]
        by_label = {self.targets[name][0] if name in self.targets else "" for name in names}
        by_image = _modality_of(saved.source or saved.image) or modality_from_code(saved.hint or "")
        said = next(iter(by_label)) if len(by_label) == 1 else ""
        if said and by_image and said != by_image:
            raise InputRefused(
                "OTHER_MODALITY",
                f"{saved.label} holds {', '.join(names)}, and its image {saved.image} is {by_image}. Values of labels "
                "are those of the model's list of labels; the request parameter `modality` overrules both.",
            )
        if modality := said or by_image:
            return modality
        held = ", ".join(map(str, values)) or "no value but 0"
        raise InputRefused(
            "NO_MODALITY",
            f"nothing says which modality {saved.image} is: its label holds {held}, which speak for none or several. "
            f'Put a file beside the image that is named like it and ends in .json, with {{"modality": "NAME"}} in it, '
            f"or give the request parameter `modality`. Known names: {', '.join(self.modalities)}.",
        )


def _modality_of(image: str) -> str | None:
    """What DICOM or a sidecar says of an image; nothing of one that is gone, which its reader refuses by name."""
    if not Path(image).exists():
        return None
    said = {case.modality for case in find_cases(Path(image))[0] if case.modality}
    return said.pop() if len(said) == 1 else None
