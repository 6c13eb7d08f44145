"""The viewer that MONAI Label ships: a study is opened, the model is run in its panel, the mask lies over the image."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from examples.pacs.namespace import Namespace
from tests.label.browser import Ohif, Overlay, ohif
from tests.label.label_server import Server, segment
from tests.label.mr_study import write_mr_study
from tests.label.orthanc import namespace, orthanc

pytest.importorskip("monailabel", reason="needs an environment with MONAI Label: make test-label")

from examples.pacs.orthanc import Orthanc

__all__ = ["namespace", "orthanc"]

VOLUME = "data/volumes/msd_hippocampus/images/hippocampus_003.nii.gz"


@dataclass(frozen=True)
class Opened:
    """A study in the viewer, and where its files and the bundle are."""

    viewer: Ohif
    server: Server
    dicom: Path
    study: str
    series: str
    bundle: Path
    before: np.ndarray

    def mask(self, *options: str) -> nib.Nifti1Image:
        """The study's mask by the bundle's own command."""
        output = self.dicom.with_name("-".join(("masks", *options)))
        if not output.exists():
            segment(self.dicom, output, self.bundle, *options)
        (file,) = output.rglob("*_seg.nii.gz")
        return nib.load(file)


@pytest.fixture(scope="module")
def opened(
    namespace: Namespace,
    orthanc: Orthanc,
    repository: Path,
    shared_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Opened]:
    """The shipped bundle, an MR study in Orthanc, and a browser that shows it, connected to the server."""
    folder, bundle = tmp_path_factory.mktemp("ohif"), repository / "bundles" / "esp_medsam"
    study = write_mr_study(shared_dir / VOLUME, folder / "dicom")
    (series,) = orthanc.upload(folder / "dicom")
    cache = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache")}
    server = Server(
        orthanc.dicomweb_url, folder / "app", ["--bundle", str(bundle)], environment=cache, prefix=namespace.prefix
    )
    namespace.forward(server.port)
    with server, ohif(server.url) as viewer:
        viewer.open(study)
        viewer.connect()
        yield Opened(viewer, server, folder / "dicom", study, series, bundle, viewer.viewports())


def label_values(bundle: Path) -> dict[str, int]:
    """Value of each target in masks, by its name in the servers."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    names = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    return {name.lower(): int(value) for value, name in names.items()}


def values(overlay: Overlay, bundle: Path) -> np.ndarray:
    """The viewer numbers segments by the alphabet; the same voxels with the bundle's label values."""
    table = np.zeros(256, np.uint8)
    for number, label in overlay.labels.items():
        table[number] = label_values(bundle)[label]
    return table[overlay.array]


def tinted(picture: np.ndarray, color: tuple[int, ...]) -> int:
    """Pixels that are a mixture of some grey and at least a fifth of a colour."""
    hue = np.asarray(color) - np.mean(color)
    spread = picture - picture.mean(axis=-1, keepdims=True)
    share = spread @ hue / (hue @ hue)
    return int(((share > 0.2) & (np.abs(spread - share[..., None] * hue).max(axis=-1) < 6)).sum())


def test_the_mask_of_our_command_lies_over_the_image(opened: Opened, repository: Path, tmp_path: Path) -> None:
    """Voxel for voxel and in place, though nobody chose a modality; and one can see it."""
    viewer = opened.viewer
    answer = viewer.run()
    assert answer.status == 200, answer.text()
    assert "modality" not in answer.request.post_data
    overlay, mask = viewer.overlay(), opened.mask()
    np.testing.assert_allclose(overlay.affine, mask.affine, atol=1e-4)
    expected = np.asarray(mask.dataobj)
    assert {*np.unique(expected)} == {0, 7, 8}, "the test needs a series with both parts of the hippocampus"
    np.testing.assert_array_equal(values(overlay, opened.bundle), expected)
    color = viewer.color("mr_hippocampus_posterior")
    assert tinted(viewer.viewports(), color) > tinted(opened.before, color) + 1000
    viewer.screenshot(tmp_path / "ohif.png")
    documented = repository / "docs" / "images" / "ohif.png"
    if not documented.exists():  # delete it to have a new one
        viewer.screenshot(documented)


def test_a_modality_chosen_in_the_panel_reaches_the_network(opened: Opened) -> None:
    """Another one than the series says gives the mask that the command gives for it."""
    opened.viewer.choose("modality", "ultrasound")
    answer = opened.viewer.run()
    assert answer.status == 200, answer.text()
    mask = opened.mask("--modality", "ultrasound")
    np.testing.assert_array_equal(values(opened.viewer.overlay(), opened.bundle), np.asarray(mask.dataobj))


def test_a_dicom_seg_in_the_archive_opens_over_its_series(opened: Opened, orthanc: Orthanc, tmp_path: Path) -> None:
    """The mode "Segmentation", where it can be corrected, shows named segments, each in its place."""
    answer = opened.server.infer(opened.series, output="dicom_seg")
    assert answer.status_code == 200, answer.text
    orthanc.store(pydicom.dcmread(io.BytesIO(answer.content)))
    mask, names = opened.mask(), {value: name for name, value in label_values(opened.bundle).items()}
    expected = np.vectorize(names.get)(np.asarray(mask.dataobj))
    tab = opened.viewer.tab()
    found = tab.open_dicom_seg(opened.study)
    assert len(found) == mask.shape[2]
    for position, labels in found:
        index = np.rint(np.linalg.inv(mask.affine) @ (*position, 1)).astype(int)
        np.testing.assert_array_equal(index[:2], 0)
        np.testing.assert_array_equal(np.char.replace(labels, " ", "_"), expected[..., index[2]])
    tab.download_dicom_seg(tmp_path / "corrected.dcm")
    saved = pydicom.dcmread(tmp_path / "corrected.dcm")
    assert [part.SegmentLabel for part in saved.SegmentSequence] == [
        "mr hippocampus anterior",
        "mr hippocampus posterior",
    ]
    assert saved.pixel_array.sum() == (expected != "background").sum()


def test_a_study_that_has_gone_is_told_in_the_panel(opened: Opened, orthanc: Orthanc) -> None:
    """The server answers with a sentence, the panel says that it failed, and the viewer goes on."""
    orthanc.delete(opened.series)
    answer = opened.viewer.run()
    assert answer.status == 404
    assert opened.series in answer.json()["detail"]
    assert opened.viewer.page.get_by_text("Failed to Run Segmentation").is_visible()
    assert opened.viewer.overlay().labels
