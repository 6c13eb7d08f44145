"""The report as one page for people: what happened, what failed and why, what was found."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from esp_medsam_monai.modalities import target_color

from .atomic import atomic_path
from .mask_sidecar import NOT_A_MEDICAL_DEVICE
from .thumbnails import thumbnail

__all__ = ["write_report_page"]

MAX_THUMBNAILS = 1000
"""Thumbnails in the page itself; a case beyond has a link to its preview."""

SOURCES = {
    "user": "as you named it",
    "datalist": "from the datalist",
    "dicom": "from the DICOM header",
    "sidecar": "from the file beside the image",
    "default": "the default of this network",
}
EXIT_STATUSES = {
    0: "all cases done",
    1: "the run broke off",
    2: "nothing was found",
    8: "some cases failed",
    130: "the run was interrupted",
}


def write_report_page(path: str | os.PathLike[str], content: Mapping[str, Any]) -> Path:
    """Write ``report.html``: one file without scripts that needs no network; it appears whole or not at all.

    Args:
        path: the page. Links and thumbnails take the files of the report from its folder.
        content: what ``report.json`` holds, ``{"run": {...}, "cases": [rows]}``.

    Returns:
        The path.
    """
    path = Path(path)
    run, rows = content["run"], list(content["cases"])
    failed = [row for row in rows if row["status"] == "failed"]
    pictures = iter(range(MAX_THUMBNAILS))
    warned, fine = (
        [
            _case(row, path.parent, embed=next(pictures, None) is not None)
            for row in rows
            if row["status"] != "failed" and bool(row.get("warnings")) == with_warnings
        ]
        for with_warnings in (True, False)
    )
    page = _template().render(
        headline=_headline(rows, run),
        times=_times(run),
        sentences=_sentences(rows, run),
        notice=NOT_A_MEDICAL_DEVICE,
        counts={status: sum(row["status"] == status for row in rows) for status in ("done", "skipped", "failed")},
        failures=_failures(failed),
        warned=warned,
        fine=fine,
        facts=_facts(run),
        versions=dict(run.get("versions") or {}),
        configuration=json.dumps(run.get("configuration") or {}, indent=2, ensure_ascii=False, default=str),
        ignored=[str(name) for name in run.get("ignored") or ()],
    )
    with atomic_path(path) as temporary:
        # Names of files need not be UTF-8.
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("esp_medsam_monai", "io"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["link"] = _link
    return environment.get_template("report_page.html.j2")


def _link(name: str) -> str:
    """A file's name as a relative address: its characters, ``:`` of a scheme too, mean nothing to a browser."""
    return quote(os.fsencode(PurePath(name).as_posix()))


