"""OHIF in a headless Chromium, used as a person uses it: with the mouse and the keyboard."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

__all__ = ["Ohif", "Overlay", "ohif"]

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
# OHIF draws volumes with WebGL, which a computer without a graphics card does in software.
FLAGS = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
WINDOW = {"width": 1600, "height": 900}
LIMIT = 240_000
"""Milliseconds; generous, because software draws slowly and the computer may be shared."""

VOLUME_IS_LOADED = """() => {
    const volumes = window.cornerstone?.cache.getVolumes() ?? [];
    return volumes.some((volume) => volume.loadStatus?.loaded);
}"""
HAS_LABELMAP = "() => window.cornerstoneTools.segmentation.state.getSegmentations().length > 0"
READ_LABELMAP = """() => {
    const [segmentation] = window.cornerstoneTools.segmentation.state.getSegmentations();
    const volume = window.cornerstone.cache.getVolume(segmentation.representationData.Labelmap.volumeId);
    const bytes = volume.voxelManager.getCompleteScalarDataArray();
    return {
        voxels: btoa(bytes.reduce((text, byte) => text + String.fromCharCode(byte), '')),
        segments: Object.values(segmentation.segments).map(({segmentIndex, label}) => [segmentIndex, label]),
        dimensions: volume.dimensions, spacing: [...volume.spacing], origin: [...volume.origin],
        direction: [...volume.direction],
    };
}"""
READ_SLICES = """() => {
    const {cornerstone, cornerstoneTools} = window;
    const [segmentation] = cornerstoneTools.segmentation.state.getSegmentations();
    return segmentation.representationData.Labelmap.imageIds.map((id) => {
        const image = cornerstone.cache.getImage(id);
        const plane = cornerstone.metaData.get('imagePlaneModule', image.referencedImageId);
        const labels = [...image.voxelManager.getScalarData()].map((index) => segmentation.segments[index]?.label);
        return {labels, position: [...plane.imagePositionPatient], shape: [image.rows, image.columns]};
    });
}"""
READ_COLOR = """(label) => {
    const {state, config} = window.cornerstoneTools.segmentation;
    const {segmentationId, segments} = state.getSegmentations()[0];
    const {segmentIndex} = Object.values(segments).find((segment) => segment.label === label);
    return [...config.color.getSegmentIndexColor('mpr-axial', segmentationId, segmentIndex)];
}"""
NEXT_PICTURE = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@dataclass(frozen=True)
class Overlay:
    """The segmentation that the viewer shows: ``array`` of shape ``(X, Y, Z)`` and its RAS ``affine`` ``(4, 4)``.

    Attributes:
        array: numbers of segments, uint8.
        affine: of the volume that the viewer draws, made of its origin, spacing and directions.
        labels: name of each number.
    """

    array: np.ndarray
    affine: np.ndarray
    labels: dict[int, str]


class Ohif:
    """A page with OHIF.

    Args:
        page: a page of Playwright.
        url: of the MONAI Label server that ships the viewer.
    """

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.console: list[str] = []
        page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.console.append(f"uncaught: {error}"))

    def tab(self) -> Ohif:
        """Another tab of the same browser."""
        return Ohif(self.page.context.new_page(), self.url)

    def open(self, study: str) -> None:
        """Choose a study by its StudyInstanceUID in the list of studies, and wait until its volume is there."""
        self.page.goto(f"{self.url}/ohif/")
        self.page.click("text=Confirm and Hide")  # what OHIF says of its use
        self.page.click(f"[data-cy='studyRow-{study}']")
        self.page.click("a[href*='/monai-label?'] button")
        self.page.wait_for_function(VOLUME_IS_LOADED)

    def connect(self) -> None:
        """Tell the panel where the server is: it takes port 8000 unless told, whatever port the page came from."""
        self.page.fill("#monailabelServerURL", f"{self.url}/")
        self.page.click(".settingsTable button")
        self.page.wait_for_selector("text=Auto-Segmentation")
        self.page.wait_for_function(HAS_LABELMAP)

    def choose(self, option: str, value: str) -> None:
        """Set an option of the model in the panel's dialog."""
        self.page.click("text=Options / Configurations")
        self.page.locator(f".optionsConfig tr:has(td:text-is('{option}')) select").select_option(value)
        self.page.get_by_text("Confirm", exact=True).click()

    def run(self) -> Any:
        """Press Run of "Auto-Segmentation"; the server's answer, after the panel has dealt with it."""
        told = self.page.locator("text=/Running Segmentation - Successful|Failed to Run Segmentation/").first
        told.wait_for(state="hidden")  # what was said of an earlier run
        with self.page.expect_response(lambda answer: "/infer/" in answer.url) as waiting:
            self.page.click("button[title='Run Segmentation']")
        answer = waiting.value
        answer.finished()
        told.wait_for()
        self.page.evaluate(NEXT_PICTURE)
        return answer

    def overlay(self) -> Overlay:
        """What the viewer keeps as segmentation."""
        told = self.page.evaluate(READ_LABELMAP)
        voxels = np.frombuffer(base64.b64decode(told["voxels"]), np.uint8)
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(told["direction"], (3, 3)).T * told["spacing"]
        affine[:3, 3] = told["origin"]
        # The viewer counts x to the left and y to the back, as DICOM does.
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
        return Overlay(voxels.reshape(told["dimensions"], order="F"), affine, dict(told["segments"]))

    def open_dicom_seg(self, study: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Open the one DICOM SEG of a study in the mode "Segmentation".

        Returns:
            Of each slice its position (mm, RAS), of its pixels ``(columns, rows)`` the name of the segment.
        """
        self.page.goto(f"{self.url}/ohif/segmentation?StudyInstanceUIDs={study}")
        self.page.locator("[data-cy='study-browser-thumbnail-no-image']").dblclick()
        self.page.wait_for_function(HAS_LABELMAP)
        self.page.get_by_text("Yes", exact=True).click()  # "Do you want to open this Segmentation?"
        return [
            (
                np.asarray(told["position"]) * (-1, -1, 1),
                np.asarray([label or "background" for label in told["labels"]]).reshape(told["shape"]).T,
            )
            for told in self.page.evaluate(READ_SLICES)
        ]

    def download_dicom_seg(self, path: Path) -> None:
        """Save the segmentation that is open in the mode "Segmentation" as a file."""
        menu = "//button[@role='combobox']/preceding::button[@aria-haspopup='menu'][1]"
        self.page.locator(f"xpath={menu}").last.click()
        self.page.get_by_role("menuitem", name="Export & Download").hover()
        with self.page.expect_download() as waiting:
            self.page.get_by_role("menuitem", name="Download DICOM SEG").click()
        waiting.value.save_as(path)

    def color(self, label: str) -> tuple[int, ...]:
        """Red, green and blue (0..255) of a segment."""
        return tuple(self.page.evaluate(READ_COLOR, label)[:3])

    def viewports(self) -> np.ndarray:
        """The picture of all viewports, ``(H, W, 3)`` uint8."""
        picture = self.page.locator("[data-cy='viewport-grid']").screenshot()
        return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        self.page.screenshot(path=path)


@contextmanager
def ohif(url: str) -> Iterator[Ohif]:
    """Start a browser for the viewer of the MONAI Label server at a URL."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        pytest.skip("needs Chromium: sudo apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(FLAGS))
        context = browser.new_context(viewport=WINDOW)
        context.set_default_timeout(LIMIT)
        try:
            yield Ohif(context.new_page(), url)
        finally:
            browser.close()
