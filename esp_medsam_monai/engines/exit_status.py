"""How a run over a folder ended: its exit status, and with several ranks that of all together."""

from __future__ import annotations

from esp_medsam_monai.io import RunReport

from .interruption import INTERRUPTED
from .ranks import gather_objects

__all__ = ["ALL_DONE", "BROKEN", "NOTHING_FOUND", "SOME_FAILED", "end_of_ranks", "status_of"]

ALL_DONE, BROKEN, NOTHING_FOUND, SOME_FAILED = 0, 1, 2, 8


def status_of(report: RunReport) -> int:
    """Status of a run that came to its end."""
    return SOME_FAILED if report.count("failed") else ALL_DONE


def end_of_ranks(report: RunReport, exit_status: int) -> int:
    """Put together what the ranks of a distributed run have done; each has to call this at its end.

    Args:
        report: this rank's; it gets the rows and notes of all.
        exit_status: this rank's.

    Returns:
        The status that all of them end with: the worst one.

    Raises:
        RuntimeError: when a rank has died, or does not come within the process group's time limit.
    """
    ranks = gather_objects((report.cases, report.run["notes"], exit_status))
    for rows, notes, _ in ranks:
        report.merge(rows)
        for sentence in notes:
            report.note(sentence)
    statuses = {status for _, _, status in ranks}
    worst = next((each for each in (BROKEN, INTERRUPTED, NOTHING_FOUND) if each in statuses), None)
    return status_of(report) if worst is None else worst
