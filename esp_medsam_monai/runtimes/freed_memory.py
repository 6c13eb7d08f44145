"""Memory that is free, and that the process keeps all the same."""

from __future__ import annotations

import ctypes
import gc

__all__ = ["trim_memory"]


def trim_memory() -> bool:
    """Give the system back what is no longer used, for instance after a model was converted.

    glibc keeps freed blocks below 32 MB for later, scattered between others: hundreds of MB after a network was traced
    at a large side, which nothing asks for again. Elsewhere only Python's garbage is collected.

    Returns:
        whether the C library could be asked to.
    """
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library; Windows takes no None
        return False
    trim(ctypes.c_size_t(0))
    return True
