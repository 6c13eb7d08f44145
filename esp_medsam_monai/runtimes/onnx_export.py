"""A trained network as one ONNX file, for ONNX Runtime, TensorRT, OpenVINO and every other reader of the format.

What is written is the folded network (:func:`~esp_medsam_monai.networks.fuse`), by PyTorch's exporter
(``torch.onnx.export(dynamo=True)``). PyTorch's older exporter asks for shapes that do not depend on the batch where
this network computes them, and fails.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch

from esp_medsam_monai import __version__
from esp_medsam_monai.modalities import label_values
from esp_medsam_monai.networks import ESPMedSAM, SelfPromptingNetwork, fuse
from esp_medsam_monai.runtimes.base import RuntimeMissing

__all__ = ["IMAGE", "INDEX", "LOGITS", "OPSET", "export_onnx", "missing_for_export"]

IMAGE, INDEX, LOGITS = "image", "modality", "logits"
"""Names of the inputs and of the output."""

OPSET = 20
"""The first version with GELU as one operation; ONNX Runtime reads it since 1.17, TensorRT since 10.0."""

_PACKAGES = ("onnx", "onnxscript")


def missing_for_export() -> str | None:
    """Why nothing can be exported here, with what to do; None when it can."""
    absent = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} not installed; pip install 'esp-medsam-monai[export]'." if absent else None


def export_onnx(
    network: SelfPromptingNetwork,
    path: str | os.PathLike[str],
    modality: str | None = None,
    side: int | None = None,
    dynamic_batch: bool = True,
    opset: int = OPSET,
    properties: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a network as ONNX, for one modality or for all.

    The file has the input ``image`` ``(batch, in_channels, S, S)``, float32, normalised as for the network, and the
    output ``logits`` ``(batch, C, S, S)``. For all modalities a second input ``modality``, int64 ``(batch,)``, has the
    number of each image's modality; channels that a modality does not have then hold -1e4. The side is fixed, because
    how windows are padded depends on it.

    Its ``metadata_props`` say what a reader needs: ``modality`` (the name, or all names in the order of their
    numbers, as JSON), ``targets`` (JSON: ``{modality: {target: label value}}``, channels in this order), ``side``,
    ``esp_medsam_monai`` (version), and ``properties``.

    Args:
        network: the trained network; it is left as it is.
        path: the file; it is whole or absent. Its folder is made.
        modality: the one to export; None for all.
        side: side S of the images in pixels; None for the network's.
        dynamic_batch: take batches of any size; False: single images.
        opset: version of ONNX's operators.
        properties: further entries of ``metadata_props``, for instance the weights' hash.
        dtype: what the file computes in, for instance ``torch.float16`` for a GPU; input and output stay float32.

    Returns:
        The path.

    Raises:
        OSError: when the file cannot be written.
        RuntimeMissing: when a package is not installed.
        ValueError: when the modality is unknown, the side is none that the network takes, or the network is another
            than ESPMedSAM.
    """
    if (reason := missing_for_export()) is not None:
        raise RuntimeMissing(f"ONNX export: {reason}")
    if not isinstance(network, ESPMedSAM):
        raise ValueError(f"only ESPMedSAM can be exported, got {type(network).__name__}.")
    side = network.img_size if side is None else side
    if side < 64 or side % 32:
        raise ValueError(f"side should be a multiple of 32 and at least 64, got {side}.")
    program = _translate(network, modality, side, dynamic_batch, opset, dtype)
    names = list(network.modalities)
    stated = {
        "modality": modality or json.dumps(names),
        "targets": json.dumps({n: v for n, v in label_values(network.modalities).items() if modality in (None, n)}),
        "side": str(side),
        "esp_medsam_monai": __version__,
        **(properties or {}),
    }
    program.model.metadata_props.update(stated)
    program.model.graph.name = f"ESPMedSAM {modality or 'all modalities'}"
    return _write(program, Path(path))


def _translate(
    network: ESPMedSAM, modality: str | None, side: int, dynamic_batch: bool, opset: int, dtype: torch.dtype
) -> Any:
    """A ``torch.onnx.ONNXProgram`` without what a reader of the graph would stumble over."""
    # A batch of one would be taken for a constant.
    batch = 2 if dynamic_batch else 1
    inputs: dict[str, torch.Tensor] = {IMAGE: torch.zeros(batch, network.in_channels, side, side)}
    if modality is None:
        inputs[INDEX] = torch.zeros(batch, dtype=torch.long)
    shapes = tuple({0: "batch"} for _ in inputs) if dynamic_batch else None
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's, on itself
        program: Any = torch.onnx.export(
            fuse(network, modality).cpu().to(dtype),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=[LOGITS],
            dynamic_shapes=shapes,
            opset_version=opset,
            dynamo=True,
            # Its patterns cost more time than all the rest, and whoever runs the file has patterns of its own.
            optimize=False,
            verbose=False,
        )
    _tidy(program.model)
    return program


def _tidy(model: Any) -> None:
    """Compute what is constant, drop what is not used, keep equal things once."""
    optimizer = importlib.import_module("onnxscript.optimizer")
    passes = importlib.import_module("onnx_ir.passes.common")
    optimizer.fold_constants(model)
    for each in (
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.CommonSubexpressionEliminationPass(),
        passes.DeduplicateInitializersPass(),
        passes.RemoveUnusedNodesPass(),
        # Where in the source an operation comes from: half of the graph, and paths of this machine.
        passes.ClearMetadataAndDocStringPass(),
    ):
        each(model)


def _write(program: Any, path: Path) -> Path:
    """Write, have ONNX's checker read it, and only then give it its name."""
    checker = importlib.import_module("onnx.checker")
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=f".partial-{path.name}-", suffix=".onnx", delete=False) as stream:
        temporary = Path(stream.name)
    try:
        program.save(temporary, external_data=False)
        checker.check_model(str(temporary), full_check=True)
        # Made for nobody but its owner, as temporary files are; this one is as any file of his.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
