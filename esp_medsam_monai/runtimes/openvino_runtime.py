"""OpenVINO: the fastest way on most CPUs without a GPU beside them."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esp_medsam_monai.networks import ESPMedSAM, SelfPromptingNetwork, fuse
from esp_medsam_monai.runtimes.base import Runtime, RuntimeMissing
from esp_medsam_monai.runtimes.freed_memory import trim_memory
from esp_medsam_monai.runtimes.processor import has_bf16

__all__ = ["OpenVINORuntime", "convert"]

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


class OpenVINORuntime(Runtime):
    """The folded network compiled by OpenVINO for the CPU, image by image, so that no result depends on a neighbour.

    One image uses all threads. Of several images each takes one thread, which is faster as nothing waits inside a
    layer.

    Args:
        network: see :class:`Runtime`.
        precision: ``fp32``, ``bf16`` where the processor has instructions for it, ``int8`` with ``quantized``.
        device: see :class:`Runtime`; the CPU only.
        quantized: for ``int8``: ``{(modality, side): file of the quantised model}``.
    """

    name = "openvino"

    def __init__(
        self,
        network: SelfPromptingNetwork,
        precision: str = "fp32",
        device: torch.device | None = None,
        quantized: dict[tuple[str, int], Path] | None = None,
    ) -> None:
        super().__init__(network, precision, device)
        if not isinstance(network, ESPMedSAM):
            raise RuntimeMissing(f"runtime openvino knows ESPMedSAM only, got {type(network).__name__}; use torch.")
        self.quantized = dict(quantized or {})
        self._models: dict[tuple[str, int], Any] = {}
        self._compiled: dict[tuple[str, int, bool], Any] = {}

    @classmethod
    def missing(cls, device: torch.device, precision: str) -> str | None:
        """See :class:`Runtime`."""
        if importlib.util.find_spec("openvino") is None:
            return "OpenVINO is not installed; pip install 'esp-medsam-monai[fast]'."
        if device.type != "cpu":
            return f"it computes on the CPU, and the device is {device}; use runtime torch or --device cpu."
        if precision == "fp16":
            return "processors without fp16 instructions compute it as fp32; use fp32 or bf16."
        if precision == "bf16" and not has_bf16():
            return "this processor has no bf16 instructions, OpenVINO would compute in fp32 in silence; use fp32."
        return None

    def prepare(self, modality: str, side: int) -> None:
        """See :class:`Runtime`."""
        self._model(modality, side)
        self._requests(modality, side, together=False)

    def release(self) -> None:
        """See :class:`Runtime`."""
        self._compiled.clear()
        self._models.clear()

    def _segment(self, x: Tensor, modality: str) -> Tensor:
        images = x.contiguous().numpy()
        side = x.shape[-1]
        logits = np.empty((len(x), len(self.modalities[modality]), side, side), dtype=np.float32)
        if len(x) == 1 or torch.get_num_threads() == 1:
            compiled = self._requests(modality, side, together=False)
            for i in range(len(x)):
                logits[i] = compiled.infer({0: images[i : i + 1]}, share_inputs=True)[0][0]
            return torch.from_numpy(logits)
        queue = self._requests(modality, side, together=True)

        def take(request: Any, row: int) -> None:
            logits[row] = request.get_output_tensor(0).data[0]

        queue.set_callback(take)
        for i in range(len(x)):
            queue.start_async({0: images[i : i + 1]}, i, share_inputs=True)
        queue.wait_all()
        return torch.from_numpy(logits)

    def _requests(self, modality: str, side: int, together: bool) -> Any:
        """An infer request with all threads, or a queue of requests with one thread each."""
        key = (modality, side, together)
        if key not in self._compiled:
            threads = torch.get_num_threads()
            options = {
                "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": threads if together else 1,
            }
            compiled = _core().compile_model(self._model(modality, side), "CPU", options)
            self._compiled[key] = (
                _openvino().AsyncInferQueue(compiled, threads) if together else compiled.create_infer_request()
            )
            trim_memory()  # tracing computes the network once, in PyTorch
        return self._compiled[key]

    def _model(self, modality: str, side: int) -> Any:
        key = (modality, side)
        if key not in self._models:
            if self.precision == "int8":
                if key not in self.quantized:
                    raise RuntimeMissing(
                        f"no int8 model of these weights for {modality} at side {side}; make one with"
                        f" `esp-medsam quantize --modality {modality} --side {side}`, or use another precision."
                    )
                self._models[key] = _core().read_model(self.quantized[key])
            else:
                assert isinstance(self.network, ESPMedSAM)
                self._models[key] = convert(self.network, modality, side)
        return self._models[key]


def convert(network: ESPMedSAM, modality: str, side: int) -> Any:
    """The folded network of one modality as an ``openvino.Model``, ``(1, 3, S, S)`` -> ``(1, targets, S, S)``.

    Args:
        network: the trained network; it is left as it is.
        modality: name.
        side: side S of the images in pixels.
    """
    pytorch = _frontend()[1]
    decoder = importlib.import_module("openvino.frontend.pytorch.ts_decoder")
    image = torch.zeros(1, network.in_channels, side, side)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's: shapes are fixed here
        traced = torch.jit.trace(fuse(network, modality).cpu(), image, check_trace=False)
        # `openvino.convert_model` does this too, but reports its use to Intel, and traces three times.
        decoded = decoder.TorchScriptPythonDecoder(traced, example_input=image)  # must outlive the conversion
        model = pytorch.convert(pytorch.load(decoded))
    model.reshape(list(image.shape))
    return model


@lru_cache(maxsize=1)
def _core() -> Any:
    """The one ``openvino.Core`` of the process.

    Each Core's CPU plugin gives the thread that loads it an alternate signal stack and, when it goes, puts back the
    stack that it found. Of several Cores freed in another order the thread is left with a stack that is unmapped, and
    the next signal with a handler (Ctrl+C) is a segmentation fault.
    """
    return _openvino().Core()


@lru_cache(maxsize=1)
def _frontend() -> tuple[Any, Any]:
    """OpenVINO's reader of PyTorch models; its library must stay loaded as long as a model that it made."""
    manager = importlib.import_module("openvino.frontend").FrontEndManager()
    return manager, manager.load_by_framework("pytorch")


def _openvino() -> Any:
    """The package, which is no requirement and brings no types."""
    return importlib.import_module("openvino")
