"""Every image carries its modality: who said it, and what they said."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.modalities import MODALITIES, check_modalities, is_said, modality_from_code

__all__ = ["RouteModality", "RouteModalityD", "RouteModalityDict", "RouteModalityd"]


class RouteModality:
    """Write the modality of an image into its metadata; never guess it.

    The first source that speaks wins: the user's word, the datalist entry, what the reader found in DICOM or in a
    sidecar, and at last a default (for training lists and servers whose entries hold only images and labels). Our
    names and DICOM codes are understood, case ignored.

    Args:
        modality: the user's word for all images; None, empty text or ``auto`` when she said nothing.
        modalities: the network's ``{modality: [targets]}``; None accepts every known modality.
        default_modality: what to assume when nothing else says it; None refuses such an image.
    """

    def __init__(
        self,
        modality: str | None = None,
        modalities: Mapping[str, Sequence[str]] | None = None,
        default_modality: str | None = None,
    ) -> None:
        self.modality = modality
        self.modalities = None if modalities is None else check_modalities(modalities)
        self.default_modality = default_modality

    def __call__(self, img: Any, listed: Any = None) -> Any:
        """
        Args:
            img: ``MetaTensor``; its ``meta`` receives ``modality`` and ``modality_source``.
            listed: the word of the datalist entry, or of a request.

        Returns:
            The same image.

        Raises:
            InputRefused: ``NO_MODALITY`` when nothing says it, ``UNKNOWN_MODALITY`` when the word is no modality,
                ``NO_WEIGHTS`` when the network was not built for it.
        """
        meta = img.meta
        candidates = (
            ("user", self.modality),
            ("datalist", listed),
            (meta.get("modality_source") or "sidecar", meta.get("modality")),
            ("default", self.default_modality),
        )
        file = meta.get("filename_or_obj", "an image")
        for source, word in candidates:
            if is_said(word):
                meta["modality"], meta["modality_source"] = self._name(word, file, source), source
                return img
        raise InputRefused(
            "NO_MODALITY",
            f"nothing says which modality {file} is. Give --modality NAME (MONAI Label: the option modality), or put a"
            f' file beside it that is named like it and ends in .json, with {{"modality": "NAME"}} in it. Known names:'
            f" {self._list(self._known())}.",
        )

    def _known(self) -> list[str]:
        return list(dict.fromkeys((*MODALITIES, *(self.modalities or ()))))

    @staticmethod
    def _list(names: Sequence[str]) -> str:
        return ", ".join(names)

    def _name(self, word: Any, file: Any, source: str) -> str:
        name: str | None = None
        if isinstance(word, str):
            text = word.strip().lower()
            name = text if text in self._known() else modality_from_code(text)
        if name is None:
            raise InputRefused(
                "UNKNOWN_MODALITY",
                f"the modality {word!r} of {file} (said by: {source}) is none that is known. "
                f"Known names: {self._list(self._known())}.",
            )
        if self.modalities is not None and name not in self.modalities:
            raise InputRefused(
                "NO_WEIGHTS",
                f"{file} is {name} (said by: {source}), and these weights were not trained on {name}. "
                f"They have: {self._list(list(self.modalities))}.",
            )
        return name


class RouteModalityd(MapTransform):
    """Dictionary form of :class:`RouteModality`; the entry's own ``modality`` key is the datalist's word.

    The dictionary's ``modality`` holds the result afterwards, so that collation gives a list of names.

    Args:
        keys: keys of the images, ``MetaTensor`` with the reader's metadata.
        modality: see :class:`RouteModality`.
        modalities: see :class:`RouteModality`.
        default_modality: see :class:`RouteModality`.
        allow_missing_keys: do not fail when a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        modality: str | None = None,
        modalities: Mapping[str, Sequence[str]] | None = None,
        default_modality: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.route = RouteModality(modality, modalities, default_modality)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.route(d[key], data.get("modality"))
            d["modality"] = d[key].meta["modality"]
        return d


RouteModalityD = RouteModalityDict = RouteModalityd
