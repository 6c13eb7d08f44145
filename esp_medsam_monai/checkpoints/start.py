"""What a training starts from: files of our own, of MobileSAM and of SAM, one after another, whole or in parts."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch.nn as nn

from esp_medsam_monai.checkpoints.layout import check_entries, read_entries, within
from esp_medsam_monai.checkpoints.safe import name_few
from esp_medsam_monai.checkpoints.sam import Initialised, load_mobile_sam, load_sam
from esp_medsam_monai.networks import SelfPromptingNetwork

__all__ = ["StartingWeights"]

logger = logging.getLogger(__name__)

_SAM_LAYOUTS = {"mobile_sam": load_mobile_sam, "sam": load_sam}
_DEFAULTS: dict[str, Any] = {"file": None, "layout": "ours", "parts": None, "new": "refuse"}
_CHOICES = {"layout": ("ours", *_SAM_LAYOUTS), "new": ("refuse", "keep")}
_NEW = re.compile(r"(?:controllers|mask_decoder\.(?:queries|hyper_mlps))\.[^.]+")
"""What a modality or a target has to itself."""
_NAMED = 4  # modalities or targets that a line of the log names


class StartingWeights:
    """Weights to start from, out of one or more files.

    Nothing is read before :meth:`load`, so that a workflow can be built and looked at without the files. Later files
    overwrite earlier ones where both speak.

    Args:
        network: takes the weights, also behind ``DistributedDataParallel``.
        sources: mappings, applied in order:

            - ``file``: the weights; null passes the source over.
            - ``layout``: ``ours`` (a network of ours, the default), ``mobile_sam`` (``mobile_sam.pt``) or ``sam``
              (ViT-B, ViT-L, ViT-H or one of another size: encoder and decoder for a teacher, decoder for a student).
            - ``parts``: dotted names of modules or parameters that are taken, a list or a text with commas between
              them, for instance ``[prompt_generator, mask_decoder]``; null takes everything.
            - ``new``: for the layout ``ours``. ``refuse`` (the default) demands every entry of the network; ``keep``
              leaves modalities and targets of which the file has nothing at their fresh values.
        required: ``{part: how}``, parts of the network that some file has to give, because they do not learn and would
            stay random; ``how`` says in an error which options name such a file. None: there are none.

    Raises:
        ValueError: when a source has an unknown entry or value.

    Example:
        >>> start = StartingWeights(net, [{"file": "mobile_sam.pt", "layout": "mobile_sam"}, {"file": None}])
    """

    def __init__(
        self, network: nn.Module, sources: Iterable[Mapping[str, Any]], required: Mapping[str, str] | None = None
    ) -> None:
        self.network = network
        self.sources = [_checked(i, source) for i, source in enumerate(sources)]
        self.required = dict(required or {})

    def load(self) -> list[Initialised]:
        """Load the files, and log what each of them gave.

        Returns:
            what was taken, what was left over and what kept its value, one for each file.

        Raises:
            FileNotFoundError: when a file is missing.
            ValueError: when a file is damaged or does not fit, the message names file and entries; or when a required
                part is in none of the files.
        """
        module = self.network.module if isinstance(self.network, nn.parallel.DistributedDataParallel) else self.network
        results = [_load(module, source) for source in self.sources if source["file"]]
        for part, how in self.required.items():
            keys = {key for key in module.state_dict() if within(key, [part])}
            if all(keys <= set(result.fresh) for result in results):
                raise ValueError(f"{part} does not learn here and no file gives it weights: give one with {how}.")
        return results


def _checked(number: int, source: Mapping[str, Any]) -> dict[str, Any]:
    unknown = [str(key) for key in source if key not in _DEFAULTS]
    if unknown:
        raise ValueError(f"source {number} of the weights has an unknown entry {unknown[0]!r}; {', '.join(_DEFAULTS)}.")
    checked = {**_DEFAULTS, **source}
    for key, choices in _CHOICES.items():
        if checked[key] not in choices:
            raise ValueError(f"source {number} of the weights: {key} {checked[key]!r} is none of {', '.join(choices)}.")
    if isinstance(checked["parts"], str):
        checked["parts"] = [part.strip() for part in checked["parts"].split(",")]
    return checked


def _load(network: nn.Module, source: Mapping[str, Any]) -> Initialised:
    file, parts = source["file"], source["parts"]
    keys = list(network.state_dict())
    unmatched = [part for part in parts or () if not any(within(key, [part]) for key in keys)]
    if unmatched:
        there = ", ".join(dict.fromkeys(key.split(".")[0] for key in keys))
        raise ValueError(f"{file}: the network has no part {unmatched[0]!r} to take weights for; it has {there}.")
    if source["layout"] == "ours":
        result = _load_ours(network, file, parts, keep_new=source["new"] == "keep")
    else:
        if not isinstance(network, SelfPromptingNetwork):
            raise ValueError(f"{file}: the layout {source['layout']} does not fit {type(network).__name__}.")
        result = _SAM_LAYOUTS[source["layout"]](network, file, parts=parts)
    fresh = set(result.fresh)
    started = Counter(key.split(".")[0] for key in keys if key not in fresh)
    kind = type(network).__name__
    logger.info("%s: started %s of %s.", file, _told(started), kind)
    if fresh:
        logger.info("%s: has nothing for, and left as it was: %s of %s.", file, _told(_by_name(result.fresh)), kind)
    return result


def _load_ours(network: nn.Module, file: str, parts: Sequence[str] | None, keep_new: bool) -> Initialised:
    """Take entries of a network of ours under their own names."""
    entries, name = read_entries(file)
    state = network.state_dict()
    wanted = {key: value.shape for key, value in state.items() if within(key, parts)}
    if keep_new:
        known = {found[0] for key in entries if (found := _NEW.match(key))}
        wanted = {key: shape for key, shape in wanted.items() if not (own := _NEW.match(key)) or own[0] in known}
    inside = {key: value for key, value in entries.items() if within(key, parts)}
    if not wanted:
        raise ValueError(f"{name}: has nothing for {'the network' if parts is None else name_few(parts)}.")
    try:
        check_entries(inside, wanted, name, "this network")
    except ValueError as error:
        raise ValueError(
            f"{error} Modalities, targets and options should be those that the weights were trained with; `parts` "
            "takes some of the entries, `new: keep` lets modalities and targets be added."
        ) from None
    network.load_state_dict({**state, **inside})
    return Initialised(
        taken=tuple(inside),
        left=tuple(key for key in entries if key not in inside),
        fresh=tuple(key for key in state if key not in inside),
    )


def _by_name(keys: Iterable[str]) -> Counter[str]:
    """Entries a module; a few modalities and targets by their names, which tell the new ones."""
    names = Counter(found[0] if (found := _NEW.match(key)) else key.split(".")[0] for key in keys)
    kinds = Counter(name.rpartition(".")[0] for name in names if "." in name)
    short: Counter[str] = Counter()
    for name, count in names.items():
        kind = name.rpartition(".")[0]
        short[kind if kinds[kind] > _NAMED else name] += count
    return short


def _told(counts: Mapping[str, int]) -> str:
    """Entries a module: ``controllers.mr (70), mask_decoder (12)``."""
    return ", ".join(f"{module} ({count})" for module, count in counts.items())
