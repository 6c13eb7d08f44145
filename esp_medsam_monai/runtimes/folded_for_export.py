"""The folded network as ``python -m monai.bundle onnx_export`` takes it: it loads a checkpoint, then is exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from esp_medsam_monai.networks import ESPMedSAM, fuse

__all__ = ["FoldedForExport"]


class FoldedForExport(nn.Module):
    """Loads weights as the network does, and computes what the folded network computes, for any batch.

    MONAI's command makes a component, loads a checkpoint into it, calls ``eval`` and exports it. Folding has to happen
    in between. The network as it is trained is no use: its batch becomes a constant of the file.

    Args:
        network: the network that the checkpoint is for.
        modality: the one to export; None for the network's default.

    Raises:
        ValueError: when there is no modality.
    """

    def __init__(self, network: ESPMedSAM, modality: str | None = None) -> None:
        super().__init__()
        self.modality = modality or network.default_modality
        if self.modality not in network.modalities:
            raise ValueError(f"{self.modality!r} is no modality to export; take {', '.join(network.modalities)}.")
        # Not as submodules: the checkpoint's names are the network's.
        self._network = [network]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the network's weights."""
        return self._network[0].load_state_dict(state_dict, strict=strict, assign=assign)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The network's weights."""
        return self._network[0].state_dict(*args, **kwargs)

    def eval(self) -> FoldedForExport:
        """Fold the network as it is now."""
        super().eval()
        self.folded = fuse(self._network[0], self.modality)
        return self

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """``(B, 3, S, S)``, normalised -> logits ``(B, targets, S, S)``.

        Raises:
            RuntimeError: before :meth:`eval`.
        """
        if self.training:
            raise RuntimeError("FoldedForExport folds the weights at eval(); call it first.")
        return self.folded(image)
