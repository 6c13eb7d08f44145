"""How far the masks of one way of computing a network agree with those of another, on real images."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from esp_medsam_monai.engines.dice_table import DiceRow, dice_rows
from esp_medsam_monai.inferers import SliceBatchInferer

__all__ = ["Agreement", "MaskAgreement", "summarize_agreement"]

Network = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Agreement:
    """Dice between two masks of the same images.

    Args:
        mean_dice: mean over masks that are not empty in both; None where all are.
        worst_dice: the lowest of them.
        worst_case: name of its case.
        masks: number of masks in the mean: one a case and target.
        both_empty: masks that are empty in both: full agreement that is no Dice.
    """

    mean_dice: float | None
    worst_dice: float | None
    worst_case: str | None
    masks: int
    both_empty: int

    def as_json(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)


class MaskAgreement:
    """Segment images with a reference and with others, and compare the label images in the images' own grid.

    Args:
        inferer: the way from an image to labels; the same for all.
        reference: the network whose masks count as right.
    """

    def __init__(self, inferer: SliceBatchInferer, reference: Network) -> None:
        self.inferer = inferer
        self.reference = reference

    def __call__(
        self, image: torch.Tensor, modality: str, others: Mapping[str, Network], case: str = "", domain: str = ""
    ) -> dict[str, list[DiceRow]]:
        """Compare on one image.

        Args:
            image: ``(C, *spatial)`` in 0..255, as after preprocessing.
            modality: its modality.
            others: networks or runtimes by name.
            case: name of the image.
            domain: name of its set.

        Returns:
            for each of the others a row a target; ``reference`` in it is the reference's mask.
        """
        batch = image.unsqueeze(0)
        values = self.inferer.targets(self.reference, modality)
        right = self._labels(batch, self.reference, modality)
        return {
            name: dice_rows(
                self._labels(batch, other, modality), right, values, case=case, modality=modality, domain=domain
            )
            for name, other in others.items()
        }

    def _labels(self, batch: torch.Tensor, network: Network, modality: str) -> torch.Tensor:
        return self.inferer(batch, network, modality).as_tensor()[0]


def summarize_agreement(rows: Iterable[DiceRow]) -> Agreement:
    """Mean and worst of the rows of one modality."""
    rows = list(rows)
    counted = [(row.dice, row.case) for row in rows if row.dice is not None]
    both_empty = len(rows) - len(counted)
    if not counted:
        return Agreement(None, None, None, 0, both_empty)
    worst_dice, worst_case = min(counted)
    return Agreement(statistics.fmean(dice for dice, _ in counted), worst_dice, worst_case, len(counted), both_empty)
