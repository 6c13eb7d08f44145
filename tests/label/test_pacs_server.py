"""The server of the demonstration with a PACS ends with all that it started."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("monailabel", reason="needs an environment with MONAI Label: make test-label")

from examples.pacs.__main__ import LabelServer


class _NoisyServer:
    """In the place of a namespace: starts, instead of a server, what a server with a scoring process looks like."""

    SCRIPT = """
import itertools, pathlib, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])
if len(sys.argv) == 2:
    subprocess.Popen([sys.executable, __file__, str(folder), "child"])
for number in itertools.count():
    if len(sys.argv) > 2:
        folder.joinpath(f"{number}.txt").touch()
    time.sleep(0.01)
"""

    def __init__(self, folder: Path) -> None:
        self.script, self.written = folder / "server.py", folder / "written"
        self.script.write_text(self.SCRIPT, encoding="utf-8")
        self.written.mkdir()

    def forward(self, port: int) -> None:
        """Nothing is inside that could be reached."""

    def popen(self, command: object, **options: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(self.script), str(self.written)], **options)


def test_nothing_that_the_server_started_writes_after_its_end(tmp_path):
    """A scoring that outlived the demonstration's server kept its folder from being removed."""
    noisy = _NoisyServer(tmp_path)
    server = LabelServer(noisy, "http://127.0.0.1:1/dicom-web", tmp_path, 0)
    while not list(noisy.written.iterdir()):
        time.sleep(0.01)
    server.stop()
    time.sleep(0.1)  # the kernel ends the processes of a group one by one
    last = len(list(noisy.written.iterdir()))
    time.sleep(0.3)
    assert len(list(noisy.written.iterdir())) == last
