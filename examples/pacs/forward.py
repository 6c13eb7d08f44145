"""Hands connections on: ``python forward.py HANDLE PORT``; HANDLE is an inherited socket that listens elsewhere.

It ends when its standard input does, so that it never outlives the program that started it.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading

__all__: list[str] = []

_CHUNK = 2**16


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Copy until the source ends, then say so to the target."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(_CHUNK):
            target.sendall(chunk)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _connect(outer: socket.socket, port: int) -> None:
    """Serve one connection."""
    with outer, contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port)) as inner:
        back = threading.Thread(target=_pump, args=(inner, outer), daemon=True)
        back.start()
        _pump(outer, inner)
        back.join()


def _serve(listener: socket.socket, port: int) -> None:
    while True:
        outer, _ = listener.accept()
        threading.Thread(target=_connect, args=(outer, port), daemon=True).start()


if __name__ == "__main__":
    handle, port = int(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=_serve, args=(socket.socket(fileno=handle), port), daemon=True).start()
    sys.stdin.read()
