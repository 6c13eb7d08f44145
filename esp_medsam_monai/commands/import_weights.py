"""``esp-medsam import-weights``: a bundle out of published weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .pairs import numbers, pairs

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser.

    Args:
        commands: what ``add_subparsers`` returned.
    """
    parser = commands.add_parser(
        "import-weights",
        help="make a bundle out of published ESP-MedSAM weights",
        description="Merge one to six published weight files, one per modality, into a bundle that runs by itself.",
    )
    parser.add_argument("weights", nargs="+", metavar="MODALITY=FILE", help="for instance dermoscopy=skin.pth")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the new bundle")
    parser.add_argument(
        "--separate",
        action="store_true",
        help="one bundle per file, in DIR/MODALITY, for files that do not share a trunk",
    )
    parser.add_argument(
        "--indices",
        nargs="+",
        default=[],
        metavar="MODALITY=INDEX",
        help="published index (0 to 5) of a modality whose name is not one of the published six",
    )
    parser.set_defaults(handler=_run)


def _run(args: argparse.Namespace) -> str:
    from esp_medsam_monai.checkpoints.import_bundle import import_weights

    files = pairs(args.weights, "MODALITY=FILE")
    for name, file in files.items():
        if not Path(file).is_file():
            raise FileNotFoundError(f"{name}: there is no file {file}.")
    indices = numbers(args.indices, "MODALITY=INDEX") or None
    folders = import_weights(files, args.output, indices=indices, separate=args.separate)
    return "\n".join(f"bundle written: {folder}" for folder in folders)
