"""What became of a case, on its way from the network to the writer."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from monai.data import MetaTensor
from monai.utils import CommonKeys

from esp_medsam_monai.inferers import SliceBatchInferer
from esp_medsam_monai.io import Case

from .reasons import reason_of

__all__ = ["CaseOutcome", "outcome_of"]


@dataclass
class CaseOutcome:
    """A mask with what belongs to it, or the reason why there is none.

    Args:
        case: the case.
        facts: ``modality`` and ``modality_source``.
        data: ``image`` ``(C, *spatial)`` with the reader's metadata and ``pred`` ``(1, *spatial)``, label values.
        targets: ``{target: label value}`` of the modality.
        stamp: :func:`~esp_medsam_monai.hashing.stamp_of_files` of the case's files when they were read.
        seconds: time of each stage so far, see :data:`~esp_medsam_monai.io.stage_times.STAGES`.
        notes: warnings of the inferer.
        reason: why there is no mask, beginning with a code in capitals; None where there is one.
        trace: the traceback that belongs to ``reason``.
    """

    case: Case
    facts: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)
    targets: dict[str, int] = field(default_factory=dict)
    stamp: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    reason: str | None = None
    trace: str = ""


def outcome_of(
    case: Case,
    item: Mapping[str, Any],
    segment: Callable[[], tuple[MetaTensor, dict[str, int]]],
    inferer: SliceBatchInferer,
) -> CaseOutcome:
    """Segment a case; an exception becomes its outcome and costs no other case.

    Args:
        case: the case.
        item: what :class:`CaseDataset` gives for it.
        segment: returns the mask ``(1, *spatial)`` and ``{target: label value}``.
        inferer: what ``segment`` uses; knows how long the network took and what is to be noted.
    """
    failure = item.get("failure")
    source: Any = item if failure is not None else item[CommonKeys.IMAGE].meta
    facts = {key: source.get(key) or None for key in ("modality", "modality_source")}
    if failure is not None:
        return CaseOutcome(case, facts, reason=failure, trace=item["traceback"])
    started = time.perf_counter()
    try:
        mask, targets = segment()
    except Exception as error:
        return CaseOutcome(case, facts, reason=reason_of(error), trace=traceback.format_exc())
    network = inferer.network_seconds
    prepare = item["seconds"]["prepare"] + time.perf_counter() - started - network
    seconds = {**item["seconds"], "prepare": prepare, "network": network}
    data = {**item, CommonKeys.PRED: mask}
    return CaseOutcome(case, facts, data, targets, item["stamp"], seconds, list(inferer.notes))
