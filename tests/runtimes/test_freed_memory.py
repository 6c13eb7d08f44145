"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from esp_medsam_monai.runtimes import freed_memory

# Blocks below glibc's threshold; the last one stays, so that the heap does not shrink by itself.
SCRIPT = """
import resource
from pathlib import Path
from esp_medsam_monai.runtimes.freed_memory import trim_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

blocks = [bytearray(b"x" * 65536) for _ in range(4000)]
full = resident()
kept_blocks = [blocks[-1]]
blocks.clear()
kept = resident()
assert trim_memory()
print(full, kept, resident())
"""


@pytest.mark.skipif(not freed_memory.trim_memory(), reason="the C library has no malloc_trim")
def test_values_freed_blocks_leave_the_process() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    full, kept, trimmed = map(float, run.stdout.split())
    assert full - kept < 50, "the premise: glibc keeps them"
    assert kept - trimmed > 200


def test_another_c_library_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda name: object())
    assert freed_memory.trim_memory() is False
