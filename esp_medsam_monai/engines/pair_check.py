"""One image and its label: can both be read, do they lie on one grid, and are the values labels?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from monai.utils.misc import str2bool

from esp_medsam_monai.engines.reasons import reason_of
from esp_medsam_monai.errors import InputRefused, warnings_of
from esp_medsam_monai.hashing import sha256_of, sha256_of_settings
from esp_medsam_monai.io import MedicalImageReader
from esp_medsam_monai.io.reader import PICTURE_SUFFIXES
from esp_medsam_monai.io.rules import ReadingRules
from esp_medsam_monai.modalities import check_modalities
from esp_medsam_monai.transforms import EncodeLabels, RouteModality

__all__ = ["AFFINE_TOLERANCE", "Finding", "PairCheck", "PairFacts", "files_of"]

AFFINE_TOLERANCE = 1e-3
"""Largest difference between the affines of an image and its label, in mm."""

_SHOWN = 10  # values in a message
_MOST_VALUES = 1000  # nobody's label file has more, and a list of them helps nobody


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or looks wrong, with the data.

    Args:
        level: an ``error`` keeps a training from starting, a ``warning`` does not.
        code: stays the same between releases.
        message: a sentence with the file and the value in question.
        section: section of the datalist.
        image: path of the entry's image, empty where the finding concerns no single entry.
        label: path of its label.
    """

    level: Literal["error", "warning"]
    code: str
    message: str
    section: str = ""
    image: str = ""
    label: str = ""


@dataclass
class PairFacts:
    """What is kept of an entry that was looked at: no pixels.

    Args:
        findings: what is wrong with it.
        modality: its modality, empty where nothing says it.
        targets: targets of the modality that occur in the label.
        content: hash of the image's pixels as stored, whatever the names of its files; empty when it cannot be read.
    """

    findings: list[Finding] = field(default_factory=list)
    modality: str = ""
    targets: tuple[str, ...] = ()
    content: str = ""

    @property
    def errors(self) -> list[Finding]:
        """The findings that are no mere warnings."""
        return [finding for finding in self.findings if finding.level == "error"]


