"""The proof that the frozen part of a network has not moved while the rest was trained."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from esp_medsam_monai.engines.ranks import is_main_rank
from esp_medsam_monai.engines.trainable_parts import TrainableParts
from esp_medsam_monai.io import atomic_path

__all__ = ["FrozenCheck"]

_SHOWN = 5


class FrozenCheck:
    """Handler: SHA-256 of all frozen parameters and buffers at the start of a training, after every epoch and its end.

    ``frozen.json`` holds what is trained and the hashes: ``started`` and, of the last epoch, ``now``. A resumed
    training is compared with the beginning of the first one. Nothing is done when everything is trained.

    Args:
        parts: what is trained.
        output_dir: folder of the run.

    Raises:
        RuntimeError: while training, when something frozen has moved; the message names it, and no checkpoint of that
            epoch is written. At the start of a resumed training, when the frozen weights are others than before.
    """

    def __init__(self, parts: TrainableParts, output_dir: str | os.PathLike[str]) -> None:
        self.parts = parts
        self.path = Path(output_dir) / "frozen.json"
        self._hashes: dict[str, str] = {}
        self._state: dict[str, Any] = {}

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, behind the handler that loads weights."""
        if self.parts.parts is not None:
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.EPOCH_COMPLETED | Events.COMPLETED, self._compare)

    def _start(self, engine: Engine) -> None:
        self._hashes = {name: _sha256(tensor) for name, tensor in self.parts.frozen().items()}
        total = _total(self._hashes)
        if engine.state.epoch > 0 and self._before() not in (None, total):
            raise RuntimeError(
                f"{self.path}: the frozen weights are not those that this training began with. Resume with the "
                "--trainable and the files of before, or start again in another --output_dir."
            )
        self._state = {
            "trained": self.parts.parts,
            "trained_parameters": sum(parameter.numel() for parameter in self.parts.parameters()),
            "frozen_tensors": len(self._hashes),
            "started": total,
        }
        self._write()

    def _before(self) -> str | None:
        """Hash at the start of the training that is resumed, None where nothing says it."""
        if not self.path.is_file():
            return None
        return json.loads(self.path.read_text(encoding="utf-8"))["started"]

    def _compare(self, engine: Engine) -> None:
        now = {name: _sha256(tensor) for name, tensor in self.parts.frozen().items()}
        moved = [name for name, value in now.items() if value != self._hashes[name]]
        if moved:
            more = f" and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
            raise RuntimeError(
                f"frozen, and yet changed in epoch {engine.state.epoch}: {', '.join(moved[:_SHOWN])}{more}. Something "
                "other than the optimizer writes into the network. No checkpoint of this epoch is kept."
            )
        self._state.update(epoch=engine.state.epoch, now=_total(now))
        self._write()

    def _write(self) -> None:
        if is_main_rank():
            with atomic_path(self.path) as temporary:
                temporary.write_text(json.dumps(self._state, indent=1) + "\n", encoding="utf-8")


def _sha256(tensor: torch.Tensor) -> str:
    """Hash of type, shape and bytes."""
    x = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{x.dtype} {tuple(x.shape)}".encode())
    digest.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _total(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()
