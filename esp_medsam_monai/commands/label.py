"""``esp-medsam label``: the bundle in MONAI Label, ready for 3D Slicer and OHIF."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from esp_medsam_monai.bundle import find_bundle
from esp_medsam_monai.label import MODEL_NAME, prepare_app

__all__ = ["add"]

_APP = "label_app"
_LISTS_LAST = 60  # seconds
_FILES = ("*.nii.gz", "*.nii", "*.png", "*.jpg", "*.jpeg")


def add(commands: Any) -> None:
    """Add the command to a parser.

    Args:
        commands: what ``add_subparsers`` returned.
    """
    parser = commands.add_parser(
        "label",
        help="serve the bundle in MONAI Label",
        description="Start a MONAI Label server that offers the bundle to 3D Slicer and OHIF. It needs no network, "
        "listens on this computer alone unless --host says otherwise, and works on a copy of the bundle.",
    )
    parser.add_argument(
        "studies", metavar="STUDIES", help="folder with NIfTI, PNG and JPEG files, or URL of a DICOMweb server"
    )
    parser.add_argument(
        "--app", default=_APP, type=Path, metavar="DIR", help=f"folder that the server works in (default: {_APP})"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    parser.add_argument("--bundle", metavar="DIR", help="another bundle. A bundle is a program: trust its author first")
    parser.add_argument("--debug", action="store_true", help="tell more, and show the traceback of what goes wrong")
    parser.set_defaults(handler=_run)


def _run(args: argparse.Namespace) -> None:
    """Serve until interrupted.

    Raises:
        FileNotFoundError: when there is no such folder of studies; MONAI Label would make an empty one.
        RuntimeError: when MONAI Label is not installed.
    """
    if not args.studies.startswith(("http://", "https://")) and not Path(args.studies).is_dir():
        raise FileNotFoundError(f"there is no folder {args.studies}; name one with studies, or the URL of a PACS.")
    if importlib.util.find_spec("monailabel") is None:
        raise RuntimeError(
            "MONAI Label is not installed here; it wants an environment of its own: `make label STUDIES=FOLDER`, or pip"
            " install 'esp-medsam-monai[label]' into a new one."
        )
    prepare_app(args.app, find_bundle(args.bundle))
    for name, value in _settings(args.app).items():
        os.environ.setdefault(name, value)
    # MONAI Label looks for dcmqi's programs on the path, and else on the internet.
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    sys.argv = ["monailabel", *_words(args)]
    from monailabel.main import Main  # reads the settings as it is imported

    Main().run()


def _settings(app: Path) -> dict[str, str]:
    """MONAI Label's settings; the environment's own go first."""
    return {
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps(_FILES),
        # What is fetched from an archive lies with the rest of the server's files, and its lists are asked for anew.
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(app.resolve() / "dicom"),
        "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": str(_LISTS_LAST),
    }


def _words(args: argparse.Namespace) -> list[str]:
    # Of these, the model zoo and SAM 2 would be fetched from the internet.
    conf = {"models": MODEL_NAME, "zoo_source": "local", "sam2": "false"}
    return [
        *("start_server", "--app", str(args.app), "--studies", args.studies),
        *("--host", args.host, "--port", str(args.port)),
        *("--uvicorn_app", "esp_medsam_monai.label.server:app"),
        *("--verbose", "DEBUG" if args.debug else "INFO"),
        *(word for key, value in conf.items() for word in ("--conf", key, value)),
    ]
