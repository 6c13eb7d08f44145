"""The one exception that says: this input is refused, and why. And what is said of an input that is not refused."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

__all__ = ["InputRefused", "add_warning", "find_refusal", "warnings_of"]

_WARNINGS = "warnings"


class InputRefused(ValueError):
    """An input that cannot be processed, with a code that stays the same between releases.

    Args:
        code: capitals and underscores, for instance ``NO_MODALITY``.
        message: a sentence that names the file, what is wrong and what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def find_refusal(error: BaseException | None) -> InputRefused | None:
    """The refusal behind an exception that MONAI's ``Compose`` wrapped, or None if there is none."""
    while error is not None:
        if isinstance(error, InputRefused):
            return error
        error = error.__cause__ or error.__context__
    return None


def add_warning(meta: MutableMapping[Any, Any], sentence: str) -> None:
    """Note something that the reader of a result should know, in an image's metadata.

    The metadata hold one text, a line a sentence, because lists do not survive collation.

    Args:
        meta: metadata of the image.
        sentence: one sentence without line breaks, beginning with a code where there is one.
    """
    sentences = warnings_of(meta)
    if sentence not in sentences:
        meta[_WARNINGS] = "\n".join([*sentences, " ".join(sentence.split())])


def warnings_of(meta: Mapping[Any, Any]) -> list[str]:
    """The sentences of :func:`add_warning` in an image's metadata."""
    return str(meta.get(_WARNINGS) or "").splitlines()
