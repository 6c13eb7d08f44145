"""Whether the uncertainty score finds the images that the network segments badly.

``python benchmarks/uncertainty.py --datalist LIST.json [--json FILE]``. Each test image is scored without its label and
compared with it afterwards: rank correlation (Spearman) of the score, and of its two parts, with one minus Dice (mean
over targets), and the mean Dice of the quarter with the highest scores beside that of all. 0 means that the score says
nothing; the interval is that of 2000 bootstrap samples.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import describe_machine, format_table, write_json
from esp_medsam_monai.transforms import evaluation_transforms
from scipy.stats import spearmanr

from esp_medsam_monai.bundle import find_bundle
from esp_medsam_monai.engines import datalist_labels, read_datalist
from esp_medsam_monai.engines.dice_table import dice_rows
from esp_medsam_monai.engines.quantization import BundleQuantizer
from esp_medsam_monai.engines.reasons import reason_of
from esp_medsam_monai.inferers import ImageUncertainty

PARTS = ("score", "entropy", "disagreement")
SAMPLES = 2000


@dataclass(frozen=True)
class Case:
    """One image: its scores and what they should tell of."""

    image: str
    modality: str
    dice: float
    score: float
    entropy: float
    disagreement: float


def measure(quantizer: BundleQuantizer, entries: Sequence[dict[str, Any]], args: argparse.Namespace) -> list[Case]:
    """Score and Dice of every entry; one that cannot be read, or shows no target at all, is left out."""
    network, inferer = quantizer.network, quantizer.inferer
    transform = evaluation_transforms(network.modalities, label_values=datalist_labels(args.datalist))
    score = ImageUncertainty(inferer, args.slices)
    cases = []
    for entry in entries:
        try:
            data = transform(dict(entry))
        except Exception as error:  # whatever a foreign file provokes
            print(f"{entry['image']} is left out: {reason_of(error)}", file=sys.stderr)
            continue
        image, modality = data["image"], data["modality"]
        found = score(image, network)
        mask = inferer(image.unsqueeze(0), network)[0].as_tensor()
        values = inferer.targets(network, modality)
        rows = dice_rows(mask, data["label"].as_tensor(), values, case=entry["image"], modality=modality)
        dice = [row.dice for row in rows if row.dice is not None]
        if dice:
            parts = (found.score, found.entropy, found.disagreement or 0.0)
            cases.append(Case(Path(entry["image"]).name, modality, statistics.fmean(dice), *parts))
    return cases


def correlation(cases: Sequence[Case], part: str) -> tuple[float, float, float]:
    """Spearman's rank correlation of a part with one minus Dice, and its 95 % interval."""
    x = np.array([getattr(case, part) for case in cases])
    y = 1 - np.array([case.dice for case in cases])
    generator = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a sample of equal values has no correlation
        drawn = [generator.integers(0, len(x), len(x)) for _ in range(SAMPLES)]
        found = np.array([spearmanr(x[i], y[i]).statistic for i in drawn])
        low, high = np.nanpercentile(found, (2.5, 97.5))
        return float(spearmanr(x, y).statistic), float(low), float(high)


def summary(cases: Sequence[Case]) -> dict[str, Any]:
    """What the table shows of one modality."""
    chosen = sorted(cases, key=lambda case: -case.score)[: max(1, len(cases) // 4)]
    return {
        "images": len(cases),
        "mean_dice": statistics.fmean(case.dice for case in cases),
        "dice_of_most_uncertain_quarter": statistics.fmean(case.dice for case in chosen),
        "spearman": {part: correlation(cases, part) for part in PARTS},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datalist", required=True, type=Path, metavar="LIST", help="images with labels")
    parser.add_argument("--section", default="test", help="of the datalist (default: test)")
    parser.add_argument("--bundle", metavar="DIR", help="another bundle than the shipped one")
    parser.add_argument("--modality", nargs="+", help="default: all of the bundle")
    parser.add_argument("--images", type=int, default=60, help="images a modality, at most")
    parser.add_argument("--slices", type=int, default=32, help="slices of a volume that are looked at, at most")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the results")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    quantizer = BundleQuantizer(find_bundle(args.bundle))
    listed = read_datalist(args.datalist, args.section)
    results: dict[str, Any] = {}
    every: list[Case] = []
    for modality in args.modality or quantizer.network.modalities:
        entries = [entry for entry in listed if entry.get("modality") == modality][: args.images]
        cases = measure(quantizer, entries, args)
        every += cases
        if len(cases) > 3:
            results[modality] = summary(cases)
    header = ["modality", "images", "Dice", "of the least sure quarter", *(f"rho {part}" for part in PARTS)]
    print(format_table(header, [[name, *_cells(row)] for name, row in results.items()]))
    if args.json:
        content = {"machine": describe_machine(), "datalist": args.datalist.name, "section": args.section}
        write_json(args.json, {**content, "modalities": results, "cases": [asdict(case) for case in every]})


def _cells(row: dict[str, Any]) -> list[object]:
    rho = ["{:.2f} ({:.2f} to {:.2f})".format(*row["spearman"][part]) for part in PARTS]
    return [row["images"], f"{row['mean_dice']:.3f}", f"{row['dice_of_most_uncertain_quarter']:.3f}", *rho]


if __name__ == "__main__":
    main()
