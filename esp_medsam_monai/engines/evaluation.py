"""Every case of a datalist, whole and in its own grid, segmented for comparison; one that fails stops no other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from monai.utils import CommonKeys

from esp_medsam_monai.engines.pair_check import PairCheck
from esp_medsam_monai.engines.reasons import reason_of

__all__ = ["EvaluationDataset", "EvaluationStep", "prepare_case"]

_LOGGER = logging.getLogger(__name__)


def prepare_case(batch: Mapping[str, Any], *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, tuple, dict]:
    """``prepare_batch`` of an evaluator over whole cases: they stay on the CPU, the inferer sends slices to the device.

    Returns:
        image ``(1, C, *spatial)``, label ``(1, 1, *spatial)``, no further arguments (the image carries its modality).
    """
    return batch[CommonKeys.IMAGE], batch[CommonKeys.LABEL], (), {}


class EvaluationDataset(Dataset):
    """Entries of a datalist; one that cannot be used gives ``{"failure", "input", "modality", "domain"}``, all text.

    Args:
        data: entries with ``image`` and ``label``, optionally ``modality`` and ``domain``; one without a label cannot
            be evaluated and is a failure as well.
        transform: see :func:`~esp_medsam_monai.transforms.evaluation_transforms`.
        pair_check: what else is asked of an entry, for instance that image and label lie in the same place.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Any], Any] | None = None,
        pair_check: PairCheck | None = None,
    ) -> None:
        super().__init__(data, transform)
        self.pair_check = pair_check

    def _transform(self, index: int) -> dict[str, Any]:
        entry = self.data[index]
        modality = str(entry.get("modality") or "")
        try:
            if self.pair_check is not None:
                facts = self.pair_check(entry)
                modality = facts.modality or modality
                if facts.errors:
                    return _failure(entry, modality, "; ".join(f"{e.code}: {e.message}" for e in facts.errors))
            return super()._transform(index)
        except Exception as error:  # whatever a foreign file provokes
            return _failure(entry, modality, reason_of(error))


def _failure(entry: Mapping[str, Any], modality: str, reason: str) -> dict[str, Any]:
    return {
        "failure": reason,
        "input": str(entry[CommonKeys.IMAGE]),
        "modality": modality,
        "domain": str(entry.get("domain", "")),
    }


class EvaluationStep:
    """``iteration_update`` of a ``SupervisedEvaluator``: as MONAI's own, but an exception becomes ``failure``."""

    def __call__(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> dict[str, Any]:
        """Segment one case.

        Returns:
            MONAI's output, or ``{"failure": reason}``.
        """
        if "failure" in batchdata:
            return {"failure": batchdata["failure"][0]}
        try:
            return engine._iteration(engine, batchdata)
        except Exception as error:  # one case never costs the others
            _LOGGER.exception("a case failed")
            return {"failure": reason_of(error)}
