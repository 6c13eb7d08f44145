"""Values in label files become the values of the network's one table."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.modalities import check_modalities
from esp_medsam_monai.modalities import label_values as network_values

__all__ = ["EncodeLabels", "EncodeLabelsD", "EncodeLabelsDict", "EncodeLabelsd"]


class EncodeLabels:
    """Translate one label map into the network's label values.

    A table that leaves out targets of its modality says that the files do not speak of them: where such a label is 0,
    they may be there or not.

    Args:
        modalities: the network's ``{modality: [targets]}``.
        label_values: ``labels`` of the datalist, ``{modality: {target: value in the label files}}``. A modality with
            one target needs no entry: every non-zero value is its foreground.

    Raises:
        ValueError: when an entry of ``label_values`` names no target of the modality or others, uses 0, or uses a value
            twice.
    """

    def __init__(
        self, modalities: Mapping[str, Sequence[str]], label_values: Mapping[str, Mapping[str, int]] | None = None
    ) -> None:
        self.modalities = check_modalities(modalities)
        self.network_values = network_values(modalities)
        # A list may serve several networks, so its entries for other modalities are no mistake.
        self.file_values = {k: dict(v) for k, v in (label_values or {}).items() if k in self.modalities}
        for modality, values in self.file_values.items():
            self._check(modality, values)

    def _check(self, modality: str, values: Mapping[str, int]) -> None:
        targets = self.modalities[modality]
        if not values or not set(values) <= set(targets):
            raise ValueError(
                f"labels of {modality} should name {list(targets)}, or some of them, got {list(values)}. Targets of "
                "your own are made known with --new_targets."
            )
        numbers = list(values.values())
        if any(type(n) is not int or n < 1 for n in numbers) or len(set(numbers)) != len(numbers):
            raise ValueError(f"labels of {modality} should be different whole numbers from 1 on, got {values}.")

    def labelled(self, modality: str, own: Mapping[str, int] | None = None) -> tuple[str, ...] | None:
        """The targets that a label speaks of, in the modality's order; None where it speaks of all.

        Args:
            modality: the image's modality.
            own: see the call.
        """
        named = own or self.file_values.get(modality)
        targets = self.modalities[modality]
        return None if named is None or set(named) == set(targets) else tuple(t for t in targets if t in named)

    def __call__(self, label: torch.Tensor, modality: str, own: Mapping[str, int] | None = None) -> torch.Tensor:
        """
        Args:
            label: ``(1, *spatial)`` of the label file's values, or ``(3, *spatial)`` of three equal channels.
            modality: the image's modality.
            own: ``{target: value}`` for this label alone, instead of ``label_values``.

        Returns:
            uint8 ``(1, *spatial)`` of the network's values, 0 for background, with the same metadata.

        Raises:
            InputRefused: ``UNKNOWN_LABELS`` when nothing says what the values mean, or when there are others.
            ValueError: when ``own`` is no table of the modality's targets.
        """
        file = getattr(label, "meta", {}).get("filename_or_obj", "a label")
        values = self._single_channel(label, file).numpy(force=True)
        targets = self.modalities[modality]
        if own:
            self._check(modality, own)
        if named := own or self.file_values.get(modality):
            encoded = self._translate(values, modality, named, file)
        elif len(targets) == 1:
            encoded = (values != 0).astype(np.uint8) * np.uint8(self.network_values[modality][targets[0]])
        else:
            example = {target: i for i, target in enumerate(targets, start=1)}
            raise InputRefused(
                "UNKNOWN_LABELS",
                f"{modality} has several targets, and nothing says which value in {file} is which. Write into the "
                f'datalist, for instance: "labels": {{"{modality}": {str(example).replace(chr(39), chr(34))}}}, and '
                "leave out targets that the files do not speak of.",
            )
        result = torch.from_numpy(encoded)
        return MetaTensor(result, meta=label.meta) if isinstance(label, MetaTensor) else result

    @staticmethod
    def _single_channel(label: torch.Tensor, file: Any) -> torch.Tensor:
        if label.shape[0] == 1 or (label.shape[0] == 3 and bool((label == label[:1]).all())):
            return label[:1]
        raise InputRefused("UNKNOWN_LABELS", f"{file} is a colour picture; a label should have one channel of values.")

    def _translate(self, values: np.ndarray, modality: str, named: Mapping[str, int], file: Any) -> np.ndarray:
        encoded = np.zeros(values.shape, dtype=np.uint8)
        known = values == 0
        for target, number in named.items():
            here = values == number
            encoded[here] = self.network_values[modality][target]
            known |= here
        if not known.all():
            others = np.unique(values[~known])
            shown = ", ".join(f"{v:g}" for v in others[:10]) + (", ..." if len(others) > 10 else "")
            raise InputRefused(
                "UNKNOWN_LABELS",
                f"{file} holds the values {shown}, and the labels of {modality} are 0 and {dict(named)}. Correct the "
                "file or the datalist's labels.",
            )
        return encoded


class EncodeLabelsd(MapTransform):
    """Dictionary form of :class:`EncodeLabels`; the modality is the image's, and the shapes must agree.

    An entry's own ``labels``, ``{target: value}``, go before those of its datalist. The targets that the label speaks
    of are noted under ``labelled``, with commas between them; empty where it speaks of all.

    Args:
        keys: keys of the labels.
        image_key: key of the image, a ``MetaTensor`` that was routed.
        modalities: see :class:`EncodeLabels`.
        label_values: see :class:`EncodeLabels`.
        allow_missing_keys: do not fail when a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str,
        modalities: Mapping[str, Sequence[str]],
        label_values: Mapping[str, Mapping[str, int]] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.encoder = EncodeLabels(modalities, label_values)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        image = d[self.image_key]
        for key in self.key_iterator(d):
            if d[key].shape[1:] != image.shape[1:]:
                raise InputRefused(
                    "LABEL_SHAPE",
                    f"{d[key].meta.get('filename_or_obj', 'a label')} has shape {tuple(d[key].shape[1:])}, its image "
                    f"{image.meta.get('filename_or_obj', '')} has {tuple(image.shape[1:])}. They must be the same.",
                )
            d[key] = self.encoder(d[key], image.meta["modality"], d.get("labels"))
            d["labelled"] = ",".join(self.encoder.labelled(image.meta["modality"], d.get("labels")) or ())
        return d


EncodeLabelsD = EncodeLabelsDict = EncodeLabelsd
