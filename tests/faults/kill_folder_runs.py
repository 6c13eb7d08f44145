"""Runs over a folder that are killed with SIGKILL at random moments; started by ``test_folder_killed.py``.

A process of its own, which imports everything once and forks a child for every run: a kill then falls into the run, not
into seconds of imports. ``python -m tests.faults.kill_folder_runs IN OUT TRIALS SEED`` prints what it saw as JSON.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from tests.engines.folder_runs import exit_status, make_evaluator, report_rows


def start(folder: Path, out: Path) -> int:
    """Fork a run; in the child this never returns."""
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 -- the child's own, for its whole life
        os._exit(exit_status(make_evaluator(folder, out, preview=True)))
    return child


def ended(child: int, out: Path, seconds: float, masks: int) -> bool:
    """Wait that long, or until so many more masks are visible; whether the run ended by itself."""
    deadline, enough = time.monotonic() + seconds, visible(out) + masks
    while time.monotonic() < deadline and visible(out) < enough:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.002)
    return False


def visible(out: Path) -> int:
    """Number of masks that are there under their own name."""
    return sum(not path.name.startswith(".") for path in out.rglob("*_seg.nii.gz"))


def bad_masks(out: Path, expected: Path) -> list[str]:
    """Visible masks that are not whole or not right."""
    bad = []
    for path in out.rglob("*_seg.nii.gz"):
        if path.name.startswith("."):
            continue
        name = str(path.relative_to(out))
        try:
            found = np.asanyarray(nib.load(path).dataobj)
        except Exception as error:
            bad.append(f"{name}: {error}")
            continue
        if not np.array_equal(found, np.asanyarray(nib.load(expected / name).dataobj)):
            bad.append(f"{name}: other labels")
    return bad


def main(folder: Path, work: Path, trials: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    chance = random.Random(seed)
    calm = work / "calm"
    began = time.monotonic()
    child = start(folder, calm)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    whole = time.monotonic() - began
    out, killed, bad = work / "killed", [], []
    rounds = 0
    while len(killed) < trials:
        child = start(folder, out)
        # Every other kill waits for a new mask, whatever the speed of the machine is then; the others come at any
        # time. None lets more than two cases pass, so that the kills are spread over the run on every machine.
        seconds = math.inf if len(killed) % 2 else chance.uniform(0, whole)
        began = time.monotonic()
        if ended(child, out, seconds, 1 if len(killed) % 2 else 2):
            # Everything is done; begin anew, so that the next kill meets work.
            out.rename(work / f"round{rounds}")
            rounds += 1
            continue
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done = [case for case, row in report_rows(out).items() if row["status"] == "done"] if seen(out) else []
        killed.append({"after": round(time.monotonic() - began, 3), "done": len(done)})
        bad += bad_masks(out, calm)
    final = exit_status(make_evaluator(folder, out, preview=True))
    return {"calm": status, "seconds": whole, "killed": killed, "bad": bad, "final": final, "rounds": rounds}


def seen(out: Path) -> bool:
    return (out / "report.json").is_file()


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    sys.stdout.write(json.dumps(main(source, target, int(sys.argv[3]), int(sys.argv[4]))))
