"""A SAM-shaped network trained here, written as a checkpoint of SAM."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor

from esp_medsam_monai.checkpoints.layout import sam_decoder_name
from esp_medsam_monai.networks import SAMTeacher

__all__ = ["save_sam_layout"]

_TOKENS = "mask_decoder.mask_tokens.weight"


def save_sam_layout(teacher: SAMTeacher, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Write image encoder and mask decoder under the names of ``segment-anything``.

    ``segment_anything`` loads the file strictly into a ``Sam`` of the encoder's sizes. Mask token 0 is the query; what
    our network does not have is zero: the other tokens and MLPs, the quality head, the encoder of points and boxes.

    Args:
        teacher: a network with ``use_adapters=False``, ``shared_query=True`` and ``shared_hyper_mlp=True``, which is
            as much as a file of SAM can hold. Its prompt generator is left out.
        path: file to write; its folder must exist.

    Returns:
        what was written.

    Raises:
        ValueError: when the network is another one.
    """
    decoder = teacher.mask_decoder
    if len(teacher.adapters) or len(decoder.queries) > 1 or len(decoder.hyper_mlps) > 1:
        raise ValueError(
            "a file of SAM has no adapters and one mask token for all targets; build the network with "
            "use_adapters=False, shared_query=True, shared_hyper_mlp=True."
        )
    state = {key: value.detach().cpu().contiguous() for key, value in teacher.state_dict().items()}
    written = {key: torch.zeros(shape) for key, shape in _decoder_shapes(teacher.img_size).items()}
    for key, value in state.items():
        name = key if key.startswith("image_encoder.") else sam_decoder_name(key)
        if name is not None:
            written[name] = value
    (query,) = (value for key, value in state.items() if key.startswith("mask_decoder.queries."))
    written[_TOKENS][0] = query
    partial = Path(path).with_name(f"{Path(path).name}.partial")
    torch.save(written, partial)
    os.replace(partial, path)
    return written


def _decoder_shapes(img_size: int) -> dict[str, torch.Size]:
    """Shapes of SAM's entries outside its image encoder."""
    grid = (img_size // 16, img_size // 16)
    with torch.device("meta"):
        prompts = PromptEncoder(256, grid, (img_size, img_size), 16)
        decoder = MaskDecoder(transformer_dim=256, transformer=TwoWayTransformer(2, 256, 8, 2048))
    entries = {f"prompt_encoder.{key}": value for key, value in prompts.state_dict().items()}
    entries.update({f"mask_decoder.{key}": value for key, value in decoder.state_dict().items()})
    return {key: value.shape for key, value in entries.items()}
