"""``esp-medsam label-rollback``: a MONAI Label server serves former weights again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from esp_medsam_monai.label import MODEL_NAME

__all__ = ["add"]

_TO = ("shipped", "previous")


def add(commands: Any) -> None:
    """Add the command to a parser.

    Args:
        commands: what ``add_subparsers`` returned.
    """
    parser = commands.add_parser(
        "label-rollback",
        help="undo what trainings on a MONAI Label server have learned",
        description="Serve former weights again: those that the bundle came with, or those before the last change. A "
        "running server takes them with its next request. The weights served until now become the previous ones.",
    )
    parser.add_argument("app", type=Path, metavar="APP", help="folder that the server works in, its --app")
    parser.add_argument("--to", choices=_TO, default=_TO[0], help=f"which weights (default: {_TO[0]})")
    parser.set_defaults(handler=_run)


def _run(args: argparse.Namespace) -> str:
    bundle = args.app / "model" / MODEL_NAME
    if not bundle.is_dir():
        raise FileNotFoundError(f"{args.app} is not the folder of a server: there is no {bundle}; name its --app.")
    from esp_medsam_monai.label.published_weights import rollback

    digest = rollback(bundle, args.to)
    return f"{bundle / 'models' / 'model.pt'} holds the {args.to} weights again (SHA-256 {digest})."
