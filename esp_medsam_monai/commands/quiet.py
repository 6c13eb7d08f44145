"""MONAI and ignite tell developers what they do; a person who segments a folder wants to hear of the cases."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_monai"]


@contextmanager
def quiet_monai() -> Iterator[None]:
    """Leave out MONAI's talk about config files, ignite's about epochs and highdicom's about attributes.

    Errors and all other warnings stay.

    MONAI warns at every start that a config is code. That is true, and SECURITY.md and ``--bundle`` say it; a warning
    that comes every time is read by nobody.
    """
    import monai.bundle  # its loggers exist, with a handler each, from here on

    levels = {name: logging.ERROR for name in logging.root.manager.loggerDict if name.startswith(monai.bundle.__name__)}
    levels |= dict.fromkeys(("ignite", "highdicom"), logging.WARNING)
    # Engines log what they then raise.
    levels["ignite.engine.engine"] = logging.CRITICAL
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="parsing config_file", category=UserWarning)
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
