"""The teacher of a distillation: it embeds images, and nothing about it ever changes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from esp_medsam_monai.engines.device import default_device

__all__ = ["FrozenTeacher"]

_DECODER = ("prompt_generator.", "mask_decoder.")  # of our networks; they come after the embedding


class _Starts(Protocol):
    """What gives a network its weights: :class:`~esp_medsam_monai.checkpoints.StartingWeights`."""

    sources: Sequence[Mapping[str, Any]]

    def load(self) -> Any: ...


class FrozenTeacher:
    """A network that embeds images: in eval mode, without gradients, in float32, never part of the student.

    Its embeddings are rounded to half precision and back, so that a cache of them gives the same losses. They are
    computed for the whole batch, or in chunks where the device is too small for that.

    Args:
        network: called as ``network(image, names, embed_only=True)``, it returns ``image_embedding``
            ``(B, 256, h, w)``. Nothing is loaded before :meth:`load`, so that a workflow can be built without weights.
        start: gives it its weights; one that names no file is refused, for a teacher that knows nothing teaches that.
        device: where it runs.
        chunk_size: images at a time; None: all of a batch.
    """

    def __init__(
        self,
        network: nn.Module,
        start: _Starts,
        device: torch.device | str | None = None,
        chunk_size: int | None = None,
    ) -> None:
        self.network = network.requires_grad_(False).eval()
        self.start = start
        self.device = default_device() if device is None else torch.device(device)
        self.chunk_size = chunk_size
        self._sha256 = ""

    def load(self) -> None:
        """Load the weights and go to the device; only the first call does anything.

        Raises:
            ValueError: when no file is given, or it does not fit.
            FileNotFoundError: when there is no such file.
        """
        if self._sha256:
            return
        if not any(source.get("file") for source in self.start.sources):
            raise ValueError(
                "the teacher has no weights. Give them with --teacher_ckpt FILE or, where SAM itself teaches, with "
                "--sam_checkpoint FILE."
            )
        self.start.load()
        self._sha256 = _sha256_of_state(self.network)
        self.network.to(self.device)

    @property
    def settings(self) -> dict[str, Any]:
        """What its embeddings depend on, besides the image."""
        self.load()
        return {
            "teacher": type(self.network).__name__,
            "weights_sha256": self._sha256,
            "img_size": getattr(self.network, "img_size", None),
        }

    @torch.no_grad()
    def __call__(self, image: Tensor, modality: Sequence[str]) -> Tensor:
        """Embed a batch.

        Args:
            image: ``(B, 3, S, S)`` as the student takes it, on any device.
            modality: the modality of each image.

        Returns:
            ``(B, 256, h, w)``, half precision, on the teacher's device.

        Raises:
            FloatingPointError: when an embedding is not finite in half precision.
        """
        self.load()
        size = self.chunk_size or len(image)
        chunks = []
        # A student in mixed precision must not make the teacher another one.
        with torch.autocast(self.device.type, enabled=False):
            for start in range(0, len(image), size):
                part = image[start : start + size].to(self.device, torch.float32)
                names = list(modality[start : start + size])
                chunks.append(self.network(part, names, embed_only=True)["image_embedding"].half())
            embedding = torch.cat(chunks)
        if not torch.isfinite(embedding).all():
            raise FloatingPointError("the teacher's embedding of an image is not finite; are these its weights?")
        return embedding


def _sha256_of_state(network: nn.Module) -> str:
    """Hash of names, types, shapes and values of all that embeds."""
    digest = hashlib.sha256()
    state: Mapping[str, Tensor] = network.state_dict()
    for name, value in state.items():
        if not name.startswith(_DECODER):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
