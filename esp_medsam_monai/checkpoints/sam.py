"""Start from SAM: a student from MobileSAM's checkpoint or SAM's decoder, a teacher from SAM's encoder and decoder.

Layouts: ``ChaoningZhang/MobileSAM`` and ``facebookresearch/segment-anything`` (both Apache-2.0). Neither has anything
for controllers, adapters, patch decoder, dense prompter and extra queries: these keep their fresh values.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esp_medsam_monai.checkpoints.layout import check_entries, read_entries, sam_decoder_name, within
from esp_medsam_monai.checkpoints.sam_tables import fit_tables
from esp_medsam_monai.networks import ESPMedSAM, SAMTeacher, SelfPromptingNetwork

__all__ = ["Initialised", "load_mobile_sam", "load_sam"]

logger = logging.getLogger(__name__)

_TOKENS = "mask_decoder.mask_tokens.weight"
_SPARE_DECODER = (
    "prompt_encoder.",
    "mask_decoder.iou_token.",
    "mask_decoder.iou_prediction_head.",
    *(f"mask_decoder.output_hypernetworks_mlps.{i}." for i in (1, 2, 3)),
)
_SPARE_TRUNK = ("image_encoder.norm_head.", "image_encoder.head.")


@dataclass(frozen=True)
class Initialised:
    """What became of a checkpoint.

    Args:
        taken: its entries that the network took over.
        left: its entries that the network has no use for.
        fresh: entries of the network that it says nothing about.
    """

    taken: tuple[str, ...]
    left: tuple[str, ...]
    fresh: tuple[str, ...]


def load_mobile_sam(
    network: SelfPromptingNetwork,
    path: str | os.PathLike[str] | Mapping[str, Tensor],
    start_queries: bool = True,
    parts: Sequence[str] | None = None,
) -> Initialised:
    """Initialise trunk, positional encoding and mask decoder from MobileSAM (``mobile_sam.pt``).

    Every hyper-network MLP starts from SAM's MLP 0. The published work does not say what its queries start from; SAM's
    mask token 0, which belongs to that MLP, is our choice.

    Args:
        network: an :class:`ESPMedSAM`, changed in place; the patch prompt and the controllers keep their values.
        path: the checkpoint, or its state dict.
        start_queries: start the targets' queries from mask token 0; False leaves them as they are.
        parts: dotted names of the network's modules or parameters that are initialised; None: all that can be.

    Returns:
        what was taken, what was left over and what is still fresh.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when an entry is missing, unknown or misshapen, or the network has another trunk. It is unchanged
            then.
    """
    if not isinstance(network, ESPMedSAM):
        raise ValueError(f"MobileSAM's trunk fits ESPMedSAM, not {type(network).__name__}; give a checkpoint of SAM.")
    return _load(network, path, "MobileSAM", trunk=True, start_queries=start_queries, parts=parts)


def load_sam(
    network: SelfPromptingNetwork,
    path: str | os.PathLike[str] | Mapping[str, Tensor],
    start_queries: bool = True,
    parts: Sequence[str] | None = None,
) -> Initialised:
    """Initialise from SAM ViT-B, ViT-L, ViT-H or one of another size.

    A :class:`SAMTeacher` takes image encoder, positional encoding and mask decoder; the encoder's position tables are
    interpolated to the teacher's ``img_size``. A student has no use for the encoder and takes the rest.

    Args:
        network: changed in place; the patch prompt, a student's trunk and controllers, and a teacher's adapters keep
            their values.
        path: see :func:`load_mobile_sam`.
        start_queries: see :func:`load_mobile_sam`.
        parts: see :func:`load_mobile_sam`.

    Returns:
        see :func:`load_mobile_sam`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when an entry is missing, unknown or misshapen, or the encoder is of another size than the
            teacher's. The network is unchanged then.
    """
    trunk = isinstance(network, SAMTeacher)
    return _load(network, path, "SAM", trunk=trunk, start_queries=start_queries, parts=parts)


def _load(
    network: SelfPromptingNetwork,
    path: str | os.PathLike[str] | Mapping[str, Tensor],
    layout: str,
    trunk: bool,
    start_queries: bool,
    parts: Sequence[str] | None,
) -> Initialised:
    entries, name = read_entries(path)
    if isinstance(network, SAMTeacher):
        entries = fit_tables(entries, network, name)
    state = network.state_dict()
    sources = {}
    for key in state:
        source = key if trunk and key.startswith("image_encoder.") else sam_decoder_name(key)
        if source is not None:
            sources[key] = source
    expected = {source: state[key].shape for key, source in sources.items()}
    expected[_TOKENS] = torch.Size((4, network.mask_decoder.extra_queries.shape[1]))
    spare = _SPARE_DECODER
    if not trunk:
        spare = (*spare, "image_encoder.")
    elif layout == "MobileSAM":
        spare = (*spare, *_SPARE_TRUNK)
    check_entries(entries, expected, name, layout, spare)
    start = {key: entries[source] for key, source in sources.items() if within(key, parts)}
    taken = {sources[key] for key in start}
    if start_queries:
        queries = [key for key in state if key.startswith("mask_decoder.queries.") and within(key, parts)]
        start.update(dict.fromkeys(queries, entries[_TOKENS][0]))
        taken |= {_TOKENS} if queries else set()
    network.load_state_dict({**state, **start})
    result = Initialised(
        taken=tuple(key for key in entries if key in taken),
        left=tuple(key for key in entries if key not in taken),
        fresh=tuple(key for key in state if key not in start),
    )
    logger.debug(
        "%s: %d entries taken, %d left over; %d of the network's %d entries keep their values.",
        name, len(result.taken), len(result.left), len(result.fresh), len(state),
    )  # fmt: skip
    return result
