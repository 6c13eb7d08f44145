"""Peak memory of one training step, for a process of its own: ``python benchmarks/training_memory.py --batch 8``.

Prints one line of JSON: ``peak_bytes`` of a step (forward, backward, optimizer) of the shipped network on random
images; the whole process on a CPU, torch's memory on a GPU. ``training_speed.py`` calls it with different batches: the
slope between them is the memory of an image, whatever import, weights and optimizer take.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from esp_medsam_monai.losses import ESPMedSAMLoss
from esp_medsam_monai.modalities import shipped_modalities
from esp_medsam_monai.networks import ESPMedSAM


def peak_bytes(device: torch.device) -> int | None:
    """Most memory so far; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would tell of the parent too, from which Linux lets a process inherit the number
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def step(side: int, batch: int, use_checkpoint: bool, device: torch.device) -> None:
    """Two steps of training, so that the state of the optimizer is there during the second."""
    modalities = shipped_modalities()
    network = ESPMedSAM(modalities, img_size=side, use_checkpoint=use_checkpoint).to(device).train()
    loss = ESPMedSAMLoss(modalities)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    names = list(islice(cycle(modalities), batch))
    x = torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    label = torch.randint(0, 2, (batch, 1, side, side), device=device).to(torch.uint8)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        loss(network(x, names, return_features=True), label, names).backward()
        optimizer.step()


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=1, help="images in the step")
    parser.add_argument("--use-checkpoint", action="store_true", help="with activation checkpointing")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    step(args.side, args.batch, args.use_checkpoint, device)
    result = {**vars(args), "peak_bytes": peak_bytes(device)}
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
