"""Percentiles of a volume without a copy of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

__all__ = ["percentiles"]

_SIGN = np.uint32(1 << 31)
_HALF = 16
_BINS = 1 << _HALF


def percentiles(parts: Callable[[], Iterable[np.ndarray]], ranks: Sequence[float]) -> list[float]:
    """Percentiles as ``numpy.percentile`` has them, exactly, by counting.

    Values are float32; as bits, turned so that they sort like numbers, they are counted twice: by their upper half, and
    by their lower half where a wanted value lies. ``numpy.percentile`` needs a copy of everything, and sorts.

    Args:
        parts: gives the values in parts, any shape, the same at each of its two calls; finite, converted to float32.
        ranks: percentiles, 0..100.

    Returns:
        one value each, linear between neighbours.
    """
    upper = np.zeros(_BINS, dtype=np.int64)
    for part in parts():
        upper += np.bincount(_keys(part) >> _HALF, minlength=_BINS)
    ends = np.cumsum(upper)
    places = [rank / 100 * (int(ends[-1]) - 1) for rank in ranks]
    wanted = sorted({index for place in places for index in (int(place), min(int(place) + 1, int(ends[-1]) - 1))})
    # The bin of the upper half that each wanted value lies in.
    bins = {index: int(np.searchsorted(ends, index, side="right")) for index in wanted}
    lower = {found: np.zeros(_BINS, dtype=np.int64) for found in bins.values()}
    for part in parts():
        keys = _keys(part)
        high = keys >> _HALF
        for found, counts in lower.items():
            counts += np.bincount(keys[high == found] & (_BINS - 1), minlength=_BINS)
    values = {}
    for index, found in bins.items():
        before = int(ends[found] - upper[found])
        low = int(np.searchsorted(np.cumsum(lower[found]), index - before, side="right"))
        values[index] = _value(found << _HALF | low)
    return [
        values[int(place)] + (place - int(place)) * (values[min(int(place) + 1, wanted[-1])] - values[int(place)])
        for place in places
    ]


def _keys(part: np.ndarray) -> np.ndarray:
    """Whole numbers, ``(N,)``, that sort as the values do."""
    bits = np.ravel(part, order="K").astype(np.float32).view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _value(key: int) -> float:
    """The value of a key."""
    bits = np.array(key, dtype=np.uint32)
    bits = bits ^ _SIGN if key & int(_SIGN) else ~bits
    return float(bits.view(np.float32))
