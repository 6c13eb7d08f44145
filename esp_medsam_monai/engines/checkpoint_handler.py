"""Best and last state of a training, written so that a kill at any moment leaves something to go on from."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn as nn
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.utils.misc import str2bool
from torch.optim import Optimizer
from torch.serialization import get_unsafe_globals_in_checkpoint

from esp_medsam_monai.checkpoints.safe import load_weights
from esp_medsam_monai.engines.ema import EMAWeights
from esp_medsam_monai.engines.output_dir import check_output_dir
from esp_medsam_monai.engines.ranks import barrier, from_main_rank, is_main_rank
from esp_medsam_monai.io.atomic import atomic_path, remove_partials

__all__ = ["TrainingCheckpoints", "read_checkpoint"]

_LOGGER = logging.getLogger(__name__)
_COUNTERS = ("epoch", "iteration", "minutes")


class _HasState(Protocol):
    """Anything that a checkpoint can keep."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


class _Starts(Protocol):
    """What gives a network its first weights."""

    def load(self) -> Any: ...


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """State of a training, read without running anything that the file may hold.

    Args:
        path: ``last.pt`` or ``previous.pt``.

    Returns:
        what :class:`TrainingCheckpoints` wrote; None, with a warning, when the file is damaged.

    Raises:
        ValueError: when the file is whole and names code to run: nothing of ours does.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if {"network", "optimizer", "best", *_COUNTERS} <= set(state):
            return state
        reason = "it is no state of a training"
    except Exception as error:  # a damaged file can raise anything
        _refuse_code(path)
        reason = f"it is damaged ({type(error).__name__})"
    _LOGGER.warning("%s cannot be used to go on from: %s.", path, reason)
    return None


def _refuse_code(path: str | os.PathLike[str]) -> None:
    if not zipfile.is_zipfile(path):
        return
    try:
        names = get_unsafe_globals_in_checkpoint(path)
    except Exception:  # damaged inside
        return
    if names:
        raise ValueError(
            f"{path} would run code when it is read ({', '.join(names)}), which no checkpoint of ours does. It was not "
            "run. Find out where the file comes from; remove it to go on from the checkpoint before it."
        )


class TrainingCheckpoints:
    """Handler: ``last.pt`` and ``previous.pt`` after every epoch, ``best.pt`` after every validation that beats all.

    ``last.pt`` holds network, optimizer, best value and the trainer's counters, for going on; ``previous.pt`` is the
    one before. ``best.pt`` is a bare state dict of tensors, as inference takes it with ``--ckpt``: with ``ema`` the
    averaged weights, as they are what is validated; ``last.pt`` then holds both. Without validation images ``best.pt``
    is the last state.

    A kill at any moment after the first epoch leaves a state to go on from: the new state is written under another
    name, then ``last.pt`` becomes ``previous.pt`` and the new one ``last.pt``, and a resume takes the newest that
    loads. ``best.pt`` comes after ``last.pt``, which says whether its own weights are the best: a resume then writes
    ``best.pt`` anew. What other handlers write comes before, so that no part of an epoch that counts as done is
    missing.

    Of several ranks the main one writes; all read the checkpoint that it has chosen, from a folder they share.

    Args:
        output_dir: folder of the run.
        network: network that is trained.
        optimizer: its optimizer.
        validator: evaluator whose key metric decides what is best.
        resume: go on from ``last.pt`` or, if it is damaged or missing, from ``previous.pt``. A word will do: on a
            command line ``--resume false`` arrives as text.
        ckpt: weights to start from, a bare state dict as in ``best.pt``; a resume takes precedence.
        start: gives the network the weights to start from by ``load()`` (``StartingWeights``), after ``ckpt``; not
            called on a resume.
        ema: average of the weights.
        also: ``{name: object}`` whose ``state_dict()`` ``last.pt`` keeps under that name and a resume hands to
            ``load_state_dict``. An empty state (as of a ``GradScaler`` that is off) is not kept; where a checkpoint
            lacks a name, its object begins anew, with a warning.

    Raises:
        FileExistsError: at the start, when the folder holds a training and ``resume`` is not set.
        FileNotFoundError: at the start, when there is nothing to resume from.
        ValueError: at the start, when neither checkpoint loads, one names code or does not fit the network, or the
            folder is that of a bundle's weights; when made, if ``also`` has a name that ``last.pt`` uses itself.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        network: nn.Module,
        optimizer: Optimizer,
        validator: Evaluator | None = None,
        resume: bool | str = False,
        ckpt: str | os.PathLike[str] | None = None,
        start: _Starts | None = None,
        ema: EMAWeights | None = None,
        also: Mapping[str, _HasState] | None = None,
    ) -> None:
        self.folder = Path(output_dir)
        self.network = network
        self.optimizer = optimizer
        loader: Any = getattr(validator, "data_loader", None)
        self.validator = validator if loader else None
        self.resume = str2bool(resume)
        self.ckpt = ckpt
        self.start = start
        self.ema = ema
        self.also: dict[str, _HasState] = {**({} if ema is None else {"ema": ema}), **(also or {})}
        if taken := {"network", "optimizer", "best", "best_epoch", *_COUNTERS} & set(self.also):
            raise ValueError(f"last.pt uses the name {min(taken)!r} itself; give the object in `also` another one.")
        self.best: float | None = None
        self.best_epoch = 0
        self._last_is_good = False

    @property
    def last_path(self) -> Path:
        """``last.pt`` of the run."""
        return self.folder / "last.pt"

    @property
    def previous_path(self) -> Path:
        """``previous.pt`` of the run."""
        return self.folder / "previous.pt"

    @property
    def best_path(self) -> Path:
        """``best.pt`` of the run."""
        return self.folder / "best.pt"

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, before the handlers that need to know where it goes on."""
        engine.add_event_handler(Events.STARTED, self._load)

    def _weights(self) -> dict[str, torch.Tensor]:
        module = getattr(self.network, "module", self.network)
        return {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}

    def _load(self, engine: Engine) -> None:
        folder = check_output_dir(self.folder)
        if is_main_rank():
            remove_partials(folder)
        if not engine.has_event_handler(self._save, Events.EPOCH_COMPLETED):
            # Registered here, after all handlers of the trainer: it has to be the last to act.
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)
        found = [path for path in (self.last_path, self.previous_path) if path.is_file()]
        if self.resume:
            self._go_on(engine, found)
        elif found:
            raise FileExistsError(
                f"{self.folder}: holds a training already. Go on with --resume true, or give another --output_dir."
            )
        else:
            if self.ckpt:
                load_weights(self.network, self.ckpt)
                _LOGGER.info("%s: weights to start from", self.ckpt)
            if self.start is not None:
                self.start.load()
        barrier()

    def _newest(self, found: list[Path]) -> tuple[Path, dict[str, Any]]:
        """The newest checkpoint that loads, the same on all ranks."""
        if not found:
            raise FileNotFoundError(f"{self.last_path}: nothing to resume from; leave out --resume true.")
        path, state = None, None
        if is_main_rank():
            path, state = next(((path, state) for path in found if (state := read_checkpoint(path))), (None, None))
        path = from_main_rank(path)
        if path is not None and state is None:
            state = read_checkpoint(path)
        if path is None or state is None:
            raise ValueError(
                f"nothing to resume from: {' and '.join(map(str, found))} cannot be used. Start again in another "
                f"--output_dir; --ckpt {self.best_path} starts from the best weights if that file is whole."
            )
        return path, state

    def _go_on(self, engine: Engine, found: list[Path]) -> None:
        path, state = self._newest(found)
        module = getattr(self.network, "module", self.network)
        try:
            module.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self._load_also(path, state)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{path} does not fit: {error} A training goes on with the options that it began with."
            ) from error
        self._last_is_good = path == self.last_path
        self.best, self.best_epoch = state["best"], state.get("best_epoch", 0)
        for name in _COUNTERS:
            setattr(engine.state, name, state[name])
        # With another batch size or number of ranks an epoch has other batches, and ignite ends a training by these.
        if engine.state.epoch_length:
            engine.state.iteration = state["epoch"] * engine.state.epoch_length
        sampler: Any = getattr(getattr(engine, "data_loader", None), "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(state["epoch"])
        if is_main_rank() and self.best_epoch == state["epoch"]:
            _write(self.best_path, _best_weights(state))
        _LOGGER.info("%s: going on after epoch %d", path, state["epoch"])

    def _load_also(self, path: Path, state: Mapping[str, Any]) -> None:
        for name, part in self.also.items():
            if name in state:
                part.load_state_dict(state[name])
            elif part.state_dict():
                _LOGGER.warning("%s holds nothing of %s, which begins anew.", path, name)

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
        if is_best := self._is_best():
            self.best_epoch = engine.state.epoch
        if not is_main_rank():
            return
        state = {
            "network": self._weights(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "best_epoch": self.best_epoch,
            **{name: getattr(engine.state, name, 0) for name in _COUNTERS},
            **{name: kept for name, part in self.also.items() if (kept := part.state_dict())},
        }
        with atomic_path(self.last_path) as temporary:
            torch.save(state, temporary)
            # A damaged last.pt is replaced: previous.pt is then all there is.
            if self._last_is_good:
                self.last_path.replace(self.previous_path)
        self._last_is_good = True
        if is_best:
            _write(self.best_path, _best_weights(state))


def _best_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """The weights that were validated in the epoch of a checkpoint."""
    return state["ema"]["network"] if "ema" in state else state["network"]


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        torch.save(content, temporary)
