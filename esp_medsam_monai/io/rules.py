"""What reading lets pass: one object that a configuration names once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from monai.utils import str2bool

__all__ = ["ReadingRules"]


@dataclass(frozen=True)
class ReadingRules:
    """Which doubtful inputs are read all the same. Whatever a switch lets pass is warned of in the image's metadata.

    Every switch belongs to a refusal of the same name, after the model of dicom2nifti and highdicom.

    Args:
        allow_missing_slices: fill missing DICOM slices with the lowest value (``MISSING_SLICES``).
        allow_uneven_spacing: take the mean of uneven steps between DICOM slices (``UNEVEN_SPACING``).
        allow_duplicate_positions: of DICOM slices in one place keep the first by InstanceNumber, then by path
            (``DUPLICATE_POSITIONS``).
        allow_localizer: read localizers, also called scouts (``LOCALIZER``).
        allow_identity: read CT, MR and PT images that do not state their place in the patient, as if they were
            pictures (``BAD_AFFINE``).
        non_finite_limit: largest share of NaN and infinite values, 0..1, that is replaced by the lowest finite value;
            more is refused (``NON_FINITE``).

    Raises:
        ValueError: when a switch is not true or false, or the limit does not lie in 0..1.
    """

    allow_missing_slices: bool = False
    allow_uneven_spacing: bool = False
    allow_duplicate_positions: bool = False
    allow_localizer: bool = False
    allow_identity: bool = False
    non_finite_limit: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("allow_"):
                # MONAI's command line hands over texts.
                object.__setattr__(self, field.name, _switch(field.name, value))
        limit = self.non_finite_limit
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 <= limit <= 1:
            raise ValueError(f"non_finite_limit should be a share from 0 to 1, got {limit!r}.")


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, str)):
        raise ValueError(f"{name} should be true or false, got {value!r}.")
    try:
        return bool(str2bool(value))
    except ValueError as error:
        raise ValueError(f"{name} should be true or false, got {value!r}.") from error
