"""The one exception that says: this input is refused, and why."""

from __future__ import annotations

__all__ = ["InputRefused", "find_refusal"]


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
