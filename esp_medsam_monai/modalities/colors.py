"""Colours for targets that the table does not know, told apart with every kind of colour vision."""

from __future__ import annotations

import zlib

__all__ = ["palette_color"]

# The first six are Okabe and Ito's ("Color Universal Design", 2008). Each further one lies farthest from all before it
# in CIELAB, for normal sight and for the three colour blindnesses (simulated as Machado et al. 2009 do).
_PALETTE = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167)),
    *((135, 60, 255), (195, 240, 195), (105, 255, 135), (135, 135, 255), (225, 0, 75), (135, 90, 165)),
    *((180, 165, 75), (255, 180, 210), (135, 195, 135), (210, 0, 210)),
)


def palette_color(name: str) -> tuple[int, int, int]:
    """Red, green, blue in 0..255, chosen by the name alone; of sixteen colours, so two names may get the same one."""
    return _PALETTE[zlib.crc32(name.encode()) % len(_PALETTE)]
