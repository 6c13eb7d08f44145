"""Images for quantisation: seen through the bundle's own preprocessing and inferer, as the network would see them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from esp_medsam_monai.engines.datalist import read_datalist
from esp_medsam_monai.inferers import SliceBatchInferer
from esp_medsam_monai.io import find_cases
from esp_medsam_monai.networks import SelfPromptingNetwork

__all__ = ["CalibrationImages", "calibration_squares"]

SLICES_A_CASE = 4
"""Slices of one volume at most: neighbours are alike, and many patients tell more than many slices of one."""

_HELD_OUT_SHARE = 3


@dataclass(frozen=True)
class CalibrationImages:
    """Entries ``{"image", "modality"}`` to calibrate with, and others to measure on.

    Args:
        calibration: entries that the quantisation sees.
        held_out: entries that it does not see.
        source: where they come from, for the record.
    """

    calibration: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)
    source: str = ""

    @classmethod
    def of_datalist(cls, path: str | os.PathLike[str]) -> CalibrationImages:
        """Training and validation entries to calibrate with, test entries to measure on; labels are not read."""
        seen = [
            entry
            for section in ("training", "validation")
            for entry in read_datalist(path, section, required=False, labels=False)
        ]
        return cls(seen, read_datalist(path, "test", labels=False), f"{Path(path).name}: training, validation")

    @classmethod
    def of_folder(cls, dataset_dir: str | os.PathLike[str], seed: int = 0) -> CalibrationImages:
        """Two thirds of the images in a folder to calibrate with, the others to measure on, of each modality."""
        by_modality: dict[str | None, list[dict[str, Any]]] = {}
        for case in find_cases(Path(dataset_dir))[0]:
            image = case.image if isinstance(case.image, str) else list(case.image)
            by_modality.setdefault(case.modality, []).append({"image": image, "modality": case.modality})
        calibration: list[dict[str, Any]] = []
        held_out: list[dict[str, Any]] = []
        for entries in by_modality.values():
            random.Random(seed).shuffle(entries)
            count = max(1, len(entries) // _HELD_OUT_SHARE)
            held_out += entries[:count]
            calibration += entries[count:]
        return cls(calibration, held_out, f"{Path(dataset_dir).resolve().name}: two thirds")

    def of_modality(self, modality: str, assumed: bool, seed: int = 0) -> CalibrationImages:
        """The entries of one modality, shuffled.

        Args:
            modality: name.
            assumed: entries that say no modality are of this one.
            seed: of the shuffle.
        """

        def chosen(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
            allowed = {modality, None, ""} if assumed else {modality}
            found = [{**entry, "modality": modality} for entry in entries if entry.get("modality") in allowed]
            random.Random(seed).shuffle(found)
            return found

        return CalibrationImages(chosen(self.calibration), chosen(self.held_out), self.source)


def calibration_squares(
    images: Iterable[torch.Tensor], inferer: SliceBatchInferer, network: SelfPromptingNetwork, modality: str, count: int
) -> list[torch.Tensor]:
    """What the network would be given of some images.

    Args:
        images: ``(C, *spatial)`` in 0..255, as after preprocessing; no more are taken than needed.
        inferer: the way from an image to squares.
        network: the network of the inferer, which is not run.
        modality: of all images.
        count: squares wanted; fewer when the images end before.

    Returns:
        ``(3, S, S)`` each, float32, normalised; :data:`SLICES_A_CASE` of a volume at most.
    """
    squares: list[torch.Tensor] = []
    for number, image in enumerate(images):
        recorder = _Recorder(network, SLICES_A_CASE, seed=number)
        inferer(image.unsqueeze(0), recorder, modality)
        squares += recorder.squares
        if len(squares) >= count:
            break
    return squares[:count]


class _Recorder:
    """Stands in for a network and keeps a random sample of what it is asked, the same one every time."""

    def __init__(self, network: SelfPromptingNetwork, most: int, seed: int) -> None:
        self.modalities = network.modalities
        self.img_size = network.img_size
        self.default_modality = network.default_modality
        self.squares: list[torch.Tensor] = []
        self._most = most
        self._asked = 0
        self._random = random.Random(seed)

    def __call__(self, x: torch.Tensor, modality: str) -> torch.Tensor:
        for square in x:
            place = self._asked if self._asked < self._most else self._random.randint(0, self._asked)
            self._asked += 1
            if place < self._most:
                self.squares[place : place + 1] = [square.clone()]
        return x.new_zeros(len(x), len(self.modalities[modality]), *x.shape[2:])
