"""report.html: says what happened, in one file that is safe to open."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from esp_medsam_monai.io import report_page
from esp_medsam_monai.io.preview import write_preview
from esp_medsam_monai.io.report_page import write_report_page
from esp_medsam_monai.io.thumbnails import thumbnail
from esp_medsam_monai.modalities import target_color

VOID = {"meta", "img", "br", "link", "input"}
RUN = {
    "versions": {"monai": "1.6.1"},
    "command": ["esp-medsam", "segment", "in folder", "out"],
    "configuration": {"axis": None},
    "configuration_sha256": "c" * 64,
    "weights": "models/model.pt",
    "weights_sha256": "d" * 64,
    "started": "2026-03-03T15:05:12+01:00",
    "finished": "2026-03-03T14:17:42+00:00",
    "exit_status": 8,
    "notes": [],
    "ignored": ["DICOMDIR", "notes & more.txt"],
}


class Page(HTMLParser):
    """Checks that elements nest, and keeps text, links, pictures and headings."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.links, self.images, self.tags = "", [], [], []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        assert self.open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.append((tag, known))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "a":
            self.links.append(known["href"] or "")
        if tag == "img":
            self.images.append(known)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += f" {data}"


def done(case: str, **facts: Any) -> dict[str, Any]:
    target = {"target": "hippocampus_anterior", "label": 7, "name": "mr_hippocampus_anterior", "voxels": 12}
    target |= {"percent": 1.25, "volume_ml": 1.234, "area_mm2": None, "slices": 4, "components": 2}
    return {
        "case": case,
        "input": f"in/{case}.nii.gz",
        "status": "done",
        "reason": None,
        "modality": "mr",
        "modality_source": "dicom",
        "slices": 24,
        "seconds": 3.21,
        "output": f"{case}_seg.nii.gz",
        "warnings": [],
        "shape": [64, 63, 24],
        "targets": [target],
        "preview": None,
        "dicom_seg": None,
        "error": None,
    } | facts


def failed(case: str, reason: str) -> dict[str, Any]:
    facts = {"status": "failed", "reason": reason, "output": None, "targets": [], "error": f"{case}.error.txt"}
    return done(case, **facts, modality=None, modality_source=None, slices=None, seconds=None, shape=None)


def page(path: Path, *cases: dict[str, Any], **run: Any) -> Page:
    return Page(write_report_page(path / "report.html", {"run": RUN | run, "cases": list(cases)}))


def drawn(path: Path, shape: tuple[int, ...] = (40, 30, 9)) -> Path:
    mask = torch.zeros((1, *shape), dtype=torch.uint8)
    mask[:, 4:30, 4:25] = 7
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_preview(path, MetaTensor(torch.full((1, *shape), 60.0)), mask, {"hippocampus_anterior": 7}, "mr", "a")


def test_values_what_happened_in_words(tmp_path: Path) -> None:
    text = page(
        tmp_path,
        done("a"),
        done("b", status="skipped"),
        done("c", warnings=["outside what it knows."]),
        failed("d", "NO_WEIGHTS: d is ct; take other weights."),
        notes=["Device memory ran out once."],
    ).text
    assert "3 of 4 cases done, 1 failed" in text
    assert "Started 3 March 2026, 14:05 UTC, took 12 min 30 s." in text
    assert "1 case done before and still valid" in text
    assert "1 case with warnings" in text
    assert "Device memory ran out once." in text
    assert "not a medical device" in text
    assert "esp-medsam segment 'in folder' out" in text
    for fact in ("d" * 64, "c" * 64, "monai 1.6.1", "8: some cases failed", "notes & more.txt"):
        assert fact in text


@pytest.mark.parametrize(
    ("cases", "run", "expected"),
    [
        ([done("a"), done("b")], {"exit_status": 0}, "All 2 cases done"),
        ([done("a")], {"exit_status": 0}, "The one case is done"),
        ([failed("a", "X: y"), failed("b", "X: y")], {}, "All 2 cases failed"),
        ([], {"exit_status": 2}, "No images were found"),
        ([done("a"), failed("b", "X: y")], {"exit_status": 130}, "Interrupted: 1 of 2 cases done, 1 failed"),
        ([done("a")], {"exit_status": 130, "cases_found": 9}, "Interrupted: 1 of 9 cases done, 0 failed, 8 not begun"),
        ([done("a"), done("b")], {"exit_status": None, "finished": None}, "Not finished: all 2 cases done"),
    ],
)
def test_values_headline(cases: list[dict], run: dict, expected: str, tmp_path: Path) -> None:
    assert f"<h1>{expected}</h1>" in page(tmp_path, *cases, **run).html


def test_values_failures_come_first_by_code(tmp_path: Path) -> None:
    result = page(
        tmp_path,
        done("fine"),
        failed("one", "TRUNCATED: one is damaged; copy it again."),
        done("strange", warnings=["Mind this."]),
        failed("two", "NO_WEIGHTS: two is ct; take other weights."),
        failed("sub/three", "NO_WEIGHTS: three is ct; take other weights."),
        failed("four", "something without a code"),
    )
    order = ["NO_WEIGHTS", "two", "three", "TRUNCATED", "One is damaged", "Mind this.", "in/fine.nii.gz"]
    places = [result.text.index(word) for word in order]
    assert places == sorted(places)
    assert "No weights" in result.text
    assert "Something without a code" in result.text
    assert "two.error.txt" in result.links
    assert "sub/three.error.txt" in result.links


