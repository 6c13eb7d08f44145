"""A training ends with the server that started it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("psutil", reason="comes with MONAI Label: make test-label")

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.label.server_watch import SERVER_VARIABLE, ServerWatch, announce_server

WAITING = "import sys; print('begun', flush=True); sys.stdin.read()"
TRAINING = """
import time
from esp_medsam_monai.label.server_watch import ServerWatch
with ServerWatch():
    print("begun", flush=True)
    time.sleep(600)
"""


def process(program: str, **environment: str) -> subprocess.Popen[str]:
    """A process that has begun."""
    started = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert started.stdout is not None and started.stdout.readline().strip() == "begun"
    return started


def test_a_training_ends_when_its_server_is_killed() -> None:
    server = process(WAITING)
    training = process(TRAINING, **{SERVER_VARIABLE: str(server.pid)})
    assert training.poll() is None
    server.kill()  # and nobody reaps it yet
    try:
        assert training.wait(60) == 1
        server.wait()
        environment = {**os.environ, SERVER_VARIABLE: str(server.pid)}
        command = [sys.executable, "-c", TRAINING]
        late = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert "SERVER_GONE" in late.stderr and "begun" not in late.stdout
    finally:
        training.kill()
        training.wait()
        server.wait()


def test_without_an_announcement_it_is_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    with ServerWatch() as watch:
        assert watch.lives


def test_inside_the_server_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, "0")
    announce_server()
    with ServerWatch() as watch:
        assert watch.lives


def test_who_is_younger_is_no_server_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number is given anew after its process has ended."""
    younger = process(WAITING)
    monkeypatch.setenv(SERVER_VARIABLE, str(younger.pid))
    try:
        with pytest.raises(InputRefused, match="SERVER_GONE"), ServerWatch():
            pass
    finally:
        younger.communicate()
