"""Images a second of our training, what the embedding cache gains, memory of an image: on a CPU or a GPU.

``python benchmarks/training_speed.py --json FILE`` takes some minutes on two cores. It measures

- ``engine``: ``train.yaml`` as it is run, on made-up pictures, without the first batch of each epoch and what comes
  between the epochs (validation, checkpoints); ``data_share`` is the share of the time that it waits for its data;
- ``plain``: a bare torch loop over the same batches, which lie on the device: same network, loss and optimizer, nothing
  else; one epoch of it after each of the engine;
- ``distillation``: a step with a teacher (a small one; ``--full`` SAM's ViT-B too) that embeds every batch, and with
  the cache filled;
- ``memory``: of an image in a training step, with and without activation checkpointing: the slope of the peak between
  batches of different sizes, each in a process of its own.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench import (
    Runs,
    describe_machine,
    format_table,
    interleave,
    limit_threads,
    median_ratio,
    synchronise,
    wait_until_quiet,
    write_json,
)
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from monai.engines import SupervisedTrainer
from training_distillation import SMALL_TEACHER, distillation_speed
from training_pictures import MODALITIES, save_pictures

from esp_medsam_monai.bundle import shipped_bundle

PARTS = ("training", "distillation", "memory")


class PlainLoop:
    """A training without an engine: what there is to compute, and nothing else.

    Args:
        trainer: gives network (copied), loss and device.
        precision: ``fp32`` or ``bf16``.
    """

    def __init__(self, trainer: SupervisedTrainer, precision: str) -> None:
        self.device = torch.device(trainer.state.device)
        self.network = copy.deepcopy(trainer.network)
        self.loss = trainer.loss_function
        self.optimizer = torch.optim.AdamW(self.network.parameters(), fused=True)
        self.half = torch.bfloat16 if precision == "bf16" else None
        self.batches: list[tuple[torch.Tensor, torch.Tensor, list[str]]] = []

    def keep(self, engine: Engine) -> None:
        """Keep the batch that an engine has just used."""
        batch: Any = engine.state.batch
        image, label = (batch[key].to(self.device) for key in ("image", "label"))
        self.batches.append((image.contiguous(memory_format=torch.channels_last), label, list(batch["modality"])))

    def run(self) -> None:
        """One epoch over the batches."""
        self.network.train()
        for image, label, names in self.batches:
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None):
                features = self.network(image, names, return_features=True)
            self.loss({key: value.float() for key, value in features.items()}, label, names).backward()
            self.optimizer.step()


class EpochTimes:
    """Handler: seconds of every epoch but the first, from the end of its first iteration to that of its last."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.epochs, self.waiting = Runs(), Runs()
        self._begun = self._asked = self._waited = 0.0

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._ask)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._got)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)

    def _ask(self, _: Engine) -> None:
        self._asked = time.perf_counter()

    def _got(self, _: Engine) -> None:
        self._waited += time.perf_counter() - self._asked

    def _iteration(self, engine: Engine) -> None:
        state: Any = engine.state
        place = (state.iteration - 1) % state.epoch_length + 1
        if place not in (1, state.epoch_length):
            return
        synchronise(self.device)
        now = time.perf_counter()
        if place == 1:
            self._begun, self._waited = now, 0.0
        elif state.epoch > 1:
            self.epochs.seconds.append(now - self._begun)
            self.waiting.seconds.append(self._waited)


