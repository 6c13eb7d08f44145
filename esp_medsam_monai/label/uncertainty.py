"""Active learning in MONAI Label: images are scored by how unsure the network is, and the least sure come first."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import ImageNotFoundException
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.utils.others.generic import name_to_device
from requests import RequestException

from esp_medsam_monai.engines.reasons import reason_of
from esp_medsam_monai.hashing import stamp_of_files
from esp_medsam_monai.inferers import ImageUncertainty

from .infer_task import SegmentationInferTask, source_of

__all__ = ["UncertaintyScoring", "UncertaintyStrategy"]

_INFO = "uncertainty"
_LOGGER = logging.getLogger(__name__)


class UncertaintyScoring(ScoringMethod):
    """Writes into the datastore how uncertain each image is that nobody has labelled.

    An image's info then holds ``uncertainty``: the numbers of :class:`~esp_medsam_monai.inferers.Uncertainty` and a
    stamp of the weights, or, of an image that cannot be segmented, ``reason`` and the stamp. What was scored with the
    same weights is not scored again.

    MONAI Label starts a scoring in a process of its own at its start, with every image that it serves and after every
    training; an app asks :meth:`has_work` before, for such a process costs seconds also when it finds nothing to do.

    Args:
        infer_task: gives transforms, inferer and network.
        max_samples: images that one run scores at most, those without any score first; 0 for all.
    """

    def __init__(self, infer_task: SegmentationInferTask, max_samples: int = 20) -> None:
        super().__init__("How unsure the network is of an image: entropy of its mask, doubt between mask and prompt")
        self.infer_task = infer_task
        self.max_samples = max_samples

    def pending(self, datastore: Datastore) -> list[str]:
        """Images without a label that the present weights have not scored, those without any score first."""
        weights = self._weights()
        waiting = []
        for image in datastore.get_unlabeled_images():
            known = _known(datastore.get_image_info(image))
            if known.get("weights") != weights:
                waiting.append(("score" in known, image))
        return [image for _, image in sorted(waiting)]

    def has_work(self, datastore: Datastore) -> bool:
        """Whether there is an image to score; no image is read. An archive that does not answer has none at present."""
        try:
            return bool(self.pending(datastore))
        except RequestException as error:
            _LOGGER.warning(f"uncertainty: nothing is scored now: {error}")
            return False

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score images; see MONAI Label.

        Args:
            request: ``max_samples`` for this run, ``device``, and ``modality`` of images that nothing else says it of.
            datastore: has the images and takes the scores.

        Returns:
            Counts ``scored``, ``refused`` and ``waiting`` (for another run), and ``seconds``.
        """
        begin = time.monotonic()
        waiting = self.pending(datastore)
        most = int(request.get("max_samples", self.max_samples)) or len(waiting)
        counts = {"scored": 0, "refused": 0, "waiting": len(waiting[most:])}
        for image in waiting[:most]:
            info = self._score(image, request, datastore)
            if info is not None:
                counts["scored" if "score" in info else "refused"] += 1
        summary = {**counts, "seconds": round(time.monotonic() - begin, 1)}
        _LOGGER.info(f"uncertainty: {summary}")
        return summary

    def _score(self, image: str, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Score one image and keep the result; None when it was removed, or cannot be had at present."""
        weights = self._weights()
        try:
            uri = datastore.get_image_uri(image)
            if not uri or not Path(uri).exists():
                return None
            info = self._measure(uri, request)
        except RequestException as error:
            _LOGGER.warning(f"uncertainty: {image} has no score yet: {error}")
            return None
        except Exception as error:  # whatever a foreign file provokes; one image never costs the others
            info = {"reason": reason_of(error)}
            _LOGGER.warning(f"uncertainty: {image} has no score: {info['reason']}")
        try:
            # The server may have written since: what it knows must not be overwritten by what this process read.
            datastore.refresh()
            datastore.update_image_info(image, {_INFO: {**info, "weights": weights}})
        except ImageNotFoundException:
            return None
        return info

    def _measure(self, uri: str, request: Mapping[str, Any]) -> dict[str, Any]:
        task = self.infer_task
        device = name_to_device(request.get("device"))
        data = {**copy.deepcopy(task.config()), "logging": "warning", **request, "image": uri, "device": device}
        data |= source_of(Path(uri))
        data["image_path"] = data["image"]
        data = task.run_pre_transforms(data, task.pre_transforms(data))
        network = task._get_network(device, data)
        inferer: Any = task.inferer(data)
        return ImageUncertainty(inferer)(data[task.input_key], network).as_json()

    def _weights(self) -> str:
        path = self.infer_task.get_path()
        return stamp_of_files([path]) if path else ""


class UncertaintyStrategy(Strategy):
    """Serves the image that the network is least sure of among those that nobody has labelled.

    Scores of older weights count until there are newer ones. Images without a score follow in the order of their
    names, then those that the network cannot segment, and at last those that were served a short while ago, for
    somebody may be at work on them: of these the one that waits longest.

    Args:
        pause: seconds for which an image that was served gives way to the others.
    """

    def __init__(self, pause: float = 3600.0) -> None:
        super().__init__("The image that the network is least sure of, by the scores of the scoring method uncertainty")
        self.pause = pause

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Choose an image; see MONAI Label.

        Args:
            request: ``strategy``, the name under which images were served; ``label_tag`` and ``labels`` as MONAI Label
                has them.
            datastore: has the images and their scores.

        Returns:
            ``id``, ``uncertainty`` (what is known of the image) and ``note``, a sentence on why it was chosen; None
            when every image has a label.
        """
        images = sorted(datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels")))
        if not images:
            return None
        infos = {image: datastore.get_image_info(image) for image in images}
        now = time.time()
        chosen = min(images, key=lambda image: self._place(infos[image], str(request.get("strategy")), now))
        note = self._note(infos[chosen], any("score" in _known(info) for info in infos.values()))
        _LOGGER.info(f"uncertainty: {chosen}: {note}")
        return {"id": chosen, "uncertainty": _known(infos[chosen]), "note": note}

    def _place(self, info: Mapping[str, Any], strategy: str, now: float) -> tuple[int, float]:
        """Sorts images: group, then place in it."""
        served = float(info.get("strategy", {}).get(strategy, {}).get("ts", 0))
        known = _known(info)
        if now - served < self.pause:
            return 3, served
        if "score" in known:
            return 0, -known["score"]
        return (2 if "reason" in known else 1), 0.0

    @staticmethod
    def _note(info: Mapping[str, Any], some_are_scored: bool) -> str:
        known = _known(info)
        if "score" in known:
            return f"uncertainty {known['score']:.3f} of 1."
        if "reason" in known:
            return f"the network cannot segment it: {known['reason']}"
        if some_are_scored:
            return "it has no score yet; those that have one were labelled or served."
        return f"no image has a score yet: taken by its name. POST /scoring/{_INFO} makes scores."


def _known(info: Mapping[str, Any]) -> dict[str, Any]:
    """What an image's info says of its uncertainty; empty when it was never scored."""
    return dict(info.get(_INFO) or {})
