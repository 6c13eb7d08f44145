"""The folder that a MONAI Label server works in: the app, and a copy of the bundle that training may change."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from esp_medsam_monai.bundle import missing_weights

__all__ = ["MODEL_NAME", "prepare_app"]

MODEL_NAME = "esp_medsam"
"""Name of the model in the server's lists."""

_MAIN = '''"""The app that `esp-medsam label` serves; MONAI Label looks for its class in this file."""

from esp_medsam_monai.label.app import ESPMedSAMApp

__all__ = ["ESPMedSAMApp"]
'''


def prepare_app(folder: str | os.PathLike[str], bundle: Path) -> Path:
    """Make the folder of an app, or bring it up to date.

    Configs are those of the bundle at every start. Weights are copied once: what a training on the server has made of
    them stays, and the bundle that they came from is never written to.

    Args:
        folder: made when missing.
        bundle: the bundle to serve, with its weights.

    Returns:
        The folder of the bundle's copy, ``folder/model/esp_medsam``.

    Raises:
        FileNotFoundError: when the bundle has no weights.
        FileExistsError: when there is a folder that holds something else.
    """
    app = Path(folder)
    copy = app / "model" / MODEL_NAME
    main = app / "main.py"
    if app.is_dir() and any(app.iterdir()) and not main.is_file():
        raise FileExistsError(f"{app} holds other things than an app; name a new or empty folder with --app DIR.")
    if main.is_file() and "ESPMedSAMApp" not in main.read_text(encoding="utf-8", errors="replace"):
        raise FileExistsError(f"{main} is another app's; name a new or empty folder with --app DIR.")
    if copy.resolve() == bundle.resolve():
        raise FileExistsError(f"{bundle} is the copy that the server works on; name the bundle that it came from.")
    weights = copy / "models" / "model.pt"
    if not weights.is_file() and (problem := missing_weights(bundle)):
        raise FileNotFoundError(problem)
    app.mkdir(parents=True, exist_ok=True)
    main.write_text(_MAIN, encoding="utf-8")
    shutil.rmtree(copy / "configs", ignore_errors=True)
    shutil.copytree(bundle / "configs", copy / "configs")
    if not weights.is_file():
        # Under another name first: a start that is killed here leaves nothing that looks like weights.
        partial = copy / "models.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(bundle / "models", partial)
        shutil.rmtree(copy / "models", ignore_errors=True)
        partial.rename(copy / "models")
    return copy
