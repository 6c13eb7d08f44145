"""Several runs over one folder at once; started by ``test_two_runs.py`` as ``python -m tests.faults.share_folder``.

Usage: ``IN OUT LOG RUNS``; prints the exit statuses as JSON. LOG gets a line for every call of the network.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

from tests.engines.folder_runs import Bright, exit_status, make_evaluator


def main(folder: Path, out: Path, log: Path, runs: int) -> list[int]:
    torch.set_num_threads(1)

    def slowly(call: int) -> None:
        with log.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        time.sleep(0.2)

    children = []
    for _ in range(runs):
        child = os.fork()
        if child == 0:
            os._exit(exit_status(make_evaluator(folder, out, Bright(slowly))))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    source, target, calls = map(Path, sys.argv[1:4])
    sys.stdout.write(json.dumps(main(source, target, calls, int(sys.argv[4]))))
