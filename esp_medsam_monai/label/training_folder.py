"""The folder of one training on a server: what it learns from, what came of it, and whether that is better."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from esp_medsam_monai.engines.reasons import reason_of
from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.io import MedicalImageReader, atomic_path
from esp_medsam_monai.io.reader import PICTURE_SUFFIXES
from esp_medsam_monai.modalities import label_values

from .saved_labels import EntryMaker, SavedLabel
from .train_options import TrainOptions

__all__ = ["TrainingFolder", "last_result"]

_RESULT = "result.json"
_SLICES = 12
"""Slices of an image that a training is measured on, evenly spaced: of a picture there is one."""
_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainingFolder:
    """Files: ``datalist.json``, those of any training (``history.json``, ``curve.png``, ...), ``result.json``.

    A result is ``{"better", "best_metric", "before", "epoch", "training", "validation", "left_out"}``: whether the
    weights are served now; Dice of the best epoch and before the training, None without validation images; that epoch;
    numbers of images.

    Args:
        path: the folder.
    """

    path: Path

    @classmethod
    def create(cls, trainings: Path) -> TrainingFolder:
        """A new folder, named by the time.

        Weights that killed trainings left behind are removed: a training that may run now has ended before.

        Args:
            trainings: holds the folders of all trainings, made when missing.
        """
        for folder in _folders(trainings):
            cls(folder).remove_weights()
        begin = time.strftime("%Y%m%d-%H%M%S")
        names = [begin, *(f"{begin}-{number}" for number in range(2, 1000))]
        path = next(trainings / name for name in names if not (trainings / name).exists())
        path.mkdir(parents=True)
        return cls(path)

    @property
    def datalist(self) -> Path:
        """The images that were used, as any training of this bundle takes them."""
        return self.path / "datalist.json"

    @property
    def best(self) -> Path:
        """The weights of the best epoch, as long as the training lasts."""
        return self.path / "best.pt"

    def write_datalist(
        self, saved: Sequence[SavedLabel], modalities: Mapping[str, Sequence[str]], options: TrainOptions
    ) -> list[str]:
        """Look at all labels, leave out what is refused, and divide the rest into training and validation.

        Of each modality the share ``val_split`` is kept for validation, at least one image is not. Which, is decided by
        the files' names, so that the next training, with more images, keeps largely the same.

        Args:
            saved: the labels.
            modalities: the network's ``{modality: [targets]}``.
            options: share, and modality where the user says it.

        Returns:
            The modalities that there are labels of, in the network's order.

        Raises:
            InputRefused: ``NO_LABELS`` when nothing can be used.
        """
        maker = EntryMaker(modalities, options.modality)
        entries: dict[str, list[dict[str, Any]]] = {}
        refused: list[str] = []
        for each in saved:
            try:
                entry, doubts = maker(self._readable(each))
            except Exception as error:  # whatever a foreign file provokes
                refused.append(reason_of(error))
                continue
            entries.setdefault(entry["modality"], []).append(entry)
            for doubt in doubts:
                _LOGGER.warning(doubt)
        for reason in refused:
            _LOGGER.warning("left out: %s", reason)
        if not entries:
            text = f"none of {len(saved)} can be used: {refused[0]}" if saved else "save some with the tag final first."
            raise InputRefused("NO_LABELS", f"there are no labels to train on; {text}")
        sections: dict[str, list[dict[str, Any]]] = {"training": [], "validation": []}
        for listed in entries.values():
            listed.sort(key=lambda entry: hashlib.sha256(Path(entry["image"]).name.encode()).digest())
            kept = min(round(options.val_split * len(listed)), len(listed) - 1)
            sections["validation"] += listed[:kept]
            sections["training"] += listed[kept:]
        content = {**sections, "labels": label_values(modalities), "left_out": refused}
        content["validation"] = [{**entry, "slice": part} for entry in sections["validation"] for part in _parts(entry)]
        _write(self.datalist, content)
        for name, listed in sections.items():
            counts = Counter(entry["modality"] for entry in listed)
            told = ", ".join(f"{modality} {count}" for modality, count in sorted(counts.items())) or "no images"
            _LOGGER.info("%s: %s", name, told)
        if refused:
            _LOGGER.warning("%d of %d labels were left out, see %s", len(refused), len(saved), self.datalist)
        return [modality for modality in modalities if modality in entries]

    def _readable(self, saved: SavedLabel) -> SavedLabel:
        """The same with a NIfTI of the label, where it is stored as only ITK reads it: Slicer also writes NRRD."""
        label = Path(saved.label)
        if not label.is_file() or MedicalImageReader(labels=True).verify_suffix(label):
            return saved
        converted = self.path / "labels" / f"{label.name}.nii.gz"
        converted.parent.mkdir(exist_ok=True)
        sitk.WriteImage(sitk.ReadImage(str(label)), str(converted))
        return dataclasses.replace(saved, label=str(converted))

    def result(self) -> dict[str, Any]:
        """What came of the training, read from its files."""
        content = _read(self.datalist)
        rows = _read(self.path / "history.json")
        measured = [row for row in rows if "dice" in row]
        best = max(measured, key=lambda row: row["dice"]["mean"], default=None)
        start = self.path / "start.json"
        before = _read(start)["dice"] if best and start.is_file() else None
        after = best["dice"]["mean"] if best else None
        return {
            "better": before is None or after >= before,
            "best_metric": after,
            "before": before,
            "epoch": (best or rows[-1])["epoch"],
            **{name: len({entry["image"] for entry in content[name]}) for name in ("training", "validation")},
            "left_out": len(content["left_out"]),
        }

    def tell(self, result: Mapping[str, Any], weights: Path) -> dict[str, Any]:
        """Write ``result.json``, and say in the log what came of it.

        Args:
            result: see :meth:`result`.
            weights: the served weights.
        """
        _write(self.path / _RESULT, result)
        images = f"{result['training']} images" + (f", {result['left_out']} left out" if result["left_out"] else "")
        if result["before"] is None:
            dice = "no images were kept to measure it on"
        else:
            dice = f"Dice on {result['validation']} other images {result['before']:.3f} before, "
            dice += f"{result['best_metric']:.3f} after epoch {result['epoch']}"
        if result["better"]:
            _LOGGER.info("trained on %s; %s: served from now on as %s", images, dice, weights)
        else:
            _LOGGER.warning("trained on %s; %s: not better, so the weights stay as they were", images, dice)
        return dict(result)

    def remove_weights(self) -> None:
        """Remove checkpoints, which are large: what is worth keeping is served."""
        for path in [*self.path.glob("*.pt"), *self.path.glob(".partial-*")]:
            path.unlink(missing_ok=True)


def last_result(trainings: Path) -> dict[str, Any]:
    """``result.json`` of the last training that has one; empty when there is none."""
    for folder in reversed(_folders(trainings)):
        path = folder / _RESULT
        if path.is_file():
            return dict(_read(path))
    return {}


def _parts(entry: Mapping[str, Any]) -> list[tuple[int, int]]:
    """What :class:`~esp_medsam_monai.transforms.TakeSliced` takes for evenly spaced slices of an image."""
    number = 1 if str(entry["image"]).lower().endswith(PICTURE_SUFFIXES) else _SLICES
    return [(place, number) for place in range(number)]


def _folders(trainings: Path) -> list[Path]:
    return sorted(path for path in trainings.iterdir() if path.is_dir()) if trainings.is_dir() else []


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
