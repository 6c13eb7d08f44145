"""A second run does what is new, changed or broken, and nothing else."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from esp_medsam_monai.transforms import postprocessing

from esp_medsam_monai.engines import WeightsLoader
from esp_medsam_monai.modalities import AddedTarget
from tests.engines.folder_runs import MODALITIES, Bright, exit_status, make_evaluator, report_rows

CASES = {"chest", "mr/deep/a", "mr/deep/b"}


def run(folder: Path, out: Path, network: Bright | None = None, **kwargs: Any) -> tuple[set[str], Bright]:
    """Names of the cases that were done, not skipped, and the network that did them."""
    network = network or Bright()
    assert exit_status(make_evaluator(folder, out, network, **kwargs)) == 0
    rows = report_rows(out)
    assert set(rows) == CASES
    assert {row["status"] for row in rows.values()} <= {"done", "skipped"}
    return {case for case, row in rows.items() if row["status"] == "done"}, network


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*_seg.*") if path.suffix != ".~1~"}


def test_values_done_is_skipped_and_keeps_its_row(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(folder, out)[0] == CASES
    first, files = report_rows(out), contents(out)
    done, network = run(folder, out)
    assert done == set()
    assert network.calls == 0
    second = report_rows(out)
    for case in CASES:
        assert second[case] == first[case] | {"status": "skipped"}
    assert contents(out) == files
    assert run(folder, out)[0] == set()  # what is skipped stays valid


def test_values_other_weights(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for value, expected in ((1.0, CASES), (1.0, set()), (2.0, CASES)):
        torch.save({"scale": torch.full((1,), value)}, tmp_path / "w.pt")
        network = Bright()
        handlers = [WeightsLoader(network, tmp_path, tmp_path / "w.pt")]
        assert run(folder, out, network, val_handlers=handlers)[0] == expected


def test_values_other_configuration_or_overwrite(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(folder, out, configuration={"axis": 0})
    assert run(folder, out, configuration={"axis": 0})[0] == set()
    assert run(folder, out, configuration={"axis": 1})[0] == CASES
    assert run(folder, out, configuration={"axis": 1}, overwrite=True)[0] == CASES


def test_values_other_label_values(folder: Path, tmp_path: Path) -> None:
    """The same names can stand for other values: a target of the first table, or one that was added to it."""
    out, network = tmp_path / "out", Bright()
    run(folder, out, network)
    network.modalities = {**MODALITIES, "mr": (AddedTarget("hippocampus_anterior", 9),)}
    saving = {"postprocessing": postprocessing(output_dir=out, modalities=network.modalities)}
    assert run(folder, out, network, **saving)[0] == CASES
    assert run(folder, out, network, **saving)[0] == set()


def test_values_other_input(folder: Path, volume: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(folder, out)
    volume(spacing=(4.0, 5.0, 6.0), seed=5).save(folder / "mr/deep/a.nii.gz")
    assert run(folder, out)[0] == {"mr/deep/a"}
    os.utime(folder / "chest.png", (1, 1))  # another time, the same content
    assert run(folder, out)[0] == set()
    (folder / "mr" / "modality.json").write_text('{"modality": "xray"}', encoding="utf-8")
    assert run(folder, out)[0] == {"mr/deep/a", "mr/deep/b"}


@pytest.mark.parametrize("damage", ["half", "empty", "gone", "shape", "type", "sidecar"])
def test_values_broken_result_is_done_again(damage: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(folder, out)
    files = contents(out)
    mask = out / "mr/deep/a_seg.nii.gz"
    if damage == "half":
        mask.write_bytes(mask.read_bytes()[:-12])
    elif damage == "empty":
        mask.write_bytes(b"")
    elif damage == "gone":
        mask.unlink()
    elif damage == "sidecar":
        (out / "mr/deep/a_seg.json").unlink()
    else:
        labels = np.asanyarray(nib.load(mask).dataobj)
        labels = labels[..., :-1] if damage == "shape" else labels.astype(np.int16)
        nib.save(nib.Nifti1Image(labels, nib.load(mask).affine), mask)
    assert run(folder, out)[0] == {"mr/deep/a"}
    assert contents(out).keys() == files.keys()
    assert mask.with_name(f"{mask.name}.~1~").exists() == (damage in ("shape", "type"))  # somebody's work, perhaps
    assert gzip.decompress(contents(out)["mr/deep/a_seg.nii.gz"]) == gzip.decompress(files["mr/deep/a_seg.nii.gz"])


def test_values_mask_corrected_by_hand_is_kept(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(folder, out)
    mask = out / "mr/deep/a_seg.nii.gz"
    image = nib.load(mask)
    labels = np.asanyarray(image.dataobj).copy()
    labels[0, 0] = 2
    nib.save(nib.Nifti1Image(labels, image.affine), mask)
    corrected = mask.read_bytes()
    assert run(folder, out)[0] == set()
    assert mask.read_bytes() == corrected


def correct(mask: Path) -> bytes:
    """Somebody corrects a mask."""
    image = nib.load(mask)
    labels = np.asanyarray(image.dataobj).copy()
    labels[0, 0] = 2
    nib.save(nib.Nifti1Image(labels, image.affine), mask)
    return mask.read_bytes()


@pytest.mark.parametrize("cause", ["settings", "report", "failure"])
def test_values_mask_corrected_by_hand_outlives_its_replacement(cause: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(folder, out)
    mask = out / "mr/deep/a_seg.nii.gz"
    corrected = correct(mask)
    network = Bright()
    if cause == "report":
        (out / "report.json").unlink()
    elif cause == "failure":
        (folder / "mr/deep/a.nii.gz").write_bytes(b"cut")
    assert exit_status(
        make_evaluator(folder, out, network, configuration={"axis": 1} if cause == "settings" else None)
    ) in (0, 8)
    backups = list(out.rglob("*.~*~"))
    assert [path.name for path in backups] == ["a_seg.nii.gz.~1~"]  # and none of what was just as we left it
    assert backups[0].read_bytes() == corrected
    assert "a_seg.nii.gz.~1~" in report_rows(out)["mr/deep/a"]["warnings"][0]


def test_values_mask_by_another_hand_is_kept(folder: Path, tmp_path: Path) -> None:
    """One image, and OUT is where it lies, beside a mask that somebody drew."""
    single = folder / "mr/deep/a.nii.gz"
    drawn = single.with_name("a_seg.nii.gz")
    drawn.write_bytes(single.read_bytes())
    (single.parent / "a.json").write_text('{"modality": "mr"}', encoding="utf-8")
    assert exit_status(make_evaluator(single, single.parent)) == 0
    assert drawn.with_name("a_seg.nii.gz.~1~").read_bytes() == single.read_bytes()
    assert np.asanyarray(nib.load(drawn).dataobj).dtype == np.uint8


def test_values_whole_masks_are_not_read_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    run(folder, out)
    monkeypatch.setattr("esp_medsam_monai.engines.resume.read_labels", lambda path: None)
    assert run(folder, out)[0] == set()


def test_values_image_exchanged_while_it_was_segmented(folder: Path, volume: Any, tmp_path: Path) -> None:
    """The mask belongs to what was read; the next run sees that the file is another."""
    out = tmp_path / "out"

    def exchange(call: int) -> None:
        volume(spacing=(4.0, 5.0, 6.0), seed=call).save(folder / "mr/deep/a.nii.gz")

    run(folder, out, Bright(exchange))
    assert run(folder, out)[0] == {"mr/deep/a"}
    assert run(folder, out)[0] == set()


def test_values_images_that_are_gone_for_a_while(folder: Path, tmp_path: Path) -> None:
    """A share that was not mounted costs nothing of what is done."""
    out = tmp_path / "out"
    run(folder, out)
    folder.rename(tmp_path / "elsewhere")
    for _ in range(2):
        assert exit_status(make_evaluator(folder, out)) == 2
        folder.mkdir(exist_ok=True)
    folder.rmdir()
    (tmp_path / "elsewhere").rename(folder)
    assert run(folder, out)[0] == set()


def test_values_preview_that_is_now_wanted(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(folder, out)
    assert run(folder, out, preview=True)[0] == CASES
    assert run(folder, out, preview=True)[0] == set()


def test_values_failed_case_is_tried_again_and_leaves_no_older_mask(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(folder, out)

    def stumble(call: int) -> None:
        raise RuntimeError("no such luck")

    failing = make_evaluator(folder, out, Bright(stumble), configuration={"axis": 2})
    assert exit_status(failing) == 8
    assert {row["status"] for row in report_rows(out).values()} == {"failed"}
    assert not list(out.rglob("*_seg.*[!~]"))
    assert {path.name for path in out.rglob("*.~*~")} == {
        "chest_seg.png.~1~",
        "a_seg.nii.gz.~1~",
        "b_seg.nii.gz.~1~",
    }
    assert "chest_seg.png.~1~" in report_rows(out)["chest"]["warnings"][0]
    assert run(folder, out, configuration={"axis": 2})[0] == CASES
    assert not list(out.rglob("*.error.txt"))
    assert not list(out.rglob("*.~*~"))  # the same masks again


def test_values_report_cannot_delete_files_elsewhere(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(folder, out)
    treasure = tmp_path / "treasure.nii.gz"
    treasure.write_bytes(b"gold")
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    for row in report["cases"]:
        row |= {"output": "../treasure.nii.gz", "preview": str(treasure)}
    (out / "report.json").write_text(json.dumps(report), encoding="utf-8")

    def stumble(call: int) -> None:
        raise RuntimeError("no such luck")

    assert exit_status(make_evaluator(folder, out, Bright(stumble))) == 8
    assert treasure.read_bytes() == b"gold"


DAMAGED = ["", "{", "[]", '{"run": {}, "cases": [{"case": 3}, 4, {"case": "chest"}]}']


@pytest.mark.parametrize("content", DAMAGED)
def test_values_damaged_report_is_no_obstacle(content: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text(content, encoding="utf-8")
    assert run(folder, out)[0] == CASES


@pytest.mark.parametrize(
    "spoilt",
    [{"warnings": 3}, {"targets": ["lung"]}, {"status": "seen"}, {"shape": "large"}, {"output": 5}, {"seconds": "1"}],
)
def test_values_spoilt_row_is_done_again(spoilt: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(folder, out)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    report["cases"][0] |= spoilt
    report["cases"][1] |= {"quality": {"of": "a newer version"}}
    # As Windows' editors save it.
    (out / "report.json").write_text(json.dumps(report), encoding="utf-8-sig")
    assert run(folder, out)[0] == {report["cases"][0]["case"]}
    assert report_rows(out)[report["cases"][1]["case"]]["quality"]


def test_values_rows_of_cases_that_are_gone_go(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (folder / "extra.png").write_bytes((folder / "chest.png").read_bytes())
    (folder / "extra.json").write_text('{"modality": "xray"}', encoding="utf-8")
    assert exit_status(make_evaluator(folder, out)) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    for row in report["cases"]:
        row["finished"] = "2020-01-01T00:00:00+00:00"  # not by a run beside this one
    (out / "report.json").write_text(json.dumps(report), encoding="utf-8")
    (folder / "extra.png").unlink()
    assert run(folder, out)[0] == set()
