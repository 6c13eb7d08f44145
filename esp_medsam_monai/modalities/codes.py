"""What targets are in the words of DICOM: SNOMED CT codes, and private ones for what has none."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

__all__ = ["Code", "TargetCodes", "private_codes"]

_PRIVATE_SCHEME = "99ESPMEDSAM"
_LONGEST_CODE, _LONGEST_MEANING = 16, 64  # DICOM's limits of Code Value and Code Meaning


@dataclass(frozen=True)
class Code:
    """A coded word, as DICOM writes it: Code Value, Coding Scheme Designator, Code Meaning.

    Args:
        value: the code, for instance ``"39607008"``.
        scheme: who defines it: ``"SCT"`` is SNOMED CT; names that begin with ``99`` are private.
        meaning: what it stands for, in English.
    """

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class TargetCodes:
    """What a target is in the words of DICOM SEG (PS3.3 C.8.20.4, PS3.16 CID 7150 and 7151).

    Args:
        category: Segmented Property Category.
        kind: Segmented Property Type.
        anatomy: Anatomic Region, where the type alone does not say it.
        modifier: Segmented Property Type Modifier: which part or side of the type.
    """

    category: Code
    kind: Code
    anatomy: Code | None = None
    modifier: Code | None = None


_TISSUE = Code("85756007", "SCT", "Tissue")


def private_codes(modality: str, target: str) -> TargetCodes:
    """Codes of a target that the table does not know: a "Tissue" of a private type.

    The code is the target's name (of a long name the beginning and a checksum), the scheme ``99ESPMEDSAM``, the
    meaning modality and name.

    Args:
        modality: our name of the modality.
        target: target name without the modality.
    """
    value = target
    if len(value) > _LONGEST_CODE:
        checksum = f"_{zlib.crc32(target.encode()):08x}"
        value = target[: _LONGEST_CODE - len(checksum)] + checksum
    meaning = f"{modality} {target}".replace("_", " ")[:_LONGEST_MEANING]
    return TargetCodes(_TISSUE, Code(value, _PRIVATE_SCHEME, meaning))
