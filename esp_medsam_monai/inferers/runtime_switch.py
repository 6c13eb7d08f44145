"""From the network that a config names to the runtime that computes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.networks import SelfPromptingNetwork
from esp_medsam_monai.runtimes import (
    PRECISIONS,
    RUNTIMES,
    Runtime,
    RuntimeMissing,
    find_quantized,
    make_runtime,
    quantized_folder,
)

__all__ = ["RuntimeSwitch"]


class RuntimeSwitch:
    """Keeps the runtime of a network, and makes a new one when its weights or its device have changed.

    Args:
        runtime: ``auto`` or a name, see :func:`~esp_medsam_monai.runtimes.make_runtime`; None calls the network as
            it is.
        precision: ``auto``, ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        bundle_root: the bundle, whose ``models/int8`` holds the quantised models that ``int8`` takes.

    Raises:
        ValueError: when there is no such runtime or precision.
    """

    def __init__(
        self,
        runtime: str | None = None,
        precision: str = "auto",
        bundle_root: str | os.PathLike[str] | None = None,
    ) -> None:
        if runtime not in (None, "auto", *RUNTIMES):
            raise ValueError(f"there is no runtime {runtime!r}; take auto, {', '.join(RUNTIMES)}.")
        if precision not in ("auto", *PRECISIONS):
            raise ValueError(f"there is no precision {precision!r}; take auto, {', '.join(PRECISIONS)}.")
        self.runtime = runtime
        self.precision = precision
        self.bundle_root = bundle_root
        self._state: tuple[Any, ...] | None = None
        self._current: Runtime | None = None

    def __call__(self, network: Callable[..., Any]) -> Callable[..., Any]:
        """What is to be called in place of a network; any but ours are called as they are.

        Raises:
            InputRefused: ``NO_RUNTIME`` when what was asked for cannot be used here.
        """
        if self.runtime is None or not isinstance(network, SelfPromptingNetwork):
            return network
        state = _state(network)
        if self._current is None or self._state != state:
            self._current = None  # its memory is free before the next is made
            try:
                root = self.bundle_root if self.precision == "int8" else None
                quantized = None if root is None else find_quantized(quantized_folder(root), network)
                self._current = make_runtime(network, self.runtime, self.precision, quantized=quantized)
            except RuntimeMissing as error:
                raise InputRefused("NO_RUNTIME", str(error)) from error
            self._state = state
        return self._run

    @property
    def description(self) -> str | None:
        """Runtime and precision in use, for instance ``openvino fp32``; None before the first image."""
        return None if self._current is None else f"{self._current.name} {self._current.precision}"

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        assert self._current is not None
        try:
            return self._current(*args, **kwargs)
        except RuntimeMissing as error:
            raise InputRefused("NO_RUNTIME", str(error)) from error


def _state(network: SelfPromptingNetwork) -> tuple[Any, ...]:
    """Changes when a weight is replaced, written to or moved: cheap enough to be asked for every batch."""
    tensors = (*network.parameters(), *network.buffers())
    return (id(network), *((tensor.data_ptr(), tensor._version) for tensor in tensors))
