"""The app of a MONAI Label server: its own ``monaibundle`` app, with our tasks in it."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.exception import ImageNotFoundException
from monailabel.utils.async_tasks.utils import processes
from monailabel.utils.others.class_utils import module_from_file

from esp_medsam_monai.errors import find_refusal

from .dicomweb import connect
from .infer_task import SegmentationInferTask
from .train_task import SegmentationTrainTask
from .uncertainty import UncertaintyScoring, UncertaintyStrategy

__all__ = ["ESPMedSAMApp"]

STRATEGY = "uncertainty"


def _monaibundle_app() -> Any:
    """Class of the ``monaibundle`` app, which MONAI Label installs as data and no package imports.

    Raises:
        RuntimeError: when the installed MONAI Label lacks it.
    """
    for file in importlib.metadata.files("monailabel") or ():
        if file.as_posix().endswith("sample-apps/monaibundle/main.py"):
            return module_from_file("monaibundle_app", str(file.locate())).MyApp
    raise RuntimeError("MONAI Label lacks its monaibundle app; install monailabel==0.8.5 again.")


class ESPMedSAMApp(_monaibundle_app(), MONAILabelApp):  # type: ignore[misc]
    """Serves bundles of this family: named refusals, the fast runtimes, training into a copy, uncertain images first.

    Args:
        app_dir: folder of :func:`~esp_medsam_monai.label.prepare_app`.
        studies: folder of studies, or URL of a DICOMweb server.
        conf: the server's ``--conf``; ``models`` names the folders under ``app_dir/model``.
    """

    def _init_dicomweb_datastore(self) -> Any:
        return connect(self.studies, lambda: next(iter(self._infers.values())).network.modalities)

    def init_infers(self) -> dict[str, Any]:
        """One task a bundle; see MONAI Label."""
        return {name: SegmentationInferTask(path, self.conf) for name, path in self.models.items()}

    def init_trainers(self) -> dict[str, Any]:
        """One task a bundle; see MONAI Label."""
        return {name: SegmentationTrainTask(path, self.conf) for name, path in self.models.items()}

    def init_strategies(self) -> dict[str, Any]:
        """``uncertainty`` beside those of MONAI Label."""
        return {**super().init_strategies(), STRATEGY: UncertaintyStrategy()}

    def init_scoring_methods(self) -> dict[str, Any]:
        """``uncertainty`` of the first model, which the strategy of this name reads."""
        return {STRATEGY: UncertaintyScoring(next(iter(self._infers.values())))}

    def async_scoring(self, method: str | None, params: Any = None) -> Any:
        """Start a scoring in a process of its own; of its own accord not for nothing, nor while one is at work."""
        if method is None and (
            processes("scoring") or not any(each.has_work(self.datastore()) for each in self._scoring_methods.values())
        ):
            return {}
        return super().async_scoring(method, params)

    def infer(self, request: dict[str, Any], datastore: Any = None) -> Any:
        """Segment one image; see MONAI Label.

        Raises:
            ImageNotFoundException: when there is no such study, or it is gone.
            InputRefused: when the image, or what the request says of it, is refused.
        """
        image = request.get("image")
        if isinstance(image, str) and not os.path.exists(image):  # noqa: PTH110 - names may be too long for Path
            _find_study(datastore or self.datastore(), image)
        return _unwrapped(lambda: super(ESPMedSAMApp, self).infer(request, datastore))


def _find_study(datastore: Any, image: str) -> None:
    uri = datastore.get_image_uri(image)
    if not uri or not os.path.exists(uri):  # noqa: PTH110
        raise ImageNotFoundException(f"there is no study {image!r} among {datastore.name()}; it may have been removed.")


def _unwrapped(call: Callable[[], Any]) -> Any:
    """What a call returns; of what it raises, the refusal inside."""
    try:
        return call()
    except Exception as error:
        refusal = find_refusal(error)
        if refusal is None or refusal is error:
            raise
        raise refusal from error