class PairCheck:
    """Looks at an entry of a datalist and says all that is wrong with it.

    An entry is ``{"image", "label", "modality" (optional), "labels" (optional)}``; the last, ``{target: value}``,
    stands for the datalist's own with this label.

    Codes of errors: those of the reader and of :class:`~esp_medsam_monai.transforms.RouteModality`; ``NO_LABEL``,
    ``LABEL_SHAPE`` and ``LABEL_AFFINE`` (another grid than the image's; pictures have no place in the world),
    ``LABEL_NON_INTEGER``, ``LABEL_NEGATIVE``, ``UNKNOWN_LABELS`` (values that the datalist's ``labels`` do not name).
    Codes of warnings: those of the reader, ``EMPTY_LABEL``, and ``MANY_LABEL_VALUES`` where every non-zero value will
    count as the one target.

    Args:
        modalities: the network's ``{modality: [targets]}``.
        default_modality: modality of entries that name none.
        label_values: the datalist's ``labels``, ``{modality: {target: value in the label files}}``.
        rules: which doubtful inputs are read all the same.
        labels: False looks at images alone: a label is neither needed nor read. A word will do: on a command line
            ``--pair_check#labels false`` arrives as text.
    """

    def __init__(
        self,
        modalities: Mapping[str, Sequence[str]],
        default_modality: str | None = None,
        label_values: Mapping[str, Mapping[str, int]] | None = None,
        rules: ReadingRules | None = None,
        labels: bool | str = True,
    ) -> None:
        self.labels = str2bool(labels)
        self.modalities = check_modalities(modalities)
        self.route = RouteModality(None, modalities, default_modality)
        self.label_values = {k: dict(v) for k, v in (label_values or {}).items()}
        self.rules = rules or ReadingRules()
        self.image_reader = MedicalImageReader(rules=self.rules)
        self.label_reader = MedicalImageReader(labels=True, rules=self.rules)

    @property
    def settings(self) -> dict[str, Any]:
        """What a result depends on, besides the entry and its files."""
        return {
            "modalities": self.modalities,
            "default_modality": self.route.default_modality,
            "label_values": self.label_values,
            "rules": self.rules,
            "labels": self.labels,
        }

    def __call__(self, entry: Mapping[str, Any]) -> PairFacts:
        """Read the files, and forget their pixels again."""
        facts = PairFacts()
        image = self._read(self.image_reader, entry["image"], facts)
        label = None
        if self.labels and not entry.get("label"):
            _add(facts, "error", "NO_LABEL", f"{entry['image']}: its entry in the datalist has no 'label'.")
        elif self.labels:
            label = self._read(self.label_reader, entry["label"], facts)
        if image is not None:
            facts.content = sha256_of_settings(sorted(map(sha256_of, files_of(entry["image"]))))
            meta = {**image[1], "filename_or_obj": entry["image"]}
            try:
                facts.modality = self.route(SimpleNamespace(meta=meta), entry.get("modality")).meta["modality"]
            except InputRefused as refusal:
                _add(facts, "error", refusal.code, refusal.message)
        if label is not None:
            if image is not None:
                _compare_grids(entry, image, label, facts)
            self._look_at_values(entry, label, facts)
        return facts

    def _read(
        self, reader: MedicalImageReader, path: str, facts: PairFacts
    ) -> tuple[np.ndarray, dict[str, Any]] | None:
        try:
            array, meta = reader.get_data(reader.read(path))
        except Exception as error:  # whatever a foreign file provokes
            code, _, message = reason_of(error).partition(": ")
            _add(facts, "error", code, message if path in message else f"{path}: {message}")
            return None
        for sentence in warnings_of(meta):
            code, _, message = sentence.partition(": ")
            _add(facts, "warning", code, message if path in message else f"{path}: {message}")
        return array, meta

    def _look_at_values(
        self, entry: Mapping[str, Any], label: tuple[np.ndarray, dict[str, Any]], facts: PairFacts
    ) -> None:
        array, path = label[0], entry["label"]
        if array.ndim > len(label[1]["spatial_shape"]):
            if not (array == array[:1]).all():
                _add(facts, "error", "UNKNOWN_LABELS", f"{path} is a colour picture; a label has one value a pixel.")
                return
            array = array[0]
        values = _distinct(array)
        fractions = [value for value in values if value != round(value)]
        negative = [value for value in values if value < 0]
        if fractions:
            text = f"{path} holds {_list(fractions)}; labels are whole numbers. Resample labels by nearest neighbour."
            _add(facts, "error", "LABEL_NON_INTEGER", text)
        if negative:
            _add(facts, "error", "LABEL_NEGATIVE", f"{path} holds {_list(negative)}; labels are 0 or more.")
        if not any(values):
            _add(facts, "warning", "EMPTY_LABEL", f"{path} holds background alone.")
        if facts.modality and not fractions and not negative:
            self._name_values(entry, values, facts)

    def _name_values(self, entry: Mapping[str, Any], values: list[float], facts: PairFacts) -> None:
        path, targets = entry["label"], self.modalities[facts.modality]
        own = entry.get("labels")
        named = own or self.label_values.get(facts.modality)
        if own:
            try:
                EncodeLabels(self.modalities, {facts.modality: own})
            except (TypeError, ValueError) as error:
                _add(facts, "error", "UNKNOWN_LABELS", f"{path}: {error}")
                return
        if named is not None:
            facts.targets = tuple(target for target in targets if named.get(target) in values)
            others = [value for value in values if value and value not in named.values()]
            if others:
                text = f"{path} holds {_list(others)}; the datalist's labels of {facts.modality} are 0 and {named}."
                _add(facts, "error", "UNKNOWN_LABELS", text)
        elif len(targets) == 1:
            facts.targets = targets if any(values) else ()
            if len(values) > 2:
                text = f"{path} holds {_list(values)}; every value but 0 counts as {targets[0]}."
                _add(facts, "warning", "MANY_LABEL_VALUES", text)


def files_of(path: str) -> list[Path]:
    """The file of an entry, or the files of its folder."""
    return sorted(child for child in Path(path).iterdir() if child.is_file()) if Path(path).is_dir() else [Path(path)]


def _add(facts: PairFacts, level: Literal["error", "warning"], code: str, message: str) -> None:
    facts.findings.append(Finding(level, code, message))


def _compare_grids(
    entry: Mapping[str, Any],
    image: tuple[np.ndarray, dict[str, Any]],
    label: tuple[np.ndarray, dict[str, Any]],
    facts: PairFacts,
) -> None:
    ours, theirs = (tuple(int(n) for n in meta["spatial_shape"]) for _, meta in (image, label))
    if ours != theirs:
        _add(facts, "error", "LABEL_SHAPE", f"{entry['label']} has shape {theirs}, its image {entry['image']} {ours}.")
    if any(str(entry[key]).lower().endswith(PICTURE_SUFFIXES) for key in ("image", "label")):
        return
    affines = [np.asarray(meta["affine"], dtype=float) for _, meta in (image, label)]
    difference = float(np.abs(affines[0] - affines[1]).max())
    if difference > AFFINE_TOLERANCE:
        text = (
            f"{entry['label']} and its image {entry['image']} lie in different places: their affines differ by up to "
            f"{difference:.3g} (mm). Resample the label onto its image, or correct its header."
        )
        _add(facts, "error", "LABEL_AFFINE", text)


def _distinct(array: np.ndarray) -> list[float]:
    """Values of an array in their order; the first of them when there are too many."""
    found: set[float] = set()
    # A slice at a time: sorting a whole volume takes as much memory again.
    for part in array.T if array.ndim > 2 else [array]:
        if len(found) < _MOST_VALUES:
            found.update(np.unique(part)[:_MOST_VALUES].tolist())
    return sorted(found)


def _list(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:_SHOWN])
    return f"the value{'s' if len(values) > 1 else ''} {shown}" + (", ..." if len(values) > _SHOWN else "")
