"""Training a part of a network; everything else keeps its state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from esp_medsam_monai.modalities import added_targets

__all__ = ["TrainableParts"]

_NEW = "new"


class TrainableParts:
    """The parts of a network that a training changes; everything else stays as it is, to the bit.

    At construction it sets ``requires_grad`` of every parameter, so build it before an optimizer and before
    ``DistributedDataParallel``. :class:`~esp_medsam_monai.engines.FrozenCheck` proves that nothing else moved.

    Args:
        network: network, not wrapped.
        parts: names of modules or parameters, whole words of their dotted names from the left: ``controllers``,
            ``controllers.mr``, ``mask_decoder.queries.mr_tumour``; ``*`` stands for any one word. The word ``new``
            stands for the controllers, queries and hyper-network MLPs of added targets and modalities, see
            :func:`~esp_medsam_monai.modalities.extended_modalities`. A text is split at commas. None: everything.

    Raises:
        ValueError: when a name matches nothing; the message lists what there is.
    """

    def __init__(self, network: nn.Module, parts: str | Sequence[str] | None = None) -> None:
        self.network = network
        names = parts.split(",") if isinstance(parts, str) else parts
        self.parts = None if names is None else _resolve(network, [name.strip() for name in names])
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(self.covers(name))

    def covers(self, name: str) -> bool:
        """Whether a module, parameter or buffer of this dotted name is trained."""
        return self.parts is None or any(_matches(name, part) for part in self.parts)

    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer should get."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def frozen(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers outside the parts, by name."""
        tensors = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        return {name: tensor for name, tensor in tensors.items() if not self.covers(name)}

    def train(self) -> None:
        """Put the parts into training mode and everything else into evaluation mode: batch norms keep their state."""
        for name, module in self.network.named_modules():
            module.training = self.covers(name)


def _matches(name: str, part: str) -> bool:
    """Whether the words of a part are the first words of a name."""
    words, patterns = name.split("."), part.split(".")
    return len(words) >= len(patterns) and all(map(fnmatchcase, words, patterns))


def _resolve(network: nn.Module, parts: Iterable[str]) -> list[str]:
    """Parts without the word ``new``, each of which names something."""
    known = [name for name, _ in network.named_parameters()]
    resolved: list[str] = []
    for part in parts:
        wanted = [part]
        if part == _NEW:
            wanted = [name for name in _new_parts(network) if _below(known, name)]
            if not wanted:
                raise ValueError("nothing of the network is new: no targets were added; name them with --new_targets.")
        resolved += wanted
    for part in resolved or [""]:
        if not _below(known, part):
            raise ValueError(f"{part!r} cannot be trained, the network has no such part. {_choices(known, part)}")
    return list(dict.fromkeys(resolved))


def _below(known: Iterable[str], part: str) -> list[str]:
    return [name for name in known if _matches(name, part)]


def _choices(known: Sequence[str], part: str) -> str:
    """A sentence with what could stand for the first word that is wrong."""
    words = part.split(".")
    right = next(n for n in range(len(words) - 1, -1, -1) if not n or _below(known, ".".join(words[:n])))
    found = _below(known, ".".join(words[:right])) if right else known
    names = dict.fromkeys(".".join(name.split(".")[: right + 1]) for name in found)
    return f"There are: {', '.join(names)}."


def _new_parts(network: nn.Module) -> list[str]:
    modalities: Any = getattr(network, "modalities", {})
    added = added_targets(modalities)
    whole = [modality for modality, targets in added.items() if len(targets) == len(modalities[modality])]
    names = [f"{modality}_{target}" for modality, targets in added.items() for target in targets]
    return [
        *(f"controllers.{modality}" for modality in whole),
        *(f"mask_decoder.{kind}.{name}" for name in names for kind in ("queries", "hyper_mlps")),
    ]
