"""The network of one's own that an archive runs in: closed, but for what is forwarded, and gone with its owner."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from examples.pacs.namespace import LOCALHOST, Namespace, free_port

LIMIT = 60  # seconds; generous, because the computer may be shared
OWNER = """
import sys, time
from examples.pacs.namespace import Namespace
namespace = Namespace()
namespace.forward(int(sys.argv[1]))
print(namespace.prefix[1].removeprefix("--target="), flush=True)
time.sleep(600)
"""


def _answers(address: str, port: int) -> bool:
    try:
        connection = http.client.HTTPConnection(address, port, timeout=LIMIT)
        connection.request("GET", "/")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False


def _wait_for(condition) -> bool:
    """Whether it comes true within the limit."""
    end = time.monotonic() + LIMIT
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return met


@pytest.fixture
def web(namespace: Namespace, tmp_path: Path):
    """Port of a program inside that listens on every address, as Orthanc does."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--directory", str(tmp_path)]
    server = namespace.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    probe = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
    assert _wait_for(lambda: namespace.run([sys.executable, "-c", probe], stderr=subprocess.DEVNULL).returncode == 0)
    yield port
    server.kill()
    server.wait()


def test_a_program_inside_is_reached_by_its_forward_alone(namespace, web):
    assert not _answers(LOCALHOST, web)
    assert namespace.forward(web) == web
    assert _answers(LOCALHOST, web)
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), web, family=socket.AF_INET)}
    assert not [address for address in others - {LOCALHOST} if _answers(address, web)]


def test_several_connections_at_once_are_kept_apart(namespace, web, tmp_path):
    """Each asks for a file of its own, all are sent before any is read."""
    port = namespace.forward(web, free_port())
    connections = []
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text(f"{number}\n" * 50_000, encoding="ascii")
        connections.append(http.client.HTTPConnection(LOCALHOST, port, timeout=LIMIT))
        connections[-1].request("GET", f"/{number}.txt")
    for number, connection in enumerate(connections):
        assert connection.getresponse().read() == f"{number}\n".encode() * 50_000


def test_nothing_outlives_its_owner(namespace, repository):
    """Killed the hard way, the owner cannot clean up."""
    port = free_port()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(port)], cwd=repository, stdout=subprocess.PIPE, text=True
    )
    network = Path("/proc", owner.stdout.readline().strip(), "ns", "net")
    assert network.exists()
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert _wait_for(lambda: not network.exists())

    def is_free() -> bool:
        try:
            socket.create_server((LOCALHOST, port)).close()
        except OSError:
            return False
        return True

    assert _wait_for(is_free)


def test_a_missing_program_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="needs unshare, nsenter, ip: sudo apt-get install util-linux iproute2"):
        Namespace()
