"""How a run over a folder is told: in files, and in a line."""

from __future__ import annotations

import logging

from esp_medsam_monai.io import RunReport, write_report_page, write_report_table

from .reasons import reason_of

__all__ = ["summary", "write_reports"]

_LOGGER = logging.getLogger(__name__)


def write_reports(report: RunReport, exit_status: int) -> None:
    """Write all three; ``report.json`` must be written, the table and the page are made of it.

    Args:
        report: of the run, which has ended.
        exit_status: how it ended.
    """
    content = report.finish(exit_status)
    for write, name in ((write_report_table, "report.csv"), (write_report_page, "report.html")):
        path = report.path.with_name(name)
        try:
            write(path, content)
        except Exception as error:  # a table that somebody has open, for instance
            _LOGGER.error("%s was not written: %s", path, reason_of(error))
            _LOGGER.debug(name, exc_info=True)


def summary(report: RunReport) -> str:
    """What became of the cases, and where the time went, in a line."""
    done, skipped, failed = (report.count(status) for status in ("done", "skipped", "failed"))
    counts = f"{done} cases done, {skipped} done before, {failed} failed"
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in (report.run["seconds_by_stage"] or {}).items())
    times = f" in {report.run['seconds']:.1f} s (by stage: {stages})" if done and report.run["seconds"] else ""
    runtime = f" with {report.run['runtime']}" if times and report.run.get("runtime") else ""
    return f"{counts}{times}{runtime}; see {report.path.with_suffix('.html')}"
