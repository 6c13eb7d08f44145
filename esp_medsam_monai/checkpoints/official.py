"""Published ESP-MedSAM files, one complete single-controller model a modality, to our network and back.

Layout: ``xq141839/De-LightSAM`` at d2260d7 (Apache-2.0), 504 entries a file. Dropped are the parts that the published
forward pass never uses: the trunk's classifier head and SAM's prompt embeddings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from segment_anything.modeling.prompt_encoder import PromptEncoder
from torch import Tensor

from esp_medsam_monai.checkpoints.layout import check_entries, read_entries, sam_decoder_name
from esp_medsam_monai.modalities import MODALITIES, PUBLISHED_MODALITIES
from esp_medsam_monai.networks import ESPMedSAM
from esp_medsam_monai.networks.modality_controller import BlockController

__all__ = ["export_official", "load_official", "published_index", "published_options"]

QUERIES = 7
"""Rows of the published ``mask_query``; the last belongs to no modality but takes part in the attention."""

_QUERY = "mask_query.weight"
_EXTRA = "mask_decoder.extra_queries"
_TRUNK = "SemiTViT."
_CONTROLLER = {"key_tokens": "attn.deep_QKV_embeddings_med", "attention_bias": "attn.med_attention_biases"}


def published_options(modalities: int) -> dict[str, Any]:
    """Options of :class:`ESPMedSAM` that make it the published network.

    Args:
        modalities: number of modalities that the network has, 1 to 6.
    """
    return {
        "controller_tokens": 1,
        "shared_token": True,
        "extra_queries": QUERIES - modalities,
        "coupled_queries": True,
        "shared_hyper_mlp": True,
    }


def published_index(names: Sequence[str], indices: Mapping[str, int] | None = None) -> dict[str, int]:
    """Decoder index of each modality in the published files, in ascending order.

    Args:
        names: one to six modalities.
        indices: index 0 to 5 of names that are not among the published six (or to overrule those).

    Raises:
        ValueError: when a name has no index, or two have the same.
    """
    known = {name: i for i, name in enumerate(PUBLISHED_MODALITIES)}
    surplus = [name for name in indices or {} if name not in names]
    if surplus:
        raise ValueError(f"indices names {', '.join(surplus)}, for which there is no file.")
    given = {**known, **(indices or {})}
    if not names:
        raise ValueError("no published file was given; give at least one, for instance dermoscopy=FILE.")
    rows: dict[str, int] = {}
    for name in names:
        if name not in given:
            raise ValueError(
                f"{name!r} is none of the published {', '.join(known)}: say which of their indices 0 to 5 its file "
                f"uses, with indices={{{name!r}: INDEX}} (on the command line --indices {name}=INDEX)."
            )
        if given[name] not in range(QUERIES - 1):
            raise ValueError(f"the published index of {name!r} should be 0 to 5, got {given[name]}.")
        rows[name] = given[name]
    for name, row in rows.items():
        twins = [other for other, index in rows.items() if index == row]
        if len(twins) > 1:
            raise ValueError(f"{' and '.join(twins)} have the same published index {row}; {name!r} needs its own.")
    return dict(sorted(rows.items(), key=lambda item: item[1]))


def load_official(
    files: Mapping[str, str | os.PathLike[str] | Mapping[str, Tensor]],
    indices: Mapping[str, int] | None = None,
    img_size: int = 1024,
) -> ESPMedSAM:
    """Merge one to six published files into one network.

    Queries of modalities that are not given stay as extra queries, because all seven influence each other. BatchNorm's
    counters ``num_batches_tracked``, which no forward pass reads, are those of the file with the lowest index.

    Args:
        files: ``{modality: file or state dict}``; files are read with ``weights_only=True``.
        indices: published index 0 to 5 of names that are not among the published six.
        img_size: see :class:`ESPMedSAM`; the published files were trained at 1024 pixels.

    Returns:
        the published network in eval mode, one target a modality, in the order of the published indices. It wants the
        divisor ``"published"`` in preprocessing.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when an entry is missing, unknown or misshapen, a modality has no index of its own, or the files do
            not share what they have outside the controllers.
    """
    rows = published_index(list(files), indices)
    net = ESPMedSAM({name: [_target(name)] for name in rows}, img_size, **published_options(len(rows))).eval()
    own = net.state_dict()
    names = {name: _names(net, name) for name in rows}
    states = {}
    for name in rows:
        states[name], source = read_entries(files[name])
        shapes = {published: own[key].shape for key, published in names[name].items()}
        shapes = {**shapes, **_dropped(), _QUERY: torch.Size((QUERIES, own[_EXTRA].shape[1]))}
        check_entries(states[name], shapes, f"{name}: {source}", "the published ESP-MedSAM files")
    _check_shared(states)
    merged = {}
    for name in reversed(rows):
        merged.update({key: states[name][published] for key, published in names[name].items()})
    queries = next(iter(states.values()))[_QUERY]
    for name, key in _query_keys(net).items():
        merged[key] = queries[rows[name]]
    merged[_EXTRA] = queries[_spare_rows(rows)]
    net.load_state_dict(merged)
    return net


def export_official(net: ESPMedSAM, modality: str, indices: Mapping[str, int] | None = None) -> dict[str, Tensor]:
    """The published file of one modality.

    Args:
        net: a network in the published layout, see :func:`published_options`.
        modality: the modality whose controller goes into the file.
        indices: see :func:`load_official`.

    Returns:
        504 entries on the CPU, bit for bit those of the network; zeros where the published forward pass does not look.

    Raises:
        ValueError: when the modality is unknown, or the published layout cannot hold the network; the message says why.
    """
    net.modality_index(modality)
    reason = _misfit(net)
    if reason:
        raise ValueError(f"the published layout cannot hold this network: {reason}.")
    rows = published_index(list(net.modalities), indices)
    state = {key: value.detach().cpu().clone() for key, value in net.state_dict().items()}
    exported = {key: torch.zeros(shape) for key, shape in _dropped().items()}
    exported.update({published: state[key] for key, published in _names(net, modality).items()})
    queries = state[_EXTRA].new_empty(QUERIES, state[_EXTRA].shape[1])
    for name, key in _query_keys(net).items():
        queries[rows[name]] = state[key]
    queries[_spare_rows(rows)] = state[_EXTRA]
    return {**exported, _QUERY: queries}


def _spare_rows(rows: Mapping[str, int]) -> list[int]:
    return [row for row in range(QUERIES) if row not in rows.values()]


def _target(modality: str) -> str:
    """Name of the one target a published file draws."""
    targets = MODALITIES[modality].targets if modality in MODALITIES else ()
    return targets[0].name if len(targets) == 1 else "foreground"


def _names(net: ESPMedSAM, modality: str) -> dict[str, str]:
    """Published name of each of our entries that has one to itself: all but the queries and the other controllers."""
    own = f"controllers.{modality}.blocks."
    blocks = [key.split(".attn.")[0] for key in net.image_encoder.state_dict() if key.endswith(".attn.norm.weight")]
    names = {}
    for key in net.state_dict():
        if key.startswith("image_encoder."):
            names[key] = _TRUNK + key.removeprefix("image_encoder.")
        elif key.startswith("prompt_generator."):
            names[key] = key.removeprefix("prompt_generator.")
        elif key.startswith(own):
            number, entry = key.removeprefix(own).split(".", 1)
            entry = _CONTROLLER.get(entry, entry.replace("mlp.", "med_dah.", 1))
            names[key] = f"{_TRUNK}{blocks[int(number)]}.{entry}"
        elif decoder := sam_decoder_name(key):
            names[key] = decoder
    return names


def _query_keys(net: ESPMedSAM) -> dict[str, str]:
    """Our entry of each modality's query."""
    names = (f"mask_decoder.queries.{name}" for name in net.mask_decoder.query_names)
    return dict(zip(net.modalities, names, strict=True))


