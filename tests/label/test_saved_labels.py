"""Which modality a saved label is about, and what its values mean. Without MONAI Label."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.io import MedicalImageReader
from esp_medsam_monai.label.saved_labels import EntryMaker, SavedLabel, stated_names
from esp_medsam_monai.label.train_options import TrainOptions
from esp_medsam_monai.label.training_folder import TrainingFolder, last_result
from esp_medsam_monai.modalities import shipped_modalities

ANTERIOR, POSTERIOR = 7, 8  # contract.md, "Label values"
Pair = Callable[..., SavedLabel]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Writer of an image and its label, in which each of the given values has some voxels."""

    def write(
        *values: float,
        name: str = "a",
        sidecar: str | None = None,
        hint: str | None = None,
        names: Mapping[int, str] | None = None,
        shape: tuple[int, ...] = (8, 9, 4),
    ) -> SavedLabel:
        generator = np.random.default_rng(0)
        image, label = tmp_path / f"{name}.nii.gz", tmp_path / "labels" / f"{name}.nii.gz"
        label.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(generator.integers(0, 900, (8, 9, 4)).astype(np.int16), np.eye(4)), image)
        mask = np.zeros(shape, dtype=np.float32)
        for row, value in enumerate(values, start=1):
            mask[row] = value
        nib.save(nib.Nifti1Image(mask, np.eye(4)), label)
        if sidecar:
            (tmp_path / f"{name}.json").write_text(json.dumps({"modality": sidecar}))
        return SavedLabel(str(image), str(label), None, hint, names)

    return write


def entry_of(saved: SavedLabel, modality: str | None = None) -> dict[str, Any]:
    return EntryMaker(shipped_modalities(), modality)(saved)[0]


def refused(saved: SavedLabel, modality: str | None = None) -> str:
    with pytest.raises(InputRefused) as caught:
        entry_of(saved, modality)
    return str(caught.value)


def test_the_values_of_the_table_say_the_modality(pair: Pair) -> None:
    assert entry_of(pair(ANTERIOR, POSTERIOR))["modality"] == "mr"
    assert entry_of(pair(POSTERIOR))["modality"] == "mr"
    assert entry_of(pair(3))["modality"] == "ultrasound"


def test_the_names_that_a_client_gave_go_before_the_table(pair: Pair) -> None:
    """3D Slicer numbers the segments of a scene from 1."""
    names = {1: "mr_hippocampus_posterior", 2: "mr_hippocampus_anterior", 3: "xray_lung"}
    entry = entry_of(pair(1, 2, names=names))
    assert entry["modality"] == "mr"
    assert entry["labels"] == {"hippocampus_posterior": 1, "hippocampus_anterior": 2}
    assert "NO_MODALITY" in refused(pair(1, names={1: "segment_1"}))


@pytest.mark.parametrize(
    ("info", "names"),
    [
        (None, {}),
        ({"ts": 1}, {}),
        ({"label_info": [{"name": "XRay_Lung", "idx": 3}]}, {3: "xray_lung"}),
        ({"label_info": [{"name": "xray_lung"}]}, {}),
        ({"label_info": "xray_lung"}, {}),
    ],
)
def test_names_need_numbers(info: Any, names: dict[int, str]) -> None:
    assert stated_names(info) == names


def test_an_ambiguous_or_empty_label_leaves_it_to_the_image(pair: Pair) -> None:
    assert entry_of(pair(sidecar="mr"))["modality"] == "mr"
    assert entry_of(pair(name="b", hint="MR"))["modality"] == "mr"
    told = refused(pair(name="c"))
    assert told.startswith("NO_MODALITY: ") and "c.nii.gz" in told
    assert refused(pair(1, ANTERIOR, name="d")).startswith("NO_MODALITY: ")


def test_a_value_of_another_modality_is_refused_and_both_are_named(pair: Pair) -> None:
    told = refused(pair(1, sidecar="mr"))
    assert told.startswith("OTHER_MODALITY: ") and "dermoscopy_lesion" in told and "is mr" in told
    told = refused(pair(1, ANTERIOR, sidecar="mr", name="b"))
    assert told.startswith("UNKNOWN_LABELS: ") and "the value 1" in told


def test_the_users_word_goes_first(pair: Pair) -> None:
    assert refused(pair(ANTERIOR), "xray").startswith("UNKNOWN_LABELS: ")
    assert entry_of(pair(1, sidecar="mr"), "dermoscopy")["modality"] == "dermoscopy"


def test_a_label_that_does_not_fit_its_image_is_refused(pair: Pair, tmp_path: Path) -> None:
    assert refused(pair(ANTERIOR, shape=(8, 9, 5))).startswith("LABEL_SHAPE: ")
    assert refused(pair(ANTERIOR, 0.5, name="b")).startswith("LABEL_NON_INTEGER: ")
    missing = SavedLabel(str(tmp_path / "gone.nii.gz"), pair(ANTERIOR, name="c").label)
    assert "gone.nii.gz" in refused(missing)


