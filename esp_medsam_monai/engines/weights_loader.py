"""Weights are loaded when a run begins, so that a workflow can be built and looked at without them."""

from __future__ import annotations

import os
from pathlib import Path

import torch.nn as nn
from ignite.engine import Engine, Events

from esp_medsam_monai.checkpoints.safe import load_weights

__all__ = ["WeightsLoader"]


class WeightsLoader:
    """Handler: load a network's weights strictly at the start of a run.

    MONAI's ``CheckpointLoader`` loads on strict terms too, but its errors name neither the file nor the remedy, and it
    keeps half precision out of a float network silently. Path and SHA-256 of the file are noted in
    ``engine.state.weights`` and ``engine.state.weights_sha256`` for reports; a hash stated beside the file must agree.

    Args:
        network: takes the weights.
        bundle_root: bundle whose ``models/model.pt`` is taken when ``ckpt`` is None.
        ckpt: another file of weights.
    """

    def __init__(
        self, network: nn.Module, bundle_root: str | os.PathLike[str], ckpt: str | os.PathLike[str] | None = None
    ) -> None:
        self.network = network
        self.path = Path(ckpt) if ckpt else Path(bundle_root) / "models" / "model.pt"

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self._load)

    def _load(self, engine: Engine) -> None:
        engine.state.weights_sha256 = load_weights(self.network, self.path)  # type: ignore[attr-defined]
        engine.state.weights = str(self.path)  # type: ignore[attr-defined]