def _dropped() -> dict[str, torch.Size]:
    """Shapes of the published entries that no forward pass uses."""
    prompts = PromptEncoder(256, (64, 64), (1024, 1024), 16).state_dict()
    shapes = {f"prompt_encoder.{key}": value.shape for key, value in prompts.items() if not key.startswith("pe_layer.")}
    head = {"norm_head.weight": (320,), "norm_head.bias": (320,), "head.weight": (1000, 320), "head.bias": (1000,)}
    return {**{_TRUNK + key: torch.Size(shape) for key, shape in head.items()}, **shapes}


def _check_shared(states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Refuse files that differ outside their controllers."""
    (first, reference), *others = states.items()
    dropped = _dropped()
    for name, state in others:
        for key, value in reference.items():
            if "med" in key or key in dropped or key.endswith("num_batches_tracked"):
                continue
            if not torch.equal(value, state[key]):
                raise ValueError(
                    f"the files of {first} and {name} do not share a trunk, {key} is the first entry that differs: "
                    "they cannot become one network. Import one bundle per file (on the command line: --separate)."
                )


def _misfit(net: ESPMedSAM) -> str | None:
    """Why the published layout cannot hold a network; None when it can."""
    decoder, count = net.mask_decoder, len(net.modalities)
    several = [name for name, targets in net.modalities.items() if len(targets) > 1]
    blocks = [module for module in net.controllers.modules() if isinstance(module, BlockController)]
    reasons = {
        f"it has {count} modalities, more than six": count >= QUERIES,
        f"{', '.join(several)} has more than one target": bool(several),
        f"its images have {net.in_channels} channels, not three": net.in_channels != 3,
        "it has no controllers": not net.controllers,
        "it has no patch prompt": net.prompt_generator is None,
        "its controllers have other than one token a head": any(block.key_tokens.shape[1] != 1 for block in blocks),
        "its keys and values have tokens of their own": any(block.value_tokens is not None for block in blocks),
        "its queries are not coupled": count > 1 and not decoder.coupled_queries,
        "its targets have hyper-network MLPs of their own": len(decoder.hyper_mlps) > 1,
        f"{count} modalities need {QUERIES - count} extra queries, it has {len(decoder.extra_queries)}": (
            len(decoder.extra_queries) != QUERIES - count
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
