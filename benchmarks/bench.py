"""What the benchmarks share: the machine in words, interleaved runs, a plain table, a JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "INSTRUCTIONS",
    "Runs",
    "cpu_flags",
    "describe_machine",
    "format_table",
    "interleave",
    "limit_threads",
    "matmul_rate",
    "median_ratio",
    "synchronise",
    "wait_until_quiet",
    "write_json",
]

PACKAGES = (
    *("esp-medsam-monai", "torch", "monai", "segment-anything", "numpy", "nibabel", "SimpleITK", "openvino", "nncf"),
    *("onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "torch-tensorrt", "triton"),
)
INSTRUCTIONS = (
    *("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile"),
    *("amx_bf16", "amx_int8", "asimd", "asimddp", "bf16", "i8mm", "sve", "sve2"),
)
"""Instruction sets that decide about speed, in the words of ``/proc/cpuinfo`` (x86 and ARM)."""

QUIET = 0.15
"""Share of the machine that others may use in measurements that count."""


def _cpuinfo() -> dict[str, str]:
    """First value of every line of ``/proc/cpuinfo``; empty where there is no such file."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = [line.split(":", 1) for line in reversed(lines) if ":" in line]
    return {key.strip(): value.strip() for key, value in pairs}


def cpu_flags() -> list[str]:
    """Those of :data:`INSTRUCTIONS` that this CPU has; empty where the system does not say."""
    info = _cpuinfo()
    words = info.get("flags", info.get("Features", "")).split()
    return [flag for flag in INSTRUCTIONS if flag in words]


def describe_machine(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Machine and versions, for the JSON of a benchmark.

    Args:
        device: where the benchmark runs; a GPU is described with its memory.

    Returns:
        ``cpu``, ``cores`` (that this process may use), ``threads`` (torch's), ``memory_gb``, ``instructions``,
        ``system``, ``python``, ``versions`` and, on a GPU, ``gpu``.
    """
    device = torch.device(device)
    machine: dict[str, Any] = {
        "cpu": _cpuinfo().get("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
        "instructions": cpu_flags(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        machine["gpu"] = {
            "name": gpu.name,
            "memory_gb": round(gpu.total_memory / 2**30, 1),
            "capability": f"{gpu.major}.{gpu.minor}",
            "cuda": torch.version.cuda,
        }
    return machine


def _memory_gb() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def limit_threads(threads: int) -> None:
    """Let torch, and every library that counts the cores it is given, use so many threads; before the first work.

    Args:
        threads: threads, at least 1.
    """
    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[:threads])


def _cpu_seconds() -> tuple[float, float] | None:
    """Idle and all seconds of all cores since the start of the machine; None where the system does not say."""
    path = Path("/proc/stat")
    if not path.is_file():
        return None
    counts = [float(word) for word in path.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]]
    return counts[3] + counts[4], sum(counts)


def wait_until_quiet(patience: float = 60.0, pause: float = 2.0) -> dict[str, Any]:
    """Wait until others leave the machine alone, or patience ends; nothing of our own may run meanwhile.

    Args:
        patience: longest wait in seconds; 0 looks once.
        pause: seconds between two looks.

    Returns:
        ``others`` (share of all cores that other work used, 0 to 1, in the last look; None where the system does not
        say), ``load_average`` (of one minute, our own work included), ``waited_s`` and ``quiet``.
    """
    start = time.perf_counter()
    while True:
        before = _cpu_seconds()
        time.sleep(pause if before else 0.0)
        after = _cpu_seconds()
        waited = time.perf_counter() - start
        others = None
        if before and after and after[1] > before[1]:
            others = round(1 - (after[0] - before[0]) / (after[1] - before[1]), 3)
        quiet = others is not None and others <= QUIET
        if quiet or others is None or waited >= patience:
            load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
            return {"others": others, "load_average": load, "waited_s": round(waited, 1), "quiet": quiet}


@dataclass
class Runs:
    """Seconds of the runs of one action, in their order."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median in seconds."""
        return statistics.median(self.seconds)

    def as_json(self) -> dict[str, Any]:
        """``median_s`` and ``runs_s``, to the microsecond."""
        return {"median_s": round(self.median, 6), "runs_s": [round(value, 6) for value in self.seconds]}


def synchronise(device: str | torch.device) -> None:
    """Wait for a GPU to finish what it was given; nothing on a CPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def interleave(
    actions: Mapping[str, Callable[[], object]],
    runs: int,
    device: str | torch.device = "cpu",
    warmup: int = 1,
    at_most: Mapping[str, int] | None = None,
    seconds: float | None = None,
) -> dict[str, Runs]:
    """Time actions in turn (A B C, A B C, ...), so that what disturbs the machine disturbs all alike.

    Args:
        actions: what to time, by name.
        runs: rounds.
        device: where the actions run; a GPU is waited for before and after each.
        warmup: untimed calls of each action beforehand.
        at_most: fewer timed runs of actions, if they are there; their warm-up is at most one call.
        seconds: no round after the third begins when so many have passed.

    Returns:
        the runs of each action.
    """
    at_most = at_most or {}
    for name, action in actions.items():
        for _ in range(min(warmup, 1) if name in at_most else warmup):
            action()
    results = {name: Runs() for name in actions}
    start = time.perf_counter()
    for number in range(runs):
        if seconds is not None and number >= 3 and time.perf_counter() - start > seconds:
            break
        for name, action in actions.items():
            if number >= at_most.get(name, runs):
                continue
            synchronise(device)
            begun = time.perf_counter()
            action()
            synchronise(device)
            results[name].seconds.append(time.perf_counter() - begun)
    return results


def median_ratio(other: Runs | None, ours: Runs | None) -> float | None:
    """Median seconds of the other over those of ours: how many times as fast ours is; None where one is missing."""
    return None if other is None or ours is None else round(other.median / ours.median, 3)


def matmul_rate(device: str | torch.device, dtype: torch.dtype, size: int | None = None, runs: int = 5) -> float:
    """What the device does at best on a large square matrix product, in GFLOP/s (a multiply-add is two).

    Args:
        device: device.
        dtype: floating type of the matrices.
        size: rows; default 8192 on a GPU, 2048 elsewhere.
        runs: timed products, of which the fastest counts.
    """
    size = size or (8192 if torch.device(device).type == "cuda" else 2048)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = interleave({"matmul": lambda: a @ b}, runs, device, warmup=2)["matmul"].seconds
    return round(2 * size**3 / min(times) / 1e9, 1)


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain table: the first column to the left, the others to the right; None is shown as a dash."""
    texts = [list(header)] + [["-" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in texts) for i in range(len(header))]
    lines = []
    for row in texts:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a benchmark's results, with the folder if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
