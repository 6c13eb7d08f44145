"""Best and last state of a training, written so that a crash leaves the file before it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch.optim import Optimizer

from esp_medsam_monai.checkpoints.safe import load_weights
from esp_medsam_monai.io import atomic_path

__all__ = ["TrainingCheckpoints", "check_output_dir"]

_LOGGER = logging.getLogger(__name__)
_COUNTERS = ("epoch", "iteration", "minutes")


def check_output_dir(output_dir: str | os.PathLike[str]) -> Path:
    """A folder for a training's files, created; never the ``models`` folder of a bundle, which holds shipped weights.

    Raises:
        ValueError: when it is, or lies in, a folder ``models`` beside a bundle's ``configs/metadata.json``.
    """
    folder = Path(output_dir).resolve()
    for parent in (folder, *folder.parents):
        if parent.name == "models" and (parent.parent / "configs" / "metadata.json").is_file():
            raise ValueError(f"{output_dir}: holds the weights of a bundle; give another --output_dir.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class TrainingCheckpoints:
    """Handler: ``last.pt`` after every epoch, ``best.pt`` after every validation that beats all before.

    ``last.pt`` holds network, optimizer and the trainer's counters, for going on; ``best.pt`` is a bare state
    dict of tensors, as inference takes it with ``--ckpt``. Without validation images ``best.pt`` is the last state.

    Args:
        output_dir: folder of the run.
        network: network that is trained.
        optimizer: its optimizer.
        validator: evaluator whose key metric decides what is best.
        resume: go on from ``last.pt``; it must be there.
        ckpt: weights to start from, a bare state dict as in ``best.pt``; a resume takes precedence.

    Raises:
        FileExistsError: at the start, when the folder holds a training and ``resume`` is not set.
        FileNotFoundError: at the start, when there is nothing to resume from.
        ValueError: at the start, when the folder is that of a bundle's weights.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        network: nn.Module,
        optimizer: Optimizer,
        validator: Evaluator | None = None,
        resume: bool = False,
        ckpt: str | os.PathLike[str] | None = None,
    ) -> None:
        self.folder = Path(output_dir)
        self.network = network
        self.optimizer = optimizer
        loader: Any = getattr(validator, "data_loader", None)
        self.validator = validator if loader else None
        self.resume = resume
        self.ckpt = ckpt
        self.best: float | None = None

    @property
    def last_path(self) -> Path:
        """``last.pt`` of the run."""
        return self.folder / "last.pt"

    @property
    def best_path(self) -> Path:
        """``best.pt`` of the run."""
        return self.folder / "best.pt"

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, after the handler that validates."""
        engine.add_event_handler(Events.STARTED, self._load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _weights(self) -> dict[str, torch.Tensor]:
        module = getattr(self.network, "module", self.network)
        return {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}

    def _load(self, engine: Engine) -> None:
        check_output_dir(self.folder)
        if self.resume and not self.last_path.is_file():
            raise FileNotFoundError(f"{self.last_path}: nothing to resume from; leave out --resume true.")
        if not self.resume and self.last_path.is_file():
            raise FileExistsError(
                f"{self.folder}: holds a training already. Go on with --resume true, or give another --output_dir."
            )
        module = getattr(self.network, "module", self.network)
        if self.resume:
            state = torch.load(self.last_path, map_location="cpu", weights_only=True)
            module.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.best = state["best"]
            for name in _COUNTERS:
                setattr(engine.state, name, state[name])
            sampler: Any = getattr(getattr(engine, "data_loader", None), "sampler", None)
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(engine.state.epoch)
            _LOGGER.info("%s: going on after epoch %d", self.last_path, engine.state.epoch)
        elif self.ckpt:
            load_weights(self.network, self.ckpt)
            _LOGGER.info("%s: weights to start from", self.ckpt)

    def _is_best(self) -> bool:
        if self.validator is None:
            return True
        state = self.validator.state
        value = state.metrics.get(state.key_metric_name)
        if value is None or (self.best is not None and value <= self.best):
            return False
        self.best = float(value)
        return True

    def _save(self, engine: Engine) -> None:
        weights = self._weights()
        if self._is_best():
            _write(self.best_path, weights)
        _write(
            self.last_path,
            {
                "network": weights,
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                **{name: getattr(engine.state, name, 0) for name in _COUNTERS},
            },
        )


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        torch.save(content, temporary)
