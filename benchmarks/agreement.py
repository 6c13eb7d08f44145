"""How far the masks of runtimes and precisions agree with PyTorch in fp32, on the test images of a datalist.

``python benchmarks/agreement.py --datalist LIST.json --json FILE``. Without ``--precision`` all that can be had here
are measured. ``int8`` needs models of the bundle, which ``esp-medsam quantize`` makes; modalities without one are left
out.
Times are those of the slices' forward passes, in turn within one process, and include nothing around them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from bench import describe_machine, format_table, write_json

from esp_medsam_monai.bundle import find_bundle
from esp_medsam_monai.engines.calibration import CalibrationImages
from esp_medsam_monai.engines.dice_table import DiceRow
from esp_medsam_monai.engines.mask_agreement import MaskAgreement, summarize_agreement
from esp_medsam_monai.engines.quantization import BundleQuantizer
from esp_medsam_monai.networks import ESPMedSAM, fuse
from esp_medsam_monai.runtimes import PRECISIONS, RUNTIMES, make_runtime
from esp_medsam_monai.runtimes.quantized_files import find_quantized, quantized_folder

Images = Sequence[dict[str, Any]]


class EmulatedBf16:
    """The folded network in bf16 as a processor without such instructions computes it: slowly, with the same masks."""

    def __init__(self, network: ESPMedSAM) -> None:
        self.network = network
        self.modalities, self.img_size = network.modalities, network.img_size
        self.default_modality = network.default_modality
        self._modules: dict[str, torch.nn.Module] = {}

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, modality: str) -> torch.Tensor:
        if modality not in self._modules:
            self._modules[modality] = fuse(self.network, modality).to(torch.bfloat16)
        return self._modules[modality](x).float()


class Timed:
    """A runtime that notes how long it takes, called like it."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.modalities, self.img_size = network.modalities, network.img_size
        self.default_modality = network.default_modality
        self.seconds: list[float] = []

    def __call__(self, x: torch.Tensor, modality: str) -> torch.Tensor:
        begin = time.perf_counter()
        logits = self.network(x, modality)
        self.seconds.append((time.perf_counter() - begin) / len(x))
        return logits


def usable(args: argparse.Namespace, quantizer: BundleQuantizer, modality: str) -> dict[str, Timed]:
    """The runtimes and precisions that were asked for and can be had, by name; a reason is printed for the others."""
    side = quantizer.side(modality)
    quantized = find_quantized(quantized_folder(quantizer.bundle), quantizer.network)
    x = torch.zeros(1, quantizer.network.in_channels, side, side)
    found: dict[str, Timed] = {}
    for name in args.runtime:
        for precision in args.precision:
            label = f"{name} {precision}"
            emulated = args.emulate and (name, precision) == ("torch", "bf16")
            if not emulated and RUNTIMES[name].missing(torch.device("cpu"), precision) is not None:
                continue
            try:
                runtime: Any = (
                    EmulatedBf16(quantizer.network)
                    if emulated
                    else make_runtime(quantizer.network, name, precision, "cpu", quantized=quantized)
                )
                runtime(x, modality)  # compiled before anything is timed
            except RuntimeError as error:
                print(f"{modality}: {label} is left out: {error}", file=sys.stderr)
                continue
            found[label] = Timed(runtime)
    return found


def measure(quantizer: BundleQuantizer, modality: str, others: Mapping[str, Timed], images: Images) -> dict[str, Any]:
    """Agreement and seconds a slice of each of the others, on images of one modality."""
    compare = MaskAgreement(quantizer.inferer, quantizer.network)
    rows: dict[str, list[DiceRow]] = {name: [] for name in others}
    for image, case in quantizer.read(images):
        for name, found in compare(image, modality, others, case=case).items():
            rows[name] += found
    return {
        name: {
            **summarize_agreement(rows[name]).as_json(),
            "images": len(images),
            "side": quantizer.side(modality),
            "median_s_per_slice": statistics.median(others[name].seconds),
        }
        for name in others
    }


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datalist", required=True, type=Path, metavar="LIST", help="its test section is taken")
    parser.add_argument("--bundle", metavar="DIR", help="another bundle than the shipped one")
    parser.add_argument("--ckpt", type=Path, metavar="FILE", help="other weights than the bundle's")
    parser.add_argument("--side", type=int, help="side of the images in pixels; default: as the bundle says")
    parser.add_argument("--modality", nargs="+", help="default: all of the bundle")
    parser.add_argument("--runtime", nargs="+", choices=list(RUNTIMES), default=["torch", "openvino"])
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument(
        "--emulate", action="store_true", help="bf16 in software on processors without it: its masks hold, not its time"
    )
    parser.add_argument("--images", type=int, default=20, help="test images a modality, at most")
    parser.add_argument("--minutes", type=float, default=6.0, help="no new modality begins after so many")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the results")
    args = parser.parse_args()
    start = time.perf_counter()
    quantizer = BundleQuantizer(find_bundle(args.bundle), args.ckpt, args.side)
    listed = CalibrationImages.of_datalist(args.datalist)
    results: dict[str, dict[str, Any]] = {}
    for modality in args.modality or quantizer.network.modalities:
        images = listed.of_modality(modality, assumed=False).held_out[: args.images]
        if not images:
            continue
        if time.perf_counter() - start > 60 * args.minutes:
            print(f"{modality} is left out: {args.minutes:g} minutes have passed (--minutes).", file=sys.stderr)
            continue
        results[modality] = measure(quantizer, modality, usable(args, quantizer, modality), images)
    header = ["modality", "runtime", "side", "images", "masks", "mean Dice", "worst", "ms a slice"]
    table = [[modality, name, *_cells(row)] for modality, by_name in results.items() for name, row in by_name.items()]
    print(format_table(header, table))
    if args.json:
        content = {"machine": describe_machine(), "datalist": args.datalist.name, "section": "test"}
        write_json(args.json, {**content, "means": means(results), "modalities": results})


def means(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """For each runtime and precision the mean over modalities, and the worst case of all."""
    names = dict.fromkeys(name for by_name in results.values() for name in by_name)
    summary = {}
    for name in names:
        rows = [row for by_name in results.values() if (row := by_name.get(name)) and row["masks"]]
        if rows:
            worst = min(rows, key=lambda row: row["worst_dice"])
            mean = statistics.fmean(row["mean_dice"] for row in rows)
            summary[name] = {"mean_dice": mean, "modalities": len(rows), "worst_dice": worst["worst_dice"]}
            summary[name]["worst_case"] = Path(worst["worst_case"]).name
    return summary


def _cells(row: Mapping[str, Any]) -> list[object]:
    milliseconds = f"{1000 * row['median_s_per_slice']:.0f}"
    numbers = [row["side"], row["images"], row["masks"]]
    return [*numbers, _digits(row["mean_dice"]), _digits(row["worst_dice"]), milliseconds]


def _digits(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


if __name__ == "__main__":
    main()