@pytest.mark.parametrize("stored_as", ["series", "converted"])
def test_of_a_series_and_its_conversion_that_is_taken_which_the_label_lies_on(
    tmp_path: Path, dicom_series: Callable[..., list[Path]], stored_as: str
) -> None:
    series = tmp_path / "series"
    dicom_series(series, [(0.0, 0.0, 2.0 * k) for k in range(4)], Modality="MR")
    reader = MedicalImageReader()
    array, meta = reader.get_data(reader.read(str(series)))
    image = nib.Nifti1Image(array.astype(np.int16), meta["affine"])
    upside_down = image.as_reoriented(np.array([[0, 1], [1, 1], [2, -1]]))
    converted = tmp_path / "series.nii.gz"
    nib.save(upside_down, converted)
    like = image if stored_as == "series" else upside_down
    mask = np.zeros(array.shape, dtype=np.uint8)
    mask[2] = 1
    nib.save(nib.Nifti1Image(mask, like.affine), tmp_path / "label.nii.gz")
    names = {1: "mr_hippocampus_anterior"}
    entry = entry_of(SavedLabel(str(converted), str(tmp_path / "label.nii.gz"), str(series), "MR", names))
    assert entry["modality"] == "mr"
    assert entry["image"] == str(series if stored_as == "series" else converted)


def test_a_refused_label_costs_no_other(pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved = [pair(ANTERIOR, name=f"good{i}") for i in range(5)] + [pair(name="silent"), pair(2, name="lung")]
    (tmp_path / "labels" / "good4.nii.gz").write_bytes(b"broken")
    folder = TrainingFolder.create(tmp_path / "trainings")
    with caplog.at_level("INFO"):
        learning = folder.write_datalist(saved, shipped_modalities(), TrainOptions(val_split=0.5))
    assert learning == ["xray", "mr"]
    content = json.loads(folder.datalist.read_text())
    # Half of four, and of the single lung none.
    assert [entry["modality"] for entry in content["training"]] == ["mr", "mr", "xray"]
    slices = [entry["slice"] for entry in content["validation"] if entry["image"] == content["validation"][0]["image"]]
    assert slices == [[place, 12] for place in range(12)]
    assert len(content["validation"]) == 2 * len(slices)
    assert len(content["left_out"]) == 2
    assert "2 of 7 labels were left out" in caplog.text
    assert "good4.nii.gz" in caplog.text and "silent.nii.gz" in caplog.text


def test_a_label_that_slicer_saved_as_nrrd_is_read(pair: Pair, tmp_path: Path) -> None:
    saved = pair(ANTERIOR, POSTERIOR)
    nrrd = tmp_path / "labels" / "a.nrrd"
    sitk.WriteImage(sitk.ReadImage(saved.label), str(nrrd))
    folder = TrainingFolder.create(tmp_path / "trainings")
    assert folder.write_datalist([SavedLabel(saved.image, str(nrrd))], shipped_modalities(), TrainOptions()) == ["mr"]
    (entry,) = json.loads(folder.datalist.read_text())["training"]
    expected, found = nib.load(saved.label), nib.load(entry["label"])
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
    np.testing.assert_allclose(found.affine, expected.affine)


def test_without_a_usable_label_nothing_is_trained(pair: Pair, tmp_path: Path) -> None:
    folder = TrainingFolder.create(tmp_path / "trainings")
    for saved, sentence in (([], "tag final"), ([pair(name="silent")], "silent.nii.gz")):
        with pytest.raises(InputRefused, match="NO_LABELS") as caught:
            folder.write_datalist(saved, shipped_modalities(), TrainOptions())
        assert sentence in str(caught.value)


def test_a_further_image_leaves_most_of_the_validation_as_it_was(pair: Pair, tmp_path: Path) -> None:
    def validation(count: int) -> set[str]:
        folder = TrainingFolder.create(tmp_path / "trainings")
        saved = [pair(ANTERIOR, name=f"case{i}") for i in range(count)]
        folder.write_datalist(saved, shipped_modalities(), TrainOptions(val_split=0.4))
        return {Path(entry["image"]).name for entry in json.loads(folder.datalist.read_text())["validation"]}

    small, large = validation(10), validation(11)
    assert len(small) == 4 and len(small & large) >= 3


def write_run(folder: TrainingFolder, before: float | None, dice: list[float | None]) -> None:
    """What a training leaves in its folder."""
    rows = [
        {"epoch": i, "loss": 1.0, **({} if value is None else {"dice": {"mean": value}})}
        for i, value in enumerate(dice, start=1)
    ]
    (folder.path / "history.json").write_text(json.dumps(rows))
    (folder.path / "datalist.json").write_text(json.dumps({"training": [], "validation": [], "left_out": []}))
    if before is not None:
        (folder.path / "start.json").write_text(json.dumps({"dice": before}))


@pytest.mark.parametrize(
    ("before", "dice", "better", "epoch"),
    [
        (0.5, [0.4, 0.6, 0.55], True, 2),
        (0.6, [0.4, 0.6], True, 2),
        (0.7, [0.4, 0.6], False, 2),
        (None, [None] * 3, True, 3),
    ],
)
def test_weights_are_taken_when_they_are_not_worse(
    tmp_path: Path, before: float | None, dice: list[float | None], better: bool, epoch: int
) -> None:
    folder = TrainingFolder.create(tmp_path)
    write_run(folder, before, dice)
    result = folder.result()
    assert (result["better"], result["epoch"]) == (better, epoch)
    folder.tell(result, tmp_path / "model.pt")
    assert last_result(tmp_path) == result


def test_checkpoints_of_killed_trainings_are_removed(tmp_path: Path) -> None:
    killed = TrainingFolder.create(tmp_path)
    for name in ("best.pt", "last.pt", ".partial-host-1-last.pt", "history.json"):
        (killed.path / name).write_bytes(b"")
    assert TrainingFolder.create(tmp_path).path != killed.path
    assert [path.name for path in killed.path.iterdir()] == ["history.json"]
