"""One line that says why something failed."""

from __future__ import annotations

import errno

from esp_medsam_monai.errors import find_refusal

__all__ = ["reason_of"]

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def reason_of(error: BaseException) -> str:
    """One line that begins with a code.

    The refusal's own code; ``CANNOT_WRITE`` when the disk is full or the folder closed (what cannot be read is refused
    by name before); ``INTERNAL_ERROR`` for what nobody foresaw.
    """
    refusal = find_refusal(error)
    if refusal is not None:
        return " ".join(str(refusal).split())
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    if isinstance(root, OSError) and root.errno in _NO_ROOM:
        return " ".join(f"CANNOT_WRITE: {root}; make room, or give another --output_dir.".split())
    return " ".join(f"INTERNAL_ERROR: {type(root).__name__}: {root}".split())
