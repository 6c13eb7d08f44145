"""Quantised models of a bundle: calibrated on real images, measured on others, kept where the masks agree."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from esp_medsam_monai.checkpoints.safe import load_weights
from esp_medsam_monai.engines.calibration import CalibrationImages, calibration_squares
from esp_medsam_monai.engines.mask_agreement import Agreement, MaskAgreement, summarize_agreement
from esp_medsam_monai.engines.reasons import reason_of
from esp_medsam_monai.modalities import image_side
from esp_medsam_monai.networks import ESPMedSAM
from esp_medsam_monai.runtimes.checking import fingerprint
from esp_medsam_monai.runtimes.openvino_runtime import OpenVINORuntime
from esp_medsam_monai.runtimes.processor import cpu_name, has_int8_dot
from esp_medsam_monai.runtimes.quantize import quantize
from esp_medsam_monai.runtimes.quantized_files import quantized_folder, save_quantized

__all__ = ["BundleQuantizer", "Quantized"]

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Quantized:
    """What became of one modality.

    Args:
        modality: name.
        side: side of the images in pixels.
        images: number of squares that it was calibrated with.
        agreement: of its masks with those of the network in fp32, on images that it had not seen.
        path: the file; None when the agreement was too low and nothing was kept.
        megabytes: size of the model.
    """

    modality: str
    side: int
    images: int
    agreement: Agreement
    path: Path | None
    megabytes: float


class BundleQuantizer:
    """Quantises a bundle's network, modality by modality.

    Preprocessing, network and inferer are those of the bundle's ``configs/inference.yaml``.

    Args:
        bundle: its folder, which takes the models.
        ckpt: file of weights; None for the bundle's.
        side: side of the images in pixels; None for that of the config.

    Raises:
        ValueError: when the bundle's network is no ``ESPMedSAM``.
    """

    def __init__(
        self, bundle: str | os.PathLike[str], ckpt: str | os.PathLike[str] | None = None, side: int | None = None
    ) -> None:
        self.bundle = Path(bundle)
        parser = ConfigParser(ConfigParser.load_config_file(str(self.bundle / "configs" / "inference.yaml")))
        own: dict[str, Any] = {"bundle_root": str(self.bundle), "device": torch.device("cpu"), "modality": None}
        if "runtime" in parser:
            own["runtime"] = None  # the runtimes to compare are given to the inferer by hand
        if side is not None:
            own |= {"image_size": side, "image_sizes": None}
        parser.update(own)
        self._preprocessing = parser.get_parsed_content("preprocessing")
        self.inferer = parser.get_parsed_content("inferer")
        self.inferer.progress = False
        self.network = parser.get_parsed_content("network_def")
        if not isinstance(self.network, ESPMedSAM):
            raise ValueError(f"{self.bundle}: only ESPMedSAM can be quantised, got {type(self.network).__name__}.")
        self.weights = Path(ckpt) if ckpt else self.bundle / "models" / "model.pt"
        self.weights_file_sha256 = load_weights(self.network, self.weights)
        self.network.eval()

    def side(self, modality: str) -> int:
        """Side of the images of a modality in pixels."""
        return image_side(modality, self.inferer.image_size or self.network.img_size, self.inferer.image_sizes)

    def __call__(
        self,
        modality: str,
        entries: CalibrationImages,
        images: int = 64,
        held_out: int = 30,
        minimum_dice: float = 0.99,
    ) -> Quantized:
        """Quantise for one modality, measure, and keep the model if it is good enough.

        Args:
            modality: name.
            entries: of this modality.
            images: squares to calibrate with.
            held_out: images to measure on, at most.
            minimum_dice: lowest mean Dice with the masks of the network in fp32 that is kept.

        Raises:
            ValueError: when there are no images that can be read to calibrate with or to measure on.
        """
        side = self.side(modality)
        squares = calibration_squares(
            (image for image, _ in self.read(entries.calibration)), self.inferer, self.network, modality, images
        )
        model = quantize(self.network, modality, squares, side)
        with tempfile.TemporaryDirectory() as folder:
            weights = fingerprint(self.network)
            path = save_quantized(model, folder, weights, modality, side, {})
            agreement = self._agreement(modality, side, path, entries.held_out[:held_out])
            megabytes = path.with_suffix(".bin").stat().st_size / 1e6
        kept = agreement.mean_dice is not None and agreement.mean_dice >= minimum_dice
        kept_path = None
        if kept:
            facts = {
                "weights_file": self.weights.name,
                "weights_file_sha256": self.weights_file_sha256,
                "versions": {name: version(name) for name in ("esp-medsam-monai", "torch", "openvino", "nncf")},
                "calibration": {"images": len(squares), "source": entries.source},
                "agreement": {
                    **agreement.as_json(),
                    "worst_case": Path(str(agreement.worst_case)).name,  # a bundle travels, folders do not
                    "images": min(held_out, len(entries.held_out)),
                    "minimum_dice": minimum_dice,
                    "processor": cpu_name(),
                    "int8_instructions": has_int8_dot(),
                },
            }
            kept_path = save_quantized(model, quantized_folder(self.bundle), weights, modality, side, facts)
        return Quantized(modality, side, len(squares), agreement, kept_path, megabytes)

    def _agreement(self, modality: str, side: int, path: Path, entries: Sequence[dict[str, Any]]) -> Agreement:
        compare = MaskAgreement(self.inferer, self.network)
        runtime = OpenVINORuntime(self.network, "int8", quantized={(modality, side): path})
        rows = []
        for image, name in self.read(entries):
            rows += compare(image, modality, {"int8": runtime}, case=name)["int8"]
        if not rows:
            raise ValueError(f"none of {len(entries)} images of {modality} to measure on can be read; give others.")
        return summarize_agreement(rows)

    def read(self, entries: Sequence[dict[str, Any]]) -> Iterator[tuple[MetaTensor, str]]:
        """Images ``(C, *spatial)`` in 0..255 with their names; what cannot be read is told and left out."""
        for entry in entries:
            files = entry["image"]
            name = files if isinstance(files, str) else str(Path(files[0]).parent)  # of a DICOM series
            try:
                image = self._preprocessing(dict(entry))["image"]
            except Exception as error:  # whatever a foreign file provokes
                _LOGGER.warning(f"{name} is left out: {reason_of(error)}")
                continue
            yield image, name
