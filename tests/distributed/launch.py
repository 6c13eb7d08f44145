"""Scenarios in several ranks on the CPU; tests start them as ``python -m tests.distributed.launch``.

Usage: ``OUT RANKS MODULE:FUNCTION ...``; prints ``{FUNCTION: [exit statuses]}`` as JSON. The ranks are forked from one
process that has imported everything, which ``torchrun`` cannot do; otherwise they find what it would give them. RANKS 1
is a process without a group. A rank that hangs is killed after a while.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["start"]

LIMIT = 240
"""Seconds for one scenario."""

Scenario = Callable[[Path], None]


def start(repository: Path, out: Path, ranks: int, *scenarios: Scenario) -> dict[str, list[int]]:
    """Run scenarios one after the other, each in so many ranks; exit statuses of the ranks by scenario."""
    names = [f"{each.__module__}:{each.__name__}" for each in scenarios]
    command = [sys.executable, "-m", "tests.distributed.launch", str(out), str(ranks), *names]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    run = subprocess.run(command, cwd=repository, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stderr
    (out / "log.txt").write_text(run.stdout + run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _rank(scenario: Scenario, out: Path, number: int, ranks: int, port: int) -> int:
    signal.alarm(LIMIT)
    if ranks > 1:
        os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(ranks))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        scenario(out)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _run(scenario: Scenario, out: Path, ranks: int) -> list[int]:
    """As torchrun does, end the ranks that are left when one has failed."""
    port, running, statuses = _free_port(), {}, [0] * ranks
    for number in range(ranks):
        child = os.fork()
        if child == 0:
            status = _rank(scenario, out, number, ranks, port)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        running[child] = number
    failed_at = None
    while running:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            statuses[running.pop(child)] = os.waitstatus_to_exitcode(status)
            if status and failed_at is None:
                failed_at = time.monotonic()
        elif failed_at is not None and time.monotonic() > failed_at + 2:
            for left in running:
                os.kill(left, signal.SIGTERM)
            failed_at = float("inf")
        time.sleep(0.02)
    return statuses


def main(out: Path, ranks: int, names: list[str]) -> dict[str, list[int]]:
    torch.set_num_threads(1)
    statuses = {}
    for name in names:
        module, _, function = name.partition(":")
        statuses[function] = _run(getattr(importlib.import_module(module), function), out, ranks)
    return statuses


if __name__ == "__main__":
    told = main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    sys.stdout.write("\n" + json.dumps(told) + "\n")
