"""A network's modalities and targets: which names are good, and which label value belongs to which target.

Values are given once: those of a network's first targets by their order, those of targets that fine-tuning adds behind
them, wherever the modality stands. An added target carries its value with its name, see :class:`AddedTarget`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from .table import shipped_modalities

__all__ = ["AddedTarget", "added_targets", "check_modalities", "extended_modalities", "label_names", "label_values"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_HIGHEST = 255  # masks hold a byte a pixel


class AddedTarget(str):
    """Name of a target that a network got after its first ones, with the label value that it keeps.

    It is the name wherever a text is wanted, and outlives copies of the mapping and of its lists.

    Args:
        name: target name without the modality.
        label_value: 1 to 255.
    """

    label_value: int

    def __new__(cls, name: str, label_value: int) -> AddedTarget:
        self = super().__new__(cls, name)
        self.label_value = label_value
        return self

    def __getnewargs__(self) -> tuple[str, int]:  # type: ignore[override]
        return str(self), self.label_value


def extended_modalities(
    base: Mapping[str, Sequence[str]] | None = None, new: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[str]]:
    """The table of a network with further targets, whose label values follow the highest one in use.

    Everything of ``base`` keeps its place and its value. Targets of a modality that ``base`` has come behind its own;
    modalities that it lacks come last. Who adds a second time names the targets of the first time first.

    Args:
        base: ``{modality: [targets]}`` that weights were trained with; None: the shipped ones.
        new: what is added to it; None or empty: nothing.

    Returns:
        ``{modality: [targets]}``.

    Raises:
        ValueError: as :func:`check_modalities`; when ``new`` is no such mapping or has a target that ``base`` has.
    """
    if new is not None and not isinstance(new, Mapping):
        raise ValueError(f"new targets should be given as {{modality: [targets]}}, got {new!r}.")
    table: dict[str, list[str]] = {
        modality: list(targets)
        for modality, targets in check_modalities(shipped_modalities() if base is None else base).items()
    }
    value = max(label_names(table))
    for modality, targets in (check_modalities(new) if new else {}).items():
        for target in targets:
            value += 1
            table.setdefault(modality, []).append(AddedTarget(target, value))
    check_modalities(table)
    return table


def added_targets(modalities: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The targets of a table that were added to it, by modality; modalities without such targets are left out."""
    added = {
        name: tuple(each for each in targets if isinstance(each, AddedTarget)) for name, targets in modalities.items()
    }
    return {modality: targets for modality, targets in added.items() if targets}


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
    values = list(_values(checked))
    if len(set(values)) != len(values) or max(values) > _HIGHEST:
        raise ValueError(f"label values should be different and at most {_HIGHEST}, got {values}.")
    return checked


def _values(modalities: Mapping[str, Sequence[str]]) -> Iterator[int]:
    """Label value of every target, in their order."""
    first = itertools.count(1)
    for targets in modalities.values():
        for target in targets:
            yield target.label_value if isinstance(target, AddedTarget) else next(first)


def label_values(modalities: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """Label value of every target: 1, 2, ... over modalities and targets in their order; 0 is background.

    A target that was added later (:class:`AddedTarget`) has the value that it was given then.

    Returns:
        ``{modality: {target: value}}``.
    """
    checked = check_modalities(modalities)
    values = _values(checked)
    return {modality: {target: next(values) for target in targets} for modality, targets in checked.items()}


def label_names(modalities: Mapping[str, Sequence[str]]) -> dict[int, str]:
    """Names of the label values, as in a bundle's ``channel_def``: ``{0: "background", 1: "xray_lung", ...}``."""
    names = {
        value: f"{modality}_{target}"
        for modality, targets in label_values(modalities).items()
        for target, value in targets.items()
    }
    return {0: "background", **dict(sorted(names.items()))}
