"""``esp-medsam quantize``: int8 models of a bundle, kept where their masks agree with those in floats."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esp_medsam_monai.bundle import find_bundle, missing_weights

if TYPE_CHECKING:
    from esp_medsam_monai.engines.quantization import Quantized

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser.

    Args:
        commands: what ``add_subparsers`` returned.
    """
    parser = commands.add_parser(
        "quantize",
        help="make int8 models for --precision int8",
        description="Quantise the bundle's network for each modality with real images, compare its masks with those of "
        "the network in floats on other images, and keep what agrees in models/int8 of the bundle.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--datalist",
        type=Path,
        metavar="LIST",
        help="datalist: training and validation to calibrate with, test to measure on; labels are not needed",
    )
    source.add_argument(
        "--dataset_dir",
        type=Path,
        metavar="IN",
        help="folder with images, searched to the bottom: two thirds to calibrate with, the others to measure on",
    )
    parser.add_argument(
        "--modality",
        nargs="+",
        metavar="NAME",
        help="modalities to quantise (default: all that have images); one name also tells what the images are",
    )
    parser.add_argument("--side", type=int, metavar="PIXELS", help="side of the images (default: as the bundle says)")
    parser.add_argument("--bundle", metavar="DIR", help="another bundle than the one that came with the package")
    parser.add_argument("--ckpt", type=Path, metavar="FILE", help="other weights than the bundle's")
    parser.add_argument(
        "--images", type=int, default=64, metavar="N", help="squares to calibrate with, a modality (default: 64)"
    )
    parser.add_argument(
        "--held_out", type=int, default=30, metavar="N", help="images to measure on, a modality (default: 30)"
    )
    parser.add_argument(
        "--minimum_dice",
        type=float,
        default=0.99,
        metavar="DICE",
        help="lowest mean Dice between the masks that is kept (default: 0.99)",
    )
    parser.set_defaults(handler=_run)


def _run(args: argparse.Namespace) -> str:
    if args.images < 1 or args.held_out < 1 or not 0 <= args.minimum_dice <= 1:
        raise ValueError("--images and --held_out should be at least 1, --minimum_dice in 0..1.")
    if args.side is not None and (args.side < 32 or args.side % 32):
        raise ValueError(f"--side should be a multiple of 32, got {args.side}.")
    bundle = find_bundle(args.bundle)
    if problem := missing_weights(bundle, args.ckpt):
        raise FileNotFoundError(problem)
    from tqdm import tqdm

    from esp_medsam_monai.engines.calibration import CalibrationImages
    from esp_medsam_monai.engines.quantization import BundleQuantizer
    from esp_medsam_monai.runtimes.quantize import missing_for_int8

    from .quiet import quiet_monai

    if problem := missing_for_int8():
        raise RuntimeError(problem)
    with quiet_monai():
        found = (
            CalibrationImages.of_datalist(args.datalist)
            if args.datalist
            else CalibrationImages.of_folder(args.dataset_dir)
        )
        quantizer = BundleQuantizer(bundle, args.ckpt, args.side)
        known = list(quantizer.network.modalities)
        for name in args.modality or ():
            if name not in known:
                raise ValueError(f"there is no modality {name!r} in these weights; they have {', '.join(known)}.")
        results: list[Quantized] = []
        for name in tqdm(args.modality or known, desc="modalities", leave=False, disable=None):
            entries = found.of_modality(name, assumed=args.modality == [name])
            if not entries.calibration or not entries.held_out:
                if args.modality:
                    raise ValueError(
                        f"{args.datalist or args.dataset_dir}: {len(entries.calibration)} images of {name} to calibrate"
                        f" with and {len(entries.held_out)} to measure on; at least one of each is needed."
                    )
                continue
            results.append(quantizer(name, entries, args.images, args.held_out, args.minimum_dice))
    if not results:
        raise ValueError(f"{args.datalist or args.dataset_dir}: no images of {', '.join(known)} to calibrate with.")
    return _table(results, args.minimum_dice)


def _table(results: Sequence[Quantized], minimum: float) -> str:
    """Result by modality, and what was not kept."""
    header = (
        f"{'modality':<14} {'side':>5} {'calibrated':>10} {'masks':>6} {'mean Dice':>9} {'worst':>7} {'MB':>6}  kept"
    )
    lines = [header]
    for row in results:
        agreement = row.agreement
        mean, worst = (
            "-" if value is None else f"{value:.4f}" for value in (agreement.mean_dice, agreement.worst_dice)
        )
        lines.append(
            f"{row.modality:<14} {row.side:>5} {row.images:>10} {agreement.masks:>6} {mean:>9} {worst:>7}"
            f" {row.megabytes:>6.1f}  {'yes' if row.path else 'no'}"
        )
    lines += [f"worst of {row.modality}: {row.agreement.worst_case}" for row in results if row.agreement.worst_case]
    dropped = [row.modality for row in results if row.path is None]
    if dropped:
        lines.append(f"not kept, as the mean Dice is below {minimum:g}: {', '.join(dropped)}. Use another precision.")
    kept = [row.path for row in results if row.path]
    if kept:
        lines.append(f"written to {kept[0].parent}; use them with --runtime openvino --precision int8")
    return "\n".join(lines)
