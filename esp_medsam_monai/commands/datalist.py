"""``esp-medsam datalist``: a datalist for training and evaluation out of two folders."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .pairs import numbers

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser.

    Args:
        commands: what ``add_subparsers`` returned.
    """
    parser = commands.add_parser(
        "datalist",
        help="write a datalist for training and evaluation",
        description="Pair the files of two folders by name and split them into training, validation and test.",
    )
    parser.add_argument("--images", required=True, type=Path, metavar="DIR", help="folder with the images")
    parser.add_argument("--labels", required=True, type=Path, metavar="DIR", help="folder with a label file per image")
    parser.add_argument("--modality", required=True, metavar="NAME", help="modality of all these images")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the JSON file to write")
    parser.add_argument(
        "--target",
        nargs="+",
        default=[],
        metavar="TARGET=VALUE",
        help="value of each target in the label files; without it every non-zero value is the modality's one target",
    )
    parser.add_argument(
        "--fractions",
        nargs=3,
        type=float,
        default=[0.7, 0.1, 0.2],
        metavar=("TRAINING", "VALIDATION", "TEST"),
        help="shares of the cases (default: 0.7 0.1 0.2)",
    )
    parser.add_argument("--domain", metavar="NAME", help="name of the set, for tables per set")
    parser.add_argument("--append", action="store_true", help="add to FILE, for instance a second modality")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split (default: 0)")
    parser.set_defaults(handler=_run)


def _run(args: argparse.Namespace) -> str:
    from esp_medsam_monai.engines.datalist import write_datalist

    labels = numbers(args.target, "TARGET=VALUE") or None
    counts = write_datalist(
        args.images,
        args.labels,
        args.output,
        modality=args.modality,
        targets=labels,
        fractions=tuple(args.fractions),
        seed=args.seed,
        domain=args.domain,
        append=args.append,
    )
    return f"{args.output}: " + ", ".join(f"{count} {section}" for section, count in counts.items())
