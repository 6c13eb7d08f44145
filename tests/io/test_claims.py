"""A case is claimed by one run at a time, and a dead run claims nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from esp_medsam_monai.io import claim


def test_values_one_at_a_time(tmp_path: Path) -> None:
    with claim(tmp_path, "a") as first, claim(tmp_path, "a") as second, claim(tmp_path, "b") as other:
        assert (first, second, other) == (True, False, True)
    with claim(tmp_path, "a") as again:
        assert again


def test_values_waits_for_the_other(tmp_path: Path) -> None:
    order = []
    taken = threading.Event()

    def hold() -> None:
        with claim(tmp_path, "a"):
            taken.set()
            time.sleep(0.3)
            order.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    with claim(tmp_path, "a", wait=-1) as ours:
        order.append("second")
    thread.join()
    assert ours
    assert order == ["first", "second"]


def test_values_leaves_no_file_of_a_case(tmp_path: Path) -> None:
    with claim(tmp_path, "sub/späte Aufnahme"):
        pass
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_values_killed_process_claims_nothing(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with claim(tmp_path, "a"):
            os.write(writing, b"x")
            time.sleep(60)
    os.read(reading, 1)
    with claim(tmp_path, "a") as ours:
        assert not ours
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with claim(tmp_path, "a") as ours:
        assert ours
