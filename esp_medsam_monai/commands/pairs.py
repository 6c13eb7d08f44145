"""``NAME=VALUE`` on a command line."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["numbers", "pairs"]


def pairs(texts: Sequence[str], what: str) -> dict[str, str]:
    """``["xray=a.pth"]`` -> ``{"xray": "a.pth"}``.

    Args:
        texts: words of the command line.
        what: the pattern to name in errors, for instance ``MODALITY=FILE``.

    Raises:
        ValueError: when a word has another form, or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name or not value:
            raise ValueError(f"{text!r} is not {what}.")
        if name in found:
            raise ValueError(f"{name!r} is given twice: {found[name]} and {value}.")
        found[name] = value
    return found


def numbers(texts: Sequence[str], what: str) -> dict[str, int]:
    """``["lung=1"]`` -> ``{"lung": 1}``.

    Args:
        texts: words of the command line.
        what: the pattern to name in errors.

    Raises:
        ValueError: as :func:`pairs`, or when a value is no whole number.
    """
    found = pairs(texts, what)
    for name, value in found.items():
        if not value.isdecimal():
            raise ValueError(f"{name}={value!r} is not {what}: {value!r} is no whole number.")
    return {name: int(value) for name, value in found.items()}
