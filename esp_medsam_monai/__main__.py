"""Command line: ``python -m esp_medsam_monai import-weights`` and ``python -m esp_medsam_monai datalist``.

Only arguments are read here; the work is done by :mod:`esp_medsam_monai.checkpoints` and
:mod:`esp_medsam_monai.engines`, which are imported when their command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__

__all__ = ["main"]

USAGE_ERROR = 2
"""Exit status of a wrong command line or of files that cannot be used, as argparse has it."""


def _pairs(texts: Sequence[str], what: str) -> dict[str, str]:
    """``["xray=a.pth"]`` -> ``{"xray": "a.pth"}``."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name or not value:
            raise ValueError(f"{text!r} is not {what}.")
        if name in pairs:
            raise ValueError(f"{name!r} is given twice: {pairs[name]} and {value}.")
        pairs[name] = value
    return pairs


def _numbers(texts: Sequence[str], what: str) -> dict[str, int]:
    """``["lung=1"]`` -> ``{"lung": 1}``."""
    pairs = _pairs(texts, what)
    for name, value in pairs.items():
        if not value.isdecimal():
            raise ValueError(f"{name}={value!r} is not {what}: {value!r} is no whole number.")
    return {name: int(value) for name, value in pairs.items()}


def _import_weights(args: argparse.Namespace) -> None:
    from .checkpoints.import_bundle import import_weights

    files = _pairs(args.weights, "MODALITY=FILE")
    for name, file in files.items():
        if not Path(file).is_file():
            raise FileNotFoundError(f"{name}: there is no file {file}.")
    indices = _numbers(args.indices, "MODALITY=INDEX") or None
    for folder in import_weights(files, args.output, indices=indices, separate=args.separate):
        print(f"bundle written: {folder}")


def _datalist(args: argparse.Namespace) -> None:
    from .engines.datalist import write_datalist

    labels = _numbers(args.target, "TARGET=VALUE") or None
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
    print(f"{args.output}: " + ", ".join(f"{count} {section}" for section, count in counts.items()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m esp_medsam_monai", description="Tools around the ESP-MedSAM bundle."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    weights = commands.add_parser(
        "import-weights",
        help="make a bundle out of published ESP-MedSAM weights",
        description="Merge one to six published weight files, one per modality, into a bundle that runs by itself.",
    )
    weights.add_argument("weights", nargs="+", metavar="MODALITY=FILE", help="for instance dermoscopy=skin.pth")
    weights.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the new bundle")
    weights.add_argument(
        "--separate",
        action="store_true",
        help="one bundle per file, in DIR/MODALITY, for files that do not share a trunk",
    )
    weights.add_argument(
        "--indices",
        nargs="+",
        default=[],
        metavar="MODALITY=INDEX",
        help="published index (0 to 5) of a modality whose name is not one of the published six",
    )
    weights.set_defaults(handler=_import_weights)

    datalist = commands.add_parser(
        "datalist",
        help="write a datalist for training and evaluation",
        description="Pair the files of two folders by name and split them into training, validation and test.",
    )
    datalist.add_argument("--images", required=True, type=Path, metavar="DIR", help="folder with the images")
    datalist.add_argument(
        "--labels", required=True, type=Path, metavar="DIR", help="folder with a label file per image"
    )
    datalist.add_argument("--modality", required=True, metavar="NAME", help="modality of all these images")
    datalist.add_argument("--output", required=True, type=Path, metavar="FILE", help="the JSON file to write")
    datalist.add_argument(
        "--target",
        nargs="+",
        default=[],
        metavar="TARGET=VALUE",
        help="value of each target in the label files; without it every non-zero value is the modality's one target",
    )
    datalist.add_argument(
        "--fractions",
        nargs=3,
        type=float,
        default=[0.7, 0.1, 0.2],
        metavar=("TRAINING", "VALIDATION", "TEST"),
        help="shares of the cases (default: 0.7 0.1 0.2)",
    )
    datalist.add_argument("--domain", metavar="NAME", help="name of the set, for tables per set")
    datalist.add_argument("--append", action="store_true", help="add to FILE, for instance a second modality")
    datalist.add_argument("--seed", type=int, default=0, help="seed of the split (default: 0)")
    datalist.set_defaults(handler=_datalist)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after the program's name; None takes them from the command line.

    Returns:
        Exit status: 0 when the command did its work, 2 when its arguments or files cannot be used. What is wrong goes
        to the standard error; a traceback is left to errors of the program itself.
    """
    args = _parser().parse_args(argv)
    try:
        args.handler(args)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{args.command}: {error}", file=sys.stderr)
        return USAGE_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