def test_values_of_a_case(tmp_path: Path) -> None:
    result = page(tmp_path, done("a", dicom_seg="a_seg.dcm"))
    for word in (
        "64 \u00d7 63 \u00d7 24",
        "24 slices",
        "3.2 s",
        "from the DICOM header",
        "1.23 mL",
        "1.25 %",
        "label 7",
    ):
        assert word in result.text
    red, green, blue = target_color("mr", "hippocampus_anterior")
    assert f"rgb({red}, {green}, {blue})" in result.html
    assert result.links == ["a_seg.nii.gz", "a_seg.dcm"]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"voxels": 0, "volume_ml": 0.0}, "nothing found"),
        ({"volume_ml": None, "area_mm2": 1234.5}, "1,234 mm²"),
        ({"volume_ml": None, "voxels": 12345}, "12,345 pixels"),
        ({"volume_ml": 0.0000012}, "< 0.001 mL"),
        ({"volume_ml": 1.8}, "1.80 mL"),
    ],
)
def test_values_sizes(facts: dict[str, Any], expected: str, tmp_path: Path) -> None:
    case = done("a")
    case["targets"][0] |= facts
    assert expected in page(tmp_path, case).text


def test_values_thumbnail_is_the_middle_of_the_preview(tmp_path: Path) -> None:
    drawn(tmp_path / "sub" / "a_preview.png")
    result = page(tmp_path, done("sub/a", preview="sub/a_preview.png"))
    (image,) = result.images
    kind, _, data = image["src"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert "sub/a" in image["alt"]
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert max(picture.size) <= 360
    assert picture.width > picture.height  # panels side by side
    assert result.links.count("sub/a_preview.png") == 2  # the picture and the word


def test_values_thumbnail_of_a_picture_is_the_panel_with_contours(tmp_path: Path) -> None:
    data = thumbnail(drawn(tmp_path / "a.png", (40, 30)))
    assert data is not None
    picture = Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB")
    assert picture.width / picture.height == pytest.approx(40 / 30, rel=0.02)  # one panel of two
    middle = picture.getpixel((picture.width // 2, picture.height // 2))
    assert max(middle) - min(middle) > 10  # tinted, not grey


def test_bad_input_preview_missing_or_damaged(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"\x89PNG half")
    whole = drawn(tmp_path / "c.png")
    whole.write_bytes(whole.read_bytes()[:2000])
    cases = [done(name, preview=f"{name}.png") for name in "abc"]
    result = page(tmp_path, *cases)
    assert result.images == []
    assert {"a.png", "b.png", "c.png"} <= set(result.links)


def test_values_beyond_so_many_thumbnails_there_are_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_page, "MAX_THUMBNAILS", 2)
    drawn(tmp_path / "a.png")
    result = page(tmp_path, *(done(str(i), preview="a.png") for i in range(4)))
    assert len(result.images) == 2
    assert result.text.count("open the preview") == 2


def test_bad_input_names_are_text(tmp_path: Path) -> None:
    """Names of files, and what they made an error say, come from anywhere."""
    evil = '<script>alert("1")</script>\'"&'
    result = page(tmp_path, done(evil, warnings=[evil]), failed("b", f"X: {evil}"), ignored=[evil], command=[evil])
    assert "script" not in {tag for tag, _ in result.tags}
    assert result.text.count("alert") >= 5
    assert not [name for _, known in result.tags for name in known if name.startswith("on")]


@pytest.mark.parametrize("name", ["javascript:alert(1)/a", "Süd #3/50%/a?b", "http://x/a", "caf\udce9", "a b"])
def test_bad_input_links_lead_to_files(name: str, tmp_path: Path) -> None:
    (link,) = page(tmp_path, done(name)).links
    assert re.fullmatch(r"[\w.%/~-]+", link)
    assert unquote(link, errors="surrogateescape") == f"{Path(name).as_posix()}_seg.nii.gz"


def test_values_page_stands_alone(tmp_path: Path) -> None:
    """No script, no network: nothing that a browser would load by itself but data."""
    drawn(tmp_path / "a.png")
    result = page(tmp_path, done("a", preview="a.png"))
    for tag, known in result.tags:
        assert tag not in {"script", "link", "iframe", "object"}
        assert known.get("src", "data:").startswith("data:")
    assert not re.search(r"url\(|@import|https?://", result.html)
    assert "default-src 'none'" in result.html


def test_values_page_is_for_everybody(tmp_path: Path) -> None:
    drawn(tmp_path / "a.png")
    result = page(tmp_path, done("a", preview="a.png"), failed("b", "X: y"))
    tags = dict(result.tags)
    assert tags["html"]["lang"] == "en"
    assert all(known.get("alt") for tag, known in result.tags if tag == "img")
    assert all(known.get("scope") for tag, known in result.tags if tag == "th")
    levels = [int(tag[1]) for tag, _ in result.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert "prefers-color-scheme: dark" in result.html
    assert "@media print" in result.html


def test_values_row_of_an_older_report(tmp_path: Path) -> None:
    """Resuming merges rows of earlier versions, which know less."""
    row = {"case": "a", "input": "a.nii", "status": "skipped", "reason": None, "output": "a_seg.nii.gz"}
    assert "a_seg.nii.gz" in page(tmp_path, row, versions={}, ignored=[]).links
