"""A training that a server started ends with the server: it must not publish into one that runs another training."""

from __future__ import annotations

import logging
import os
import threading

import psutil

from esp_medsam_monai.errors import InputRefused

__all__ = ["SERVER_VARIABLE", "ServerWatch", "announce_server"]

SERVER_VARIABLE = "ESP_MEDSAM_LABEL_SERVER"
"""Environment variable with the number of the server's process, which its trainings inherit."""

_EVERY = 1.0  # seconds
_GONE = "the server that started this training has ended, so it ends too; the weights stay as they are."
_LOGGER = logging.getLogger(__name__)


def announce_server() -> None:
    """Tell the trainings to come that this process is their server. To be called once, before they are started."""
    os.environ[SERVER_VARIABLE] = str(os.getpid())


class ServerWatch:
    """Ends this process when that of its server has gone; as a context manager, for as long as the block lasts.

    The server is the process that :func:`announce_server` named, otherwise the parent. Where that is this very process
    nothing is watched. A process that is not the one of before, though it has its number, counts as gone.

    Raises:
        InputRefused: ``SERVER_GONE``, on entry, when it has gone already.
    """

    def __init__(self) -> None:
        number = os.environ.get(SERVER_VARIABLE, "")
        self._number = int(number) if number.isdecimal() else os.getppid()
        self._server: psutil.Process | None = None
        self._ended = threading.Event()

    @property
    def lives(self) -> bool:
        """Whether the server is still there."""
        if self._number == os.getpid():
            return True
        try:
            server = self._server
            return server is not None and server.is_running() and server.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def __enter__(self) -> ServerWatch:
        if self._number != os.getpid():
            try:
                server = psutil.Process(self._number)
                # The number of a dead server may have been given to somebody younger than this process.
                if server.create_time() <= psutil.Process().create_time():
                    self._server = server
            except psutil.NoSuchProcess:
                self._server = None
            if not self.lives:
                raise InputRefused("SERVER_GONE", _GONE)
            threading.Thread(target=self._watch, name="server watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY):
            if not self.lives:
                _LOGGER.error(_GONE)
                # The main thread may be anywhere; whatever it writes is written so that a kill does no harm.
                os._exit(1)