def _headline(rows: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> str:
    total, failed = len(rows), sum(row["status"] == "failed" for row in rows)
    found = max(int(run.get("cases_found") or 0), total)
    if total < found:
        text = f"{total - failed} of {found} cases done, {failed} failed, {found - total} not begun"
    elif not total:
        text = "No case was processed" if run.get("exit_status") != 2 else "No images were found"
    elif not failed:
        text = f"All {total} cases done" if total > 1 else "The one case is done"
    elif failed == total:
        text = f"All {total} cases failed" if total > 1 else "The one case failed"
    else:
        text = f"{total - failed} of {total} cases done, {failed} failed"
    before = {None: "Not finished", 1: "Broken off", 130: "Interrupted"}.get(run.get("exit_status"))
    return f"{before}: {text[0].lower()}{text[1:]}" if before else text


def _times(run: Mapping[str, Any]) -> str:
    """``Started 3 March 2026, 14:05 UTC, took 12 min 30 s.``"""
    started, finished = (_moment(run.get(key)) for key in ("started", "finished"))
    if started is None:
        return ""
    text = f"Started {started.day} {started:%B %Y, %H:%M} UTC"
    return f"{text}, took {_duration((finished - started).total_seconds())}." if finished else f"{text}."


def _moment(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone(timezone.utc)
    except ValueError:
        return None


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def _sentences(rows: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> list[str]:
    """What the headline leaves open."""
    skipped = sum(row["status"] == "skipped" for row in rows)
    warned = sum(bool(row.get("warnings")) for row in rows if row["status"] != "failed")
    found = []
    if run.get("exit_status") is None:
        found.append("The run has not come to its end: it is still going on, or it was stopped from outside.")
    if skipped:
        found.append(f"{_cases(skipped)} done before and still valid: same image, same weights, same settings.")
    if warned:
        found.append(f"{_cases(warned)} with warnings: read them before you use these masks.")
    return found + [str(note) for note in run.get("notes") or ()]


def _cases(count: int) -> str:
    return f"{count} case" if count == 1 else f"{count} cases"


def _failures(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Failed cases by their code, the most frequent first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        code, colon, sentence = str(row.get("reason") or "UNKNOWN").partition(": ")
        if not colon and not code.replace("_", "").isupper():
            code, sentence = "UNKNOWN", code
        entry = {key: row.get(key) or "" for key in ("case", "input", "error")} | {"sentence": _sentence(sentence)}
        groups.setdefault(code, []).append(entry)
    return [
        {"code": code, "title": code.replace("_", " ").capitalize(), "cases": cases}
        for code, cases in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    ]


def _sentence(text: str) -> str:
    """With a capital at the start, unless it starts with a name that is not ours to change."""
    return text[:1].upper() + text[1:] if text.split(" ")[0].isalpha() else text


def _case(row: Mapping[str, Any], folder: Path, embed: bool) -> dict[str, Any]:
    modality, preview = row.get("modality") or "", row.get("preview") or ""
    slices, shape = row.get("slices"), row.get("shape") or ()
    facts = [
        " \u00d7 ".join(str(side) for side in shape),
        f"{slices} slices" if slices and slices > 1 else "",
        f"{row['seconds']:.1f} s" if row.get("seconds") is not None else "",
    ]
    return {
        "name": row["case"],
        "input": row.get("input") or "",
        "skipped": row["status"] == "skipped",
        "modality": modality,
        "source": SOURCES.get(row.get("modality_source") or "", ""),
        "facts": [fact for fact in facts if fact],
        "slices": slices or 0,
        "warnings": [_sentence(str(sentence)) for sentence in row.get("warnings") or ()],
        "targets": [_target(target, modality) for target in row.get("targets") or ()],
        "files": [
            (text, row[key])
            for text, key in (("Mask", "output"), ("DICOM SEG", "dicom_seg"), ("Preview", "preview"))
            if row.get(key)
        ],
        "preview": preview,
        "thumbnail": thumbnail(folder / preview) if preview and embed else None,
    }


def _target(row: Mapping[str, Any], modality: str) -> dict[str, str]:
    red, green, blue = target_color(modality, row["target"])
    voxels, slices = row.get("voxels") or 0, row.get("slices")
    if row.get("volume_ml") is not None:
        size = f"{_number(row['volume_ml'])} mL"
    elif row.get("area_mm2") is not None:
        size = f"{_number(row['area_mm2'])} mm²"
    else:
        size = f"{voxels:,} pixels"
    return {
        "name": row["target"].replace("_", " "),
        "label": str(row.get("label", "")),
        "color": f"rgb({red}, {green}, {blue})",
        "size": size if voxels else "",
        "percent": f"{_number(row['percent'])} %" if voxels and row.get("percent") is not None else "",
        "slices": str(slices) if voxels and slices is not None else "",
        "components": f"{row['components']:,}" if voxels and row.get("components") is not None else "",
    }


def _number(value: float) -> str:
    """Three digits, never an exponent."""
    if value >= 99.95:
        return f"{value:,.0f}"
    if value >= 0.001:
        return f"{value:#.3g}"
    return "< 0.001" if value > 0 else "0"


def _facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    status = run.get("exit_status")
    facts = [
        ("Started", run.get("started")),
        ("Finished", run.get("finished")),
        ("Exit status", None if status is None else f"{status}: {EXIT_STATUSES.get(status, 'unknown')}"),
        ("Command", shlex.join(str(word) for word in run.get("command") or ())),
        ("Weights", run.get("weights")),
        ("SHA-256 of the weights", run.get("weights_sha256")),
        ("SHA-256 of the configuration", run.get("configuration_sha256")),
    ]
    return [(name, str(value)) for name, value in facts if value]