def training_speed(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The engine and the plain loop, epoch by epoch in turn."""
    device = torch.device(args.device)
    bundle = shipped_bundle()
    options: dict[str, Any] = {
        "bundle_root": str(bundle),
        "datalist": str(save_pictures(folder, max(1, args.pictures // len(MODALITIES)))),
        "output_dir": str(folder / "run"),
        "device": f"$torch.device('{device}')",
        "image_size": args.side,
        "image_sizes": None,
        "batch_size": args.batch,
        "samples_per_epoch": args.batch * (args.batches + 1),
        "num_workers": args.workers,
        "precision": args.precision,
        "max_epochs": args.runs + 1,
        "val_interval": args.runs + 1,
        "check_data": False,
    }
    names: dict[str, Any] = {"meta_file": None, "logging_file": False, "workflow_type": "train", "run_id": "training"}
    workflow = ConfigWorkflow(str(bundle / "configs" / "train.yaml"), **names, **options)
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")
    times, loop, plain = EpochTimes(device), PlainLoop(trainer, args.precision), Runs()
    times.attach(trainer)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED(event_filter=lambda _, count: 1 < count <= args.batches + 1), loop.keep
    )

    def run_plain(engine: Engine) -> None:
        found = interleave({"plain": loop.run}, 1, device, warmup=0)["plain"]
        if engine.state.epoch > 1:
            plain.seconds.extend(found.seconds)

    trainer.add_event_handler(Events.EPOCH_COMPLETED, run_plain)
    workflow.run()
    workflow.finalize()
    images = args.batch * args.batches
    return {
        "images": images,
        "engine": {**times.epochs.as_json(), "images_per_s": round(images / times.epochs.median, 3)},
        "plain": {**plain.as_json(), "images_per_s": round(images / plain.median, 3)},
        "data_share": round(sum(times.waiting.seconds) / sum(times.epochs.seconds), 4),
        "engine_over_plain": median_ratio(times.epochs, plain),
    }


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Bytes of an image in a training step, with and without activation checkpointing."""
    script = Path(__file__).with_name("training_memory.py")
    result: dict[str, Any] = {}
    for name, options in (("kept", []), ("checkpointed", ["--use-checkpoint"])):
        peaks = {}
        for batch in (1, args.memory_batch):
            command = [sys.executable, script, "--side", args.side, "--batch", batch, "--device", args.device, *options]
            done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
            peaks[batch] = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
        known = None not in peaks.values()
        (small, low), (large, high) = peaks.items()
        each = round((high - low) / (large - small)) if known else None
        result[name] = {"peak_bytes": peaks, "bytes_per_image": each}
    kept, again = (result[name]["bytes_per_image"] for name in ("kept", "checkpointed"))
    result["kept_over_checkpointed"] = round(kept / again, 3) if kept and again and again > 0 else None
    return result


def table(results: dict[str, Any]) -> str:
    """All of it as text."""
    rows: list[tuple[object, ...]] = []
    if speed := results.get("training"):
        rows += [(name, speed[name]["images_per_s"], None) for name in ("plain", "engine")]
        rows[-1] = (*rows[-1][:2], f"{speed['engine_over_plain']} x plain, {speed['data_share']:.1%} of it for data")
    for name, found in results["distillation"].items():
        rows += [(f"distillation, {name}, {way}", found[way]["images_per_s"], None) for way in ("teacher", "cache")]
        rows[-1] = (*rows[-1][:2], f"{found['cache_gain']} x")
    lines = [format_table(("", "images/s", ""), rows)] if rows else []
    if found := results.get("memory"):
        each = [(way, found[way]["bytes_per_image"]) for way in ("kept", "checkpointed")]
        shown = [(f"activations {way}", None if size is None else f"{size / 1e6:.1f}") for way, size in each]
        lines.append(format_table(("", "MB/image"), shown))
    if not results["load"]["quiet"]:
        lines.append(f"other work may have disturbed these times: {results['load']}")
    return "\n\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--side", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=8, help="images in a batch")
    parser.add_argument("--batches", type=int, default=5, help="timed batches of an epoch")
    parser.add_argument("--runs", type=int, default=3, help="timed epochs")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare batches; as in train.yaml")
    parser.add_argument("--pictures", type=int, default=24, help="made-up pictures")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--memory-batch", type=int, default=8, help="larger batch of the slope of memory; above 1")
    parser.add_argument("--full", action="store_true", help="a teacher of the size of SAM ViT-B too")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--threads", type=int, help="torch's threads (all cores)")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for a quiet machine")
    args = parser.parse_args(arguments)
    if args.memory_batch < 2:
        parser.error(f"--memory-batch {args.memory_batch}: give 2 or more")
    if min(args.batches, args.runs, args.batch) < 1:
        parser.error("--batch, --batches and --runs: give 1 or more")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    started = time.perf_counter()
    args = parse(arguments)
    if args.threads:
        limit_threads(args.threads)
    results: dict[str, Any] = {
        "benchmark": "training_speed",
        "machine": describe_machine(args.device),
        "options": vars(args),
        "load": wait_until_quiet(args.patience),
        "distillation": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        if "training" in args.only:
            results["training"] = training_speed(args, Path(folder))
        if "distillation" in args.only:
            encoders: dict[str, Any] = {"small": SMALL_TEACHER, **({"vit_b": "vit_b"} if args.full else {})}
            for name, encoder in encoders.items():
                results["distillation"][name] = distillation_speed(args, encoder, Path(folder) / name)
    if "memory" in args.only:
        results["memory"] = memory(args)
    results["wall_s"] = round(time.perf_counter() - started, 1)
    print(table(results))
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    main()
