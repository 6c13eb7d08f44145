"""Seconds for one slice: our network in every runtime and precision that is installed, against the published way.

``python benchmarks/slice_speed.py --json FILE`` takes at most 12 minutes on two cores (1024 x 1024, one image at a
time); ``--full`` measures the grid of sides and batches, ``--device cuda`` a GPU (batches of 32). All are timed in turn
in one process, with the same threads. What is measured beside the runtimes:

- ``published``: the published network as its code executes it, nothing fused (``published_path.py``);
- ``plain``: our network in torch, as training runs it;
- ``mobile_sam_encoder``: our trunk without controllers, which is MobileSAM's encoder;
- ``sam_vit_b_encoder``: segment-anything's ViT-B encoder with random weights, timed twice.

``ratios`` in the JSON are seconds of the other over seconds of ours (the whole network), medians of the interleaved
runs. ``best`` counts only what keeps the mask of the example image, ``fp32`` only what agrees with torch fp32 to 1e-3.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from bench import (
    Runs,
    describe_machine,
    format_table,
    interleave,
    limit_threads,
    matmul_rate,
    median_ratio,
    wait_until_quiet,
    write_json,
)
from slice_candidates import (
    RUNTIMES,
    SAM,
    Call,
    example_images,
    gflop_per_image,
    has_bf16,
    make_network,
    other_candidates,
    runtime_candidates,
)
from torch import Tensor

SIDES = (1024, 512, 256, 224)
BATCHES = {"cpu": (1, 4, 16), "cuda": (32, 1, 4, 16)}
WARMUP = {"cpu": 1, "cuda": 3}
SAM_RUNS = 2
SAME_MASK = 0.98
SAME_LOGITS = 1e-3


def agreement(found: Tensor, expected: Tensor) -> dict[str, float]:
    """Largest difference of two tensors of logits and Dice of their masks; two empty masks are the same."""
    ours, theirs = found > 0, expected > 0
    area = float(ours.sum() + theirs.sum())
    dice = 2 * float((ours & theirs).sum()) / area if area else 1.0
    return {"max_difference": float((found.float() - expected.float()).abs().max()), "dice": round(dice, 5)}


def compare(
    calls: Mapping[str, Call], x: Tensor, expected: Tensor
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Agreement of each runtime with torch fp32, and why some do not run at all."""
    agreements, reasons = {}, {}
    for name, call in calls.items():
        try:
            agreements[name] = agreement(call(x), expected)
        except Exception as error:  # one that fails must not end the others
            reasons[name] = f"{type(error).__name__}: {error}"
    return agreements, reasons


