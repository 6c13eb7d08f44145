"""The numbers of a training step, for every handler that writes them somewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ignite.engine import Engine

from esp_medsam_monai.engines.training import step_loss

__all__ = ["learning_rate", "loss_parts", "training_scalars"]


def loss_parts(output: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The parts of the loss, unweighted.

    Args:
        output: of a ``TrainingStep``: ``loss_parts``, ``{name: number}``, where the loss has parts.
    """
    return {name: float(value) for name, value in output[0].get("loss_parts", {}).items()}


def learning_rate(trainer: Engine) -> float:
    """Learning rate of the optimizer's first group."""
    engine: Any = trainer
    return float(engine.optimizer.param_groups[0]["lr"])


def training_scalars(trainer: Engine) -> dict[str, float]:
    """What TensorBoard and MLflow get of every step: ``train_loss``, ``train_loss_<part>``, ``learning_rate``."""
    state: Any = trainer.state
    return {
        "train_loss": step_loss(state.output),
        **{f"train_loss_{name}": value for name, value in loss_parts(state.output).items()},
        "learning_rate": learning_rate(trainer),
    }
