"""Training in MONAI Label: the bundle's own fine-tuning on the labels that users saved, whose result is then served."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monai.bundle
from filelock import Timeout
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from esp_medsam_monai.bundle import bundle_weights, config_options
from esp_medsam_monai.engines.reasons import reason_of
from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.hashing import sha256_of
from esp_medsam_monai.io.claims import lock_in
from esp_medsam_monai.modalities import modality_choices

from .infer_task import source_of
from .published_weights import publish, repair
from .saved_labels import SavedLabel, stated_names
from .server_watch import ServerWatch
from .train_options import VAL_SPLIT, TrainOptions
from .training_folder import TrainingFolder, last_result

__all__ = ["SegmentationTrainTask"]

_CONFIGS = ("train.yaml", "finetune.yaml", "label.yaml")
_WAIT = 15.0  # seconds; a training whose server was killed notices within a few
_LINES_ARE_READ = 1.0  # seconds
_LOGGER = logging.getLogger(__name__)


class SegmentationTrainTask(BundleTrainTask):
    """Trains the served bundle on saved labels; what comes out better is served from then on.

    What learns are the parts of the labelled modalities alone, so that all others segment as before, to the bit. Every
    training has a folder of its own below ``trainings``, beside ``model``; there lie its datalist, history and result.
    One runs at a time. When it fails, is stopped or loses its server, the weights stay as they were; see
    :mod:`esp_medsam_monai.label.published_weights`.

    Request parameters: those of :class:`TrainOptions`.

    Args:
        path: folder of the bundle's copy.
        conf: the server's ``--conf``.
    """

    def __init__(self, path: str, conf: dict[str, str]) -> None:
        super().__init__(path, conf)
        self.bundle = Path(path)
        self.trainings = self.bundle.parents[1] / "trainings"
        repair(self.bundle)

    def config(self) -> dict[str, Any]:
        """Parameters that a client may set, with their defaults."""
        defaults = {option.name: option.default for option in config_options(self._config_files()[-1])}
        return {
            "modality": modality_choices(self._modalities()),
            "max_epochs": defaults["max_epochs"],
            "val_split": VAL_SPLIT,
            "lr": defaults["lr"],
            "device": device_list(),
        }

    def stats(self) -> dict[str, Any]:
        """What the last training told, see :class:`TrainingFolder`; empty before the first."""
        return last_result(self.trainings)

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train; see MONAI Label.

        Args:
            request: the request's parameters.
            datastore: gives the labels that were saved with the tag ``final``.

        Returns:
            The result, see :class:`TrainingFolder`.

        Raises:
            InputRefused: when the training ends without a result, inside the server's own process.
            SystemExit: the same in a process of its own, after the reason was logged.
        """
        try:
            with ServerWatch() as watch:
                return self._train(request, datastore, watch)
        except (Exception, SystemExit) as error:
            reason = _reason(error)
            _LOGGER.error(reason)
            if not _in_own_process():
                raise InputRefused(*reason.split(": ", 1)) from error
            raise SystemExit(1) from error
        finally:
            # MONAI Label stops reading when the process has ended, whatever is left to read.
            time.sleep(_LINES_ARE_READ if _in_own_process() else 0)

    def _train(self, request: Mapping[str, Any], datastore: Datastore, watch: ServerWatch) -> dict[str, Any]:
        modalities = self._modalities()
        options = TrainOptions.of(_with_device(request), modalities)
        lock = lock_in(self.bundle, "training")
        try:
            lock.acquire(timeout=_WAIT)
        except Timeout as error:
            text = "another training of this model is running; wait for it, or stop it."
            raise InputRefused("TRAINING_RUNS", text) from error
        try:
            repair(self.bundle)
            folder = TrainingFolder.create(self.trainings)
            try:
                learning = folder.write_datalist(saved_labels(datastore), modalities, options)
                weights = Path(bundle_weights(self.bundle))
                started_from = sha256_of(weights)
                self._run(folder, options, trainable_parts(modalities, learning))
                result = folder.result()
                if result["better"]:
                    if not watch.lives:
                        raise InputRefused("SERVER_GONE", "nobody waits for the result; the weights stay as they are.")
                    publish(self.bundle, folder.best, started_from)
                return folder.tell(result, weights)
            finally:
                folder.remove_weights()
        finally:
            lock.release()

    def _run(self, folder: TrainingFolder, options: TrainOptions, trainable: list[str]) -> None:
        """MONAI's own run of the bundle's configs."""
        monai.bundle.run(
            run_id="run",
            meta_file=self.bundle_metadata_path,
            config_file=self._config_files(),
            # In the server's own process the logging is the server's.
            logging_file=None if _in_own_process() else False,  # type: ignore[arg-type]
            bundle_root=str(self.bundle),
            output_dir=str(folder.path),
            datalist=str(folder.datalist),
            trainable=trainable,
            check_data=False,  # each entry was looked at, so that one that is refused does not cost the others
            **options.overrides(),
        )

    def _config_files(self) -> list[str]:
        return [str(self.bundle / "configs" / name) for name in _CONFIGS]

    def _modalities(self) -> dict[str, list[str]]:
        return self.bundle_config.get_parsed_content("modalities")


def trainable_parts(modalities: Mapping[str, list[str]], learning: list[str]) -> list[str]:
    """Names of what modalities have to themselves: controllers, and queries and hyper-network MLPs of their targets.

    Args:
        modalities: the network's ``{modality: [targets]}``.
        learning: the modalities that were labelled.

    Returns:
        Dotted names for :class:`~esp_medsam_monai.engines.TrainableParts`.
    """
    own = [f"controllers.{modality}" for modality in learning]
    names = [f"{modality}_{target}" for modality in learning for target in modalities[modality]]
    return own + [f"mask_decoder.{kind}.{name}" for kind in ("queries", "hyper_mlps") for name in names]


def saved_labels(datastore: Datastore) -> list[SavedLabel]:
    """The labels with the tag ``final``, with what the server noted of image and label."""
    tag = DefaultLabelTag.FINAL
    ids = {datastore.get_image_uri(image): image for image in datastore.get_labeled_images(tag)}
    found = []
    for entry in datastore.datalist():
        image = ids.get(entry["image"], "")
        info = datastore.get_image_info(image) if image else {}
        names = stated_names(datastore.get_label_info(image, tag)) if image else {}
        source = source_of(Path(entry["image"])).get("image")
        found.append(SavedLabel(entry["image"], entry["label"], source, info.get("Modality"), names))
    return found


def _with_device(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request with torch's name of the device, of which MONAI Label shows clients the maker's."""
    device = request.get("device")
    return {**request, **({"device": name_to_device(device)} if device and isinstance(device, str) else {})}


def _in_own_process() -> bool:
    """Whether MONAI Label started this process for one task."""
    return getattr(sys.modules["__main__"].__spec__, "name", "") == "monailabel.interfaces.utils.app"


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"STOPPED: {error.code if isinstance(error.code, str) else 'the run ended itself; see the lines above.'}"
    reason = reason_of(error)
    if reason.startswith("INTERNAL_ERROR"):
        _LOGGER.error("the training failed", exc_info=error)
    return reason
