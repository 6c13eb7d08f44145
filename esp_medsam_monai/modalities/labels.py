"""A network's modalities and targets: which names are good, and which label value belongs to which target."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["check_modalities", "label_names", "label_values"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def check_modalities(modalities: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Check a mapping ``{modality: [targets]}`` and return a copy of it with tuples.

    Raises:
        ValueError: when it is empty, a modality has no target, a target is named twice in one modality, a name is not
            lower-case letters, digits and underscores, or two targets would share a label (``a_b`` + ``c``, ``a`` +
            ``b_c``).
    """
    if not modalities:
        raise ValueError("modalities is empty; give at least one, for instance {'dermoscopy': ['lesion']}.")
    checked: dict[str, tuple[str, ...]] = {}
    for modality, targets in modalities.items():
        if isinstance(targets, str):
            raise ValueError(f"the targets of {modality!r} should be a list of names, got the text {targets!r}.")
        if not targets:
            raise ValueError(f"modality {modality!r} has no target; name at least one.")
        if len(set(targets)) != len(targets):
            raise ValueError(f"modality {modality!r} names a target twice: {list(targets)}.")
        for name in (modality, *targets):
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no usable name: lower-case letters, digits and underscores only.")
        checked[modality] = tuple(targets)
    labels = [f"{modality}_{target}" for modality, targets in checked.items() for target in targets]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"two targets would have the same label {twice[0]!r}; rename one of them.")
    return checked


def label_values(modalities: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """Label value of every target: 1, 2, ... over modalities and targets in their order; 0 is background.

    Returns:
        ``{modality: {target: value}}``.
    """
    values: dict[str, dict[str, int]] = {}
    count = 0
    for modality, targets in check_modalities(modalities).items():
        values[modality] = {target: count + i for i, target in enumerate(targets, start=1)}
        count += len(targets)
    return values


def label_names(modalities: Mapping[str, Sequence[str]]) -> dict[int, str]:
    """Names of the label values, as in a bundle's ``channel_def``: ``{0: "background", 1: "xray_lung", ...}``."""
    names = {0: "background"}
    for modality, targets in label_values(modalities).items():
        names.update({value: f"{modality}_{target}" for target, value in targets.items()})
    return names
