"""Seconds and memory for whole volumes and folders, through the documented command.

``python benchmarks/volume_speed.py --json FILE`` makes volumes of 512 x 512 pixels a slice, segments each with
``python -m monai.bundle run inference`` in a process of its own and reads what its ``report.json`` says. ``--quick``
takes small numbers of slices, to see that it works. What is told:

- ``wall``: from the moment that everything is imported and the weights are loaded until the last file is written;
  ``start`` is what comes before. ``network``: forward passes alone.
- ``ratio``: wall over network, for a volume of ``--slices`` at ``--side`` and at the side of the shipped weights.
- ``peak``: the largest resident set of the process; ``over``: what of it lies above that of a process which imported
  and loaded the same and met one file that it refuses. At most 4 bytes for each voxel and 1.5 GB are wanted.
- ``slice``: wall seconds for a slice. That of 800 slices over that of 100 is ``scaling``.
- ``folder``: small MR volumes, many in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import describe_machine, format_table, write_json
from synthetic_volumes import write_ct, write_mr_folder

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "esp_medsam"
VOXELS = 512 * 512
ALLOWED_GB = 1.5
POLL = 0.02
SCALING = (100, 800)
MEMORY = (200, 800)


@dataclass
class Measured:
    """One run of the command.

    Args:
        what: in words.
        side: of the network's square, None for the shipped one.
        slices: of all cases together.
        cases: number of files.
        total: seconds of the whole process.
        wall: see the module.
        stages: seconds in each stage, as in ``report.json``.
        peak_gb: see the module.
    """

    what: str
    side: int | None
    slices: int
    cases: int
    total: float
    wall: float
    stages: dict[str, float]
    peak_gb: float | None

    @property
    def ratio(self) -> float | None:
        """Wall over network."""
        return self.wall / self.stages["network"] if self.stages["network"] else None


def peak_gb(process: subprocess.Popen[bytes]) -> float | None:
    """Wait for the end of a process; its largest resident set, in GB of 1e9 bytes, where the system tells."""
    status, peak = Path(f"/proc/{process.pid}/status"), None
    while process.poll() is None:
        # Not the resource usage of children: that of a child counts what its parent held when it was started.
        try:
            lines = status.read_text().splitlines()
        except OSError:
            lines = []
        peak = next((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM")), peak)
        time.sleep(POLL)
    return peak


def segment(what: str, images: Path, out: Path, args: argparse.Namespace, side: int | None) -> Measured:
    """Run the command over a folder or file."""
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--bundle_root", str(BUNDLE)]
    command += ["--config_file", str(BUNDLE / "configs" / "inference.yaml")]
    command += ["--dataset_dir", str(images), "--output_dir", str(out), "--modality", args.modality]
    command += ["--image_size", str(side)] if side else []
    for option in ("runtime", "precision", "batch_size", "num_workers"):
        if getattr(args, option) is not None:
            command += [f"--{option}", str(getattr(args, option))]
    environment = dict(os.environ)
    if args.threads:
        environment["OMP_NUM_THREADS"] = str(args.threads)
    started = time.perf_counter()
    with (out.with_suffix(".log")).open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        peak = peak_gb(process)
    total = time.perf_counter() - started
    report = out / "report.json"
    if process.returncode not in (0, 8) or not report.is_file():
        raise SystemExit(
            f"{' '.join(command)}\nended with {process.returncode}:\n{out.with_suffix('.log').read_text()}"
        )
    content: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    slices = sum(row["slices"] or 0 for row in content["cases"])
    run = content["run"]
    return Measured(
        what, side, slices, len(content["cases"]), total, run["seconds"], dict(run["seconds_by_stage"]), peak
    )


def measure(args: argparse.Namespace, work: Path) -> tuple[float | None, dict[str, Measured]]:
    """Peak of a process that has nothing to segment, and every run by its name."""
    refused = work / "refused"
    refused.mkdir()
    (refused / "broken.nii.gz").write_bytes(b"no image")
    # Twice: the first may be the one in which a runtime is chosen, once for a machine, which takes memory too.
    peaks = (segment("nothing", refused, work / f"out_idle{i}", args, None).peak_gb for i in range(2))
    idle = min(filter(None, peaks), default=None)

    scale = 20 if args.quick else 1
    counts = sorted({max(2, count // scale) for count in (*SCALING, *MEMORY)} | {max(2, args.slices // scale)})
    sides = {"large": args.side, "shipped": None}
    found = {}
    for count in counts:
        volume = write_ct(work / f"ct{count}.nii.gz", count, air=args.air)
        for name, side in sides.items():
            if name == "large" and count != max(2, args.slices // scale):
                continue
            key = f"{name}_{count}"
            found[key] = segment(f"512 x 512 x {count}", volume, work / f"out_{key}", args, side)
            print(row_of(found[key], idle)[:3], flush=True)
        volume.unlink()
    folder = write_mr_folder(work / "mr", max(3, args.cases // scale))
    found["folder"] = segment(f"{args.cases // scale or 3} MR volumes", folder, work / "out_folder", args, None)
    return idle, found


def over_gb(one: Measured, idle: float | None) -> float | None:
    """Memory above that of an idle process."""
    return None if one.peak_gb is None or idle is None else one.peak_gb - idle


def row_of(one: Measured, idle: float | None) -> list[object]:
    """A line of the table."""
    seconds = [one.wall, *one.stages.values()]
    over = over_gb(one, idle)
    return [
        one.what,
        one.side or "shipped",
        *(f"{value:.2f}" for value in seconds),
        None if one.ratio is None else f"{one.ratio:.2f}",
        f"{1000 * one.wall / max(1, one.slices):.1f}",
        f"{one.total - one.wall:.1f}",
        None if one.peak_gb is None else f"{one.peak_gb:.2f}",
        None if over is None else f"{over:.2f}",
        None if one.what.endswith("volumes") else f"{allowed_gb(one):.2f}",
    ]


def allowed_gb(one: Measured) -> float:
    """Memory that a volume may take, in GB of 1e9 bytes."""
    return 4 * VOXELS * one.slices / 1e9 + ALLOWED_GB


def targets(idle: float | None, found: dict[str, Measured], args: argparse.Namespace) -> dict[str, Any]:
    """What the numbers are for: ratios, memory and scaling, each with its target."""
    scale = 20 if args.quick else 1
    count = max(2, args.slices // scale)
    few, many = (found[f"shipped_{max(2, slices // scale)}"] for slices in SCALING)
    memory = {}
    for slices in MEMORY:
        one = found[f"shipped_{max(2, slices // scale)}"]
        memory[str(one.slices)] = {"over_gb": over_gb(one, idle), "allowed_gb": allowed_gb(one)}
    large = found[f"large_{count}"]
    memory[f"{large.slices} at side {args.side}"] = {"over_gb": over_gb(large, idle), "allowed_gb": allowed_gb(large)}
    return {
        "wall_over_network": {"large": large.ratio, "shipped": found[f"shipped_{count}"].ratio, "target": 1.15},
        "memory": memory,
        "scaling": {"ratio": (many.wall / many.slices) / (few.wall / few.slices), "target": 1.05},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True, help="file for the results")
    parser.add_argument("--side", type=int, default=1024, help="side of the network's square in the first comparison")
    parser.add_argument("--slices", type=int, default=200, help="slices of the volume in the first comparison")
    parser.add_argument("--cases", type=int, default=40, help="volumes in the folder of small ones")
    parser.add_argument("--modality", default="mr", help="whose controller is used")
    parser.add_argument("--air", type=float, default=0.0, help="share of slices that hold air alone")
    parser.add_argument("--runtime", help="as for inference")
    parser.add_argument("--precision", help="as for inference")
    parser.add_argument("--batch_size", type=int, help="as for inference")
    parser.add_argument("--num_workers", type=int, help="as for inference")
    parser.add_argument("--threads", type=int, help="threads of the network")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the slices and cases")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        idle, found = measure(args, Path(work))
    head = ["", "side", "wall s", "read", "prepare", "network", "write", "wall/network", "ms/slice", "start s"]
    print(format_table([*head, "peak GB", "over GB", "allowed"], [row_of(one, idle) for one in found.values()]))
    wanted = targets(idle, found, args)
    print(json.dumps(wanted, indent=2))
    runs = {name: asdict(one) | {"ratio": one.ratio} for name, one in found.items()}
    options = {name: value for name, value in vars(args).items() if name != "json"}
    content = {"machine": describe_machine(), "options": options, "idle_gb": idle, "runs": runs, "targets": wanted}
    write_json(args.json, content)


if __name__ == "__main__":
    main()
