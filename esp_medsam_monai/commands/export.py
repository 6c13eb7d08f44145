"""``esp-medsam export``: the network of a bundle as an ONNX file, compared with the network before it is trusted."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from esp_medsam_monai.bundle import bundle_weights, find_bundle, missing_weights

from .quiet import quiet_monai

__all__ = ["add"]

_ALL = "all"


def add(commands: Any) -> None:
    """Add the command to a parser.

    Args:
        commands: what ``add_subparsers`` returned.
    """
    parser = commands.add_parser(
        "export",
        help="write the network as an ONNX file",
        description="Write the network of a bundle as one ONNX file and compare it with the network, if onnxruntime is "
        "installed. Its input `image` (batch, 3, side, side) is normalised as its metadata say; its output `logits` "
        "has a channel for each target. --modality all has a second input, `modality`: the number of each image's "
        "modality.",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.onnx", help="the file to write")
    parser.add_argument("--modality", default=_ALL, metavar="NAME", help="one modality, or all (default: all)")
    parser.add_argument(
        "--side", type=int, metavar="PIXELS", help="side of the images, a multiple of 32 (default: the modality's)"
    )
    parser.add_argument("--bundle", metavar="DIR", help="another bundle. A bundle is a program: trust its author first")
    parser.add_argument("--ckpt", metavar="FILE", help="other weights than the bundle's models/model.pt")
    parser.add_argument(
        "--new_targets",
        "--new-targets",
        type=yaml.safe_load,
        metavar="TABLE",
        help="{modality: [targets]} that the weights were fine-tuned with",
    )
    parser.set_defaults(handler=_run)


def _run(args: argparse.Namespace) -> str:
    bundle = find_bundle(args.bundle)
    if problem := missing_weights(bundle, args.ckpt):
        raise FileNotFoundError(problem)
    with quiet_monai():
        return _export(bundle, args)


def _export(bundle: Path, args: argparse.Namespace) -> str:
    """Build, load, write, compare; what to say."""
    from monai.bundle import ConfigParser

    from esp_medsam_monai.checkpoints import load_weights
    from esp_medsam_monai.modalities import image_side
    from esp_medsam_monai.runtimes import check_onnx, decided_images, export_onnx, missing_for_check

    config = ConfigParser()
    config.read_config(str(bundle / "configs" / "inference.yaml"))
    if args.new_targets:
        config["new_targets"] = args.new_targets
    network = config.get_parsed_content("network_def").eval()
    modality = None if args.modality == _ALL else args.modality
    if modality is not None:
        network.modality_index(modality)
    sides = config.get_parsed_content("image_sizes")
    side = args.side or image_side(modality, config.get_parsed_content("image_size"), sides)
    digest = load_weights(network, args.ckpt or bundle_weights(bundle))
    stated = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    divisor = config.get_parsed_content("divisor")
    properties = {
        "bundle": f"{stated.get('name')} {stated.get('version')}",
        "weights_sha256": digest,
        "terms": str(stated.get("intended_use")),
        **_normalization(divisor),
    }
    export_onnx(network, args.output, modality, side, properties=properties)
    lines = [f"written: {args.output}, {args.output.stat().st_size / 1e6:.1f} MB, side {side}, {args.modality}"]
    larger = {name: own for name, own in (sides or {}).items() if own > side}
    if modality is None and larger:
        told = ", ".join(f"{name} at {own}" for name, own in larger.items())
        lines.append(f"note: the weights were trained for {told}; export these alone for the masks of `segment`.")
    if (reason := missing_for_check()) is not None:
        return "\n".join([*lines, f"not checked: {reason}"])
    try:
        found = check_onnx(args.output, network, decided_images(network, side, modality))
    except ValueError:
        args.output.unlink()
        raise
    return "\n".join([*lines, f"checked: single images and a batch, logits differ by at most {found:.1e}"])


def _normalization(divisor: str) -> dict[str, str]:
    """What to do with an image of values 0 to 255 before it goes into the file, in its own words and numbers."""
    import torch

    from esp_medsam_monai.transforms import NormalizeSlices

    normalize = NormalizeSlices(divisor)
    black, white = (normalize(torch.full((3, 1, 1), value)).double() for value in (0.0, 255.0))
    scale = 255 / (white - black)
    return {
        "normalization": "(value - mean) / divisor, values 0 to 255, channels red, green, blue",
        "mean": json.dumps([round(float(each), 3) for each in -black * scale]),
        "divisor": json.dumps([round(float(each), 3) for each in scale]),
    }