def ratios(times: Mapping[str, Runs], agreements: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The ratios that the targets speak of, and which of ours they took; None where something was not measured."""
    same = {name: times[name] for name, how in agreements.items() if how["dice"] >= SAME_MASK}
    exact = {
        name: times[name]
        for name, how in agreements.items()
        if name.endswith("_fp32") and how["max_difference"] <= SAME_LOGITS
    }
    chosen = {"best": same, "fp32": exact, "torch": {n: runs for n, runs in same.items() if n.startswith("torch_")}}
    fastest = {word: min(some, key=lambda n: some[n].median, default=None) for word, some in chosen.items()}
    ours = {word: times[name] if name else None for word, name in fastest.items()}
    result: dict[str, Any] = {f"{word}_vs_published": median_ratio(times["published"], ours[word]) for word in ours}
    result["best_vs_sam_vit_b"] = median_ratio(times.get(SAM), ours["best"])
    return {**result, "taken": fastest}


def measure(
    args: argparse.Namespace,
    others: Mapping[str, Call],
    runtimes: Mapping[str, Call],
    side: int,
    batch: int,
    rates: Mapping[str, float],
) -> dict[str, Any]:
    """Time everything at one side and batch.

    Args:
        args: the command line.
        others: what the runtimes are compared with, for this side.
        runtimes: our network in every runtime and precision.
        side: side of the images in pixels.
        batch: images at a time.
        rates: the device's matrix rates in GFLOP/s by precision.

    Returns:
        an entry of ``settings`` in the JSON.
    """
    device = torch.device(args.device)
    x = example_images(batch, side).to(device)
    expected = others["plain"](x)
    agreements, reasons = compare(runtimes, x, expected)
    calls = {name: call for name, call in {**others, **runtimes}.items() if name not in reasons}
    load = [wait_until_quiet(args.patience)]
    actions = {name: partial(call, x) for name, call in calls.items()}
    times = interleave(actions, args.runs, device, WARMUP[device.type], {SAM: SAM_RUNS}, args.seconds)
    load.append(wait_until_quiet(0))
    if args.weights == "published":
        agreements["published"] = agreement(others["published"](x), expected)
    gflop = gflop_per_image(side)
    rows: dict[str, Any] = {}
    for name, runs in times.items():
        rows[name] = {**runs.as_json(), "images_per_s": round(batch / runs.median, 3), **agreements.get(name, {})}
        rows[name]["published_over_this"] = median_ratio(times["published"], runs)
        if not name.endswith("_encoder"):
            achieved = gflop * batch / runs.median
            rows[name]["share_of_matmul_rate"] = {kind: round(achieved / rate, 3) for kind, rate in rates.items()}
    return {
        "side": side,
        "batch": batch,
        "gflop_per_image": gflop,
        "foreground": round(float((expected > 0).float().mean()), 4),
        "load": load,
        "seconds": {name: row["median_s"] for name, row in rows.items()},
        "rows": rows,
        "not_run": reasons,
        "ratios": ratios(times, {name: how for name, how in agreements.items() if name in runtimes}),
    }


def table(setting: Mapping[str, Any]) -> str:
    """One setting as text."""
    rate = "share of matmul rate"
    header = ("", "seconds", "images/s", "published/this", "max difference", "Dice", rate)
    rows = []
    for name, row in setting["rows"].items():
        difference = f"{row['max_difference']:.1e}" if "max_difference" in row else None
        shares = ", ".join(f"{kind} {share:.2f}" for kind, share in row.get("share_of_matmul_rate", {}).items())
        numbers = (f"{row['median_s']:.3f}", f"{row['images_per_s']:.2f}", f"{row['published_over_this']:.2f}")
        rows.append((name, *numbers, difference, row.get("dice"), shares or None))
    lines = [f"{setting['side']} x {setting['side']} pixels, batch {setting['batch']}", format_table(header, rows)]
    lines += [f"{name}: not run, {reason}" for name, reason in setting["not_run"].items()]
    lines += [f"{name}: {value}" for name, value in setting["ratios"].items() if name != "taken"]
    if not setting["load"][0]["quiet"]:
        lines.append(f"other work may have disturbed these times: {setting['load'][0]}")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; lists are completed by the device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--side", type=int, nargs="+", help="sides of the images in pixels (1024)")
    parser.add_argument("--batch", type=int, nargs="+", help="images at a time (1; on a GPU 32)")
    parser.add_argument("--full", action="store_true", help="the grid of sides and batches")
    parser.add_argument("--runtimes", nargs="+", help="only these runtimes")
    parser.add_argument("--weights", default="shipped", choices=("shipped", "published"), help="published: random ones")
    parser.add_argument("--runs", type=int, default=10, help="timed rounds of each setting")
    parser.add_argument("--seconds", type=float, default=240, help="no round after the third begins later than this")
    parser.add_argument("--threads", type=int, help="threads of all runtimes (all cores)")
    parser.add_argument("--skip-sam", action="store_true", help="leave out segment-anything's encoder")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for a quiet machine")
    args = parser.parse_args(arguments)
    kind = torch.device(args.device).type
    if kind not in RUNTIMES:
        parser.error(f"--device {args.device}: give cpu or cuda")
    args.side = args.side or (SIDES if args.full else SIDES[:1])
    args.batch = args.batch or (BATCHES[kind] if args.full else BATCHES[kind][:1])
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    started = time.perf_counter()
    args = parse(arguments)
    if args.threads:
        limit_threads(args.threads)
    device = torch.device(args.device)
    network, state = make_network(args.weights)
    network.to(device)
    runtimes, reasons = runtime_candidates(network, device, args.side, args.runtimes)
    rates = {"fp32": matmul_rate(device, torch.float32)}
    if has_bf16(device):
        rates["bf16"] = matmul_rate(device, torch.bfloat16)
    results: dict[str, Any] = {
        "benchmark": "slice_speed",
        "machine": describe_machine(device),
        "options": vars(args),
        "matmul_gflop_per_s": rates,
        "not_run": reasons,
        "settings": [],
    }
    print(*(f"{name}: not run, {reason}" for name, reason in reasons.items()), sep="\n", end="\n\n")
    for number, (side, batch) in enumerate(itertools.product(args.side, args.batch)):
        others = other_candidates(network, state, side, device, sam=number == 0 and not args.skip_sam)
        setting = measure(args, others, runtimes, side, batch, rates)
        results["settings"].append(setting)
        print(table(setting), end="\n\n", flush=True)
        first = results["settings"][0]
        results.update(seconds=first["seconds"], ratios=first["ratios"], wall_s=round(time.perf_counter() - started, 1))
        if args.json:
            write_json(args.json, results)


if __name__ == "__main__":
    main()
