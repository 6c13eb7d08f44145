"""One line that says why something failed."""

from __future__ import annotations

import errno

from esp_medsam_monai.errors import find_refusal

__all__ = ["one_line", "reason_of"]

_CANNOT_WRITE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EIO, errno.ESTALE),
}


def one_line(text: str) -> str:
    """A text as one line that a terminal shows as it is.

    Names of files may hold line breaks, control characters, and bytes that are no UTF-8.
    """
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def reason_of(error: BaseException) -> str:
    """One line that begins with a code.

    The refusal's own code; ``CANNOT_WRITE`` when the disk is full, or no file or folder can be made there (what cannot
    be read is refused by name before); ``INTERNAL_ERROR`` for what nobody foresaw.
    """
    refusal = find_refusal(error)
    if refusal is not None:
        return one_line(str(refusal))
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    if isinstance(root, OSError) and root.errno in _CANNOT_WRITE:
        return one_line(f"CANNOT_WRITE: {root}; make room, or give another --output_dir.")
    return one_line(f"INTERNAL_ERROR: {type(root).__name__}: {root}")
