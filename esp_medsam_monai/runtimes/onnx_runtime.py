"""ONNX Runtime: fast on every processor, Arm among them, and on NVIDIA's GPUs with ``onnxruntime-gpu``."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from esp_medsam_monai import __version__
from esp_medsam_monai.hashing import sha256_of_settings
from esp_medsam_monai.networks import ESPMedSAM, SelfPromptingNetwork
from esp_medsam_monai.runtimes.base import Runtime, RuntimeMissing
from esp_medsam_monai.runtimes.checking import cache_folder, fingerprint
from esp_medsam_monai.runtimes.onnx_check import missing_for_check
from esp_medsam_monai.runtimes.onnx_export import IMAGE, LOGITS, OPSET, export_onnx, missing_for_export

__all__ = ["OnnxRuntime", "missing_provider"]


class OnnxRuntime(Runtime):
    """The folded network as ONNX in ONNX Runtime; image by image on a CPU, batches on a GPU.

    An export takes half a minute, so files are kept in ``onnx`` below
    :func:`~esp_medsam_monai.runtimes.checking.cache_folder`, by weights and versions. The folder may be removed at
    any time.

    Args:
        network: see :class:`Runtime`.
        precision: ``fp32``, on a GPU also ``fp16``.
        device: see :class:`Runtime`.
    """

    name = "onnxruntime"
    dtypes: ClassVar[dict[str, torch.dtype]] = {"fp32": torch.float32, "fp16": torch.float16}
    """What the exported file computes in, by precision."""

    def __init__(
        self, network: SelfPromptingNetwork, precision: str = "fp32", device: torch.device | None = None
    ) -> None:
        super().__init__(network, precision, device)
        if not isinstance(network, ESPMedSAM):
            raise RuntimeMissing(f"runtime {self.name} knows ESPMedSAM only, got {type(network).__name__}; use torch.")
        self._sessions: dict[tuple[str, int], Any] = {}
        self._weights: str | None = None

    @classmethod
    def missing(cls, device: torch.device, precision: str) -> str | None:
        """See :class:`Runtime`."""
        if reason := missing_for_check() or missing_for_export():
            return reason
        if precision == "int8":
            return "int8 is offered by runtime openvino."
        if precision == "bf16":
            return "it has no bf16; use fp32, or fp16 on a GPU."
        if device.type == "cpu":
            return "processors compute fp16 slowly; use fp32." if precision == "fp16" else None
        if device.type != "cuda":
            return f"it computes on the CPU or on NVIDIA's GPUs, and the device is {device}; use runtime torch."
        return missing_provider("CUDAExecutionProvider")

    def prepare(self, modality: str, side: int) -> None:
        """See :class:`Runtime`."""
        self._session(modality, side)

    def release(self) -> None:
        """See :class:`Runtime`."""
        self._sessions.clear()

    def _segment(self, x: Tensor, modality: str) -> Tensor:
        side = x.shape[-1]
        session = self._session(modality, side)
        logits = torch.empty((len(x), len(self.modalities[modality]), side, side), device=self.device)
        x = x.contiguous()
        if self.device.type == "cpu":
            for row in range(len(x)):
                logits[row] = torch.from_numpy(session.run([LOGITS], {IMAGE: x[row : row + 1].numpy()})[0][0])
        else:
            self._on_gpu(session, x, logits)
        return logits

    def _on_gpu(self, session: Any, x: Tensor, logits: Tensor) -> None:
        """From and to tensors where they lie."""
        binding = session.io_binding()
        where = ("cuda", self._gpu, np.float32)
        binding.bind_input(IMAGE, *where, tuple(x.shape), x.data_ptr())
        binding.bind_output(LOGITS, *where, tuple(logits.shape), logits.data_ptr())
        # The session has a stream of its own, and waits for it before it returns.
        torch.cuda.current_stream(self.device).synchronize()
        session.run_with_iobinding(binding)

    @property
    def _gpu(self) -> int:
        return torch.cuda.current_device() if self.device.index is None else self.device.index

    def _session(self, modality: str, side: int) -> Any:
        key = (modality, side)
        if key not in self._sessions:
            self.network.modality_index(modality)
            try:
                path = self._export(cache_folder() / "onnx", modality, side)
                self._sessions[key] = self._open(path, side)
            except OSError:  # a home that cannot be written to costs time, and nothing else
                with TemporaryDirectory() as folder:
                    self._sessions[key] = self._open(self._export(Path(folder), modality, side), side)
        return self._sessions[key]

    def _open(self, path: Path, side: int) -> Any:
        ort = importlib.import_module("onnxruntime")
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = torch.get_num_threads()
        return ort.InferenceSession(str(path), options, providers=self._providers(side))

    def _providers(self, side: int) -> list[Any]:
        """Who computes, in the order of preference, with options."""
        if self.device.type == "cpu":
            return ["CPUExecutionProvider"]
        return [("CUDAExecutionProvider", {"device_id": self._gpu, "use_tf32": 0}), "CPUExecutionProvider"]

    def _export(self, folder: Path, modality: str, side: int) -> Path:
        """The file for a modality and a side, written if it is not there."""
        self._weights = self._weights or fingerprint(self.network)
        dtype, dynamic_batch = self.dtypes[self.precision], self.device.type != "cpu"
        facts = {
            "weights": self._weights,
            # Two networks may share their weights and differ in these.
            "modalities": {name: list(targets) for name, targets in self.modalities.items()},
            "dtype": str(dtype),
            "dynamic_batch": dynamic_batch,
            "opset": OPSET,
            "versions": [__version__, torch.__version__, version("onnxscript")],
        }
        path = folder / f"{modality}_{side}_{sha256_of_settings(facts)[:24]}.onnx"
        if not path.is_file():
            export_onnx(self.network, path, modality, side, dynamic_batch=dynamic_batch, dtype=dtype)
        return path


def missing_provider(name: str) -> str | None:
    """Why ONNX Runtime has no such execution provider, with what to do; None when it has."""
    if name in importlib.import_module("onnxruntime").get_available_providers():
        return None
    return (
        f"this onnxruntime has no {name}; pip uninstall onnxruntime, then pip install onnxruntime-gpu"
        " (with the version of CUDA that it asks for)."
    )
