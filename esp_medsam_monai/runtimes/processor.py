"""What the processor of this machine can do, as far as it decides which precision is worth while."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path

__all__ = ["cpu_name", "has_bf16", "has_int8_dot"]


@lru_cache(maxsize=1)
def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of Linux's /proc/cpuinfo, empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _flags() -> set[str]:
    return set(_cpuinfo().get("flags", _cpuinfo().get("Features", "")).split())


def cpu_name() -> str:
    """Model and number of usable cores, for instance ``AMD EPYC, 2 cores``."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_cpuinfo().get('model name') or platform.processor() or platform.machine()}, {cores} cores"


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself (AVX-512 BF16, AMX, or Arm's BF16); in software it is slow."""
    return bool(_flags() & {"avx512_bf16", "amx_bf16", "bf16", "avx_ne_convert"})


def has_int8_dot() -> bool:
    """Whether the processor multiplies 8-bit integers in one step (VNNI, AMX, or Arm's dot product)."""
    return bool(_flags() & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
