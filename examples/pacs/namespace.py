"""A network of one's own: programs in it see each other on 127.0.0.1, and nobody else sees them.

Orthanc listens on every address of its computer and has no setting for it. In a network namespace of Linux the only
address is 127.0.0.1.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["LOCALHOST", "Namespace", "free_port"]

LOCALHOST = "127.0.0.1"
_FORWARD = Path(__file__).with_name("forward.py")


def free_port() -> int:
    """A port of this computer that nobody listens on."""
    with socket.create_server((LOCALHOST, 0)) as probe:
        return int(probe.getsockname()[1])


class Namespace:
    """A network namespace that lives until :meth:`close`; its programs should be ended before it.

    Attributes:
        prefix: words that run a command inside: ``[*namespace.prefix, "curl", "http://127.0.0.1:8042"]``.

    Raises:
        RuntimeError: where this is no Linux, a program is missing, or this user may not make namespaces.
    """

    def __init__(self) -> None:
        missing = [program for program in ("unshare", "nsenter", "ip") if shutil.which(program) is None]
        if missing:
            raise RuntimeError(f"needs {', '.join(missing)}: sudo apt-get install util-linux iproute2")
        # Who is not root becomes the root of a user namespace, which rules over this network and nothing else.
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        self._forwards: list[subprocess.Popen[bytes]] = []
        self._holder = subprocess.Popen(
            ["unshare", *user, "--net", "sh", "-c", "ip link set lo up && echo up && exec cat"],
            stdin=subprocess.PIPE,  # `cat` ends with this program, however it ends, and the namespace with `cat`
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl+C is for the program that owns the namespace
        )
        assert self._holder.stdout and self._holder.stderr
        if self._holder.stdout.readline() != b"up\n":
            reason = self._holder.stderr.read().decode(errors="replace").strip()
            self.close()
            raise RuntimeError(f"this computer does not let us make a network namespace ({reason}); try it as root")
        entrance = ["--user", "--preserve-credentials"] if user else []
        self.prefix = ["nsenter", f"--target={self._holder.pid}", *entrance, "--net", "--"]

    def popen(self, command: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[Any]:
        """Start a program inside; ``options`` are those of :class:`subprocess.Popen`."""
        return subprocess.Popen([*self.prefix, *command], **options)

    def run(self, command: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run a program inside and wait; ``options`` are those of :func:`subprocess.run`."""
        return subprocess.run([*self.prefix, *command], **options)

    def forward(self, port: int, outside: int | None = None) -> int:
        """Let this computer's 127.0.0.1 reach a port inside; no other address is opened.

        Args:
            port: where a program inside listens, or will.
            outside: port on this computer; None: the same number, so that one URL is good on both sides.

        Returns:
            The port on this computer.

        Raises:
            OSError: when it is taken.
        """
        wanted = port if outside is None else outside
        try:
            listener = socket.create_server((LOCALHOST, wanted))
        except OSError as error:
            raise OSError(f"port {wanted} of this computer cannot be had ({error}); choose another") from error
        with listener:
            # A socket belongs to the network in which it was made, whoever serves it.
            handle = listener.fileno()
            forward = [sys.executable, str(_FORWARD), str(handle), str(port)]
            self._forwards.append(self.popen(forward, stdin=subprocess.PIPE, pass_fds=[handle], start_new_session=True))
            return int(listener.getsockname()[1])

    def close(self) -> None:
        """End the forwards and the namespace."""
        for forward in self._forwards:
            forward.communicate()
        self._forwards.clear()
        self._holder.communicate()

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
