"""The weights that a server serves: what a training publishes, and the way back.

In ``models`` of a served bundle lie ``model.pt`` and, once something was published, ``model.pt.shipped`` (the first
ones, never overwritten) and ``model.pt.previous``. MONAI Label offers files that end in ``.pt``, so it shows neither.

A kill at any moment leaves a bundle that works. Each file is whole or absent, and the hash beside ``model.pt`` goes
before the weights change and comes after: between the two there is none, which is no error, and :func:`repair` (called
by every :func:`publish` and at the start of a server) writes it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from esp_medsam_monai.bundle import bundle_weights, verified_sha256
from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.hashing import sha256_of
from esp_medsam_monai.io import atomic_path, remove_partials
from esp_medsam_monai.io.claims import lock_in

__all__ = ["KEPT", "publish", "repair", "rollback"]

KEPT = ("shipped", "previous")
"""Endings of the files that :func:`rollback` goes back to."""

_WAIT = 30.0  # seconds; who holds the lock copies a few files


def publish(bundle: str | os.PathLike[str], weights: str | os.PathLike[str], started_from: str | None = None) -> str:
    """Make a file of weights the served one, atomically; a server takes it with its next request.

    Args:
        bundle: folder of the served bundle.
        weights: file of weights, which stays where it is.
        started_from: SHA-256 of the served weights that must still be there; None: whatever is there.

    Returns:
        SHA-256 of the weights served now, in hexadecimal.

    Raises:
        FileNotFoundError: when there is no file of weights, or the bundle has none.
        InputRefused: ``WEIGHTS_CHANGED`` when the served weights are others than ``started_from``.
        ValueError: when the served weights are damaged: a copy of them would be no way back.
        RuntimeError: when another process holds the weights for too long.
    """
    with _held(bundle) as model:
        found = verified_sha256(model)
        if started_from not in (None, found):
            raise InputRefused(
                "WEIGHTS_CHANGED",
                f"{model} is no longer what the training started from: the weights were rolled back or replaced "
                "meanwhile. They stay as they are; start the training again.",
            )
        return _replace(model, Path(weights))


def rollback(bundle: str | os.PathLike[str], to: str = "shipped") -> str:
    """Serve former weights again. Those served until now become the previous ones, so that this can be undone.

    Args:
        bundle: folder of the served bundle.
        to: ``shipped``, what the bundle came with, or ``previous``, what was served before the last change.

    Returns:
        SHA-256 of the weights served now, in hexadecimal.

    Raises:
        FileNotFoundError: when nothing was published yet.
        ValueError: when ``to`` is another word, or the file is damaged.
        RuntimeError: when another process holds the weights for too long.
    """
    if to not in KEPT:
        raise ValueError(f"weights can be rolled back to {' or '.join(KEPT)}, not to {to!r}.")
    with _held(bundle) as model:
        source = _kept(model, to)
        if not source.is_file():
            raise FileNotFoundError(
                f"there is no {source}: no training has published weights here, those that are served are the first."
            )
        verified_sha256(source)
        return _replace(model, source)


def repair(bundle: str | os.PathLike[str]) -> bool:
    """Finish what a killed process left half done. Waits for nobody: a living process finishes its own work.

    Args:
        bundle: folder of the served bundle.

    Returns:
        Whether there was anything to do.
    """
    lock = lock_in(bundle, "weights")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        return _repair(Path(bundle_weights(bundle)))
    finally:
        lock.release()


@contextmanager
def _held(bundle: str | os.PathLike[str]) -> Iterator[Path]:
    """The path of the served weights, which nobody else changes as long as the block lasts."""
    model = Path(bundle_weights(bundle))
    if not model.is_file():
        raise FileNotFoundError(f"there are no weights at {model}; is {bundle} the folder of a served bundle?")
    lock = lock_in(bundle, "weights")
    try:
        lock.acquire(timeout=_WAIT)
    except Timeout as error:
        raise RuntimeError(f"another process is changing {model}; try again when it has ended.") from error
    try:
        _repair(model)
        yield model
    finally:
        lock.release()


def _repair(model: Path) -> bool:
    removed = remove_partials(model.parent)
    # Without a file of ours beside them the weights are a user's own, who need not state a hash.
    unstated = [path for path in (model, *(_kept(model, name) for name in KEPT)) if _lacks_hash(path)]
    if not _kept(model, "shipped").is_file():
        unstated = []
    for path in unstated:
        _state_sha256(path)
    return bool(removed or unstated)


def _lacks_hash(path: Path) -> bool:
    return path.is_file() and not _beside(path).is_file()


def _kept(model: Path, name: str) -> Path:
    return model.with_name(f"{model.name}.{name}")


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _replace(model: Path, source: Path) -> str:
    """Copy a file over the served weights, and those to where :func:`rollback` finds them."""
    with atomic_path(model) as staged:
        # First of all, for the source may be the file that is overwritten next.
        shutil.copyfile(source, staged)
        digest = sha256_of(staged)
        if not _kept(model, "shipped").is_file():
            _copy(model, _kept(model, "shipped"))
        _copy(model, _kept(model, "previous"))
        _beside(model).unlink(missing_ok=True)
    _state_sha256(model)
    return digest


def _copy(source: Path, target: Path) -> None:
    _beside(target).unlink(missing_ok=True)
    with atomic_path(target) as staged:
        shutil.copyfile(source, staged)
    _state_sha256(target)


def _state_sha256(path: Path) -> None:
    """Write the hash as ``sha256sum`` does, never half of the line."""
    with atomic_path(_beside(path)) as staged:
        staged.write_text(f"{sha256_of(path)}  {path.name}\n", encoding="utf-8")
