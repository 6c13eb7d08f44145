"""Names and colours of label values inside a NIfTI file."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import nibabel as nib

__all__ = ["Label", "label_table_extensions", "read_label_table"]

Label = tuple[str, tuple[int, int, int]]
"""Name, and red, green, blue in 0..255."""

BACKGROUND: Label = ("background", (0, 0, 0))

UNKNOWN, CARET = 0, 30
"""NIfTI extension codes: of no kind, which TotalSegmentator uses, and of Caret and Connectome Workbench."""

ALIGNMENT = 16  # bytes that an extension, its 8 bytes of size and code included, is a multiple of


def label_table_extensions(labels: Mapping[int, Label]) -> list[nib.nifti1.Nifti1Extension]:
    """Header extensions with a table of labels: the same XML twice.

    TotalSegmentator's reader takes the first extension, and nibabel since 5.3 hands out no content of code 30;
    Connectome Workbench looks for code 30 alone.

    Args:
        labels: ``{value: (name, (red, green, blue))}``; 0 becomes a transparent ``background`` unless it is named.
    """
    root = ET.Element("CaretExtension")
    information = ET.SubElement(root, "VolumeInformation", Index="0")
    table = ET.SubElement(information, "LabelTable")
    for value, (name, color) in sorted({0: BACKGROUND, **labels}.items()):
        shares = {part: f"{share / 255:.6g}" for part, share in zip(("Red", "Green", "Blue"), color, strict=True)}
        ET.SubElement(table, "Label", {"Key": str(value), **shares, "Alpha": str(int(value != 0))}).text = name
    ET.SubElement(information, "StudyMetaDataLinkSet")
    ET.SubElement(information, "VolumeType").text = "Label"
    content = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    # Spaces up to the boundary: the zero bytes that would fill the rest are no XML.
    content += b" " * (-(len(content) + 8) % ALIGNMENT)
    return [nib.nifti1.Nifti1Extension(code, content) for code in (UNKNOWN, CARET)]


def read_label_table(path: str | os.PathLike[str]) -> dict[int, Label]:
    """Names and colours of the label values in a NIfTI file, background included.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file of :func:`~esp_medsam_monai.io.write_mask`, or of another program that
            writes such a table.

    Returns:
        ``{value: (name, (red, green, blue))}``, empty when the file holds no table.
    """
    image: Any = nib.load(path)
    for extension in image.header.extensions:
        if extension.get_code() not in (UNKNOWN, CARET):
            continue
        # Since nibabel 5.3 the bytes have an attribute of their own.
        content = extension.content if hasattr(extension, "content") else extension.get_content()
        with suppress(ET.ParseError):
            labels = list(ET.fromstring(content).iter("Label"))
            return {int(label.attrib["Key"]): (label.text or "", _color(label)) for label in labels}
    return {}


def _color(label: ET.Element) -> tuple[int, int, int]:
    red, green, blue = (round(255 * float(label.attrib[part])) for part in ("Red", "Green", "Blue"))
    return red, green, blue
