"""FolderEvaluator: every case stands alone, everything is in the report, and the exit status tells."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from esp_medsam_monai.transforms import preprocessing
from monai.data import DataLoader
from PIL import Image

from esp_medsam_monai.engines import CaseDataset, FolderEvaluator, WeightsLoader
from esp_medsam_monai.engines.reasons import reason_of
from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.inferers import SliceBatchInferer
from tests.engines.folder_runs import Bright, exit_status, make_evaluator, report_rows


def test_values_all_done(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert exit_status(make_evaluator(folder, out, preview=True)) == 0
    found = report_rows(out)
    assert {case: row["status"] for case, row in found.items()} == dict.fromkeys(
        ("chest", "mr/deep/a", "mr/deep/b"), "done"
    )
    assert found["chest"]["output"] == "chest_seg.png"
    assert found["mr/deep/a"]["output"] == "mr/deep/a_seg.nii.gz"
    assert [found[case]["slices"] for case in ("chest", "mr/deep/a", "mr/deep/b")] == [1, 8, 1]
    assert [found[case]["modality_source"] for case in ("chest", "mr/deep/a")] == ["sidecar", "sidecar"]
    assert found["mr/deep/b"]["input"] == str(folder / "mr" / "deep" / "b.nii")
    for case, row in found.items():
        assert (out / row["output"]).is_file()
        assert (out / f"{case}_preview.png").is_file()
        assert row["seconds"] > 0
    image, mask = nib.load(folder / "mr/deep/a.nii.gz"), nib.load(out / "mr/deep/a_seg.nii.gz")
    assert mask.shape == image.shape
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
    assert set(np.unique(np.asanyarray(mask.dataobj))) == {0, 2}


def test_values_one_case_never_costs_the_others(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.nii.gz").write_bytes((folder / "mr/deep/a.nii.gz").read_bytes()[:200])
    Image.new("L", (8, 8)).save(folder / "unsaid.png")
    out = tmp_path / "out"

    def stumble(call: int) -> None:
        if call == 2:
            raise RuntimeError("no such luck")

    assert exit_status(make_evaluator(folder, out, Bright(stumble))) == 8
    found = report_rows(out)
    failed = {case: row["reason"] for case, row in found.items() if row["status"] == "failed"}
    assert set(failed) == {"broken", "unsaid", "mr/deep/a"}
    assert failed["unsaid"].startswith("NO_MODALITY: ")
    assert failed["mr/deep/a"] == "INTERNAL_ERROR: RuntimeError: no such luck"
    assert found["mr/deep/a"]["modality"] == "mr"
    for case in failed:
        text = (out / f"{case}.error.txt").read_text(encoding="utf-8")
        assert "Traceback" in text
        assert found[case]["reason"] in text
    assert not list(out.rglob("a_seg*"))

    (folder / "broken.nii.gz").unlink()
    (folder / "unsaid.png").unlink()
    assert exit_status(make_evaluator(folder, out)) == 0
    assert not (out / "mr/deep/a.error.txt").exists()


def test_values_image_outside_training_is_warned_of(folder: Path, volume: Any, tmp_path: Path) -> None:
    volume(spacing=(40.0, 40.0, 40.0)).save(folder / "mr" / "far.nii.gz")
    assert exit_status(make_evaluator(folder, tmp_path / "out")) == 0
    warnings = {case: row["warnings"] for case, row in report_rows(tmp_path / "out").items()}
    assert "outside what the weights were trained on: slices of 400 x 480 mm" in warnings["mr/far"][0]
    assert warnings["mr/deep/a"] == []  # 48 x 50 mm


def test_values_failing_preview_keeps_the_mask(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr("esp_medsam_monai.engines.case_results.write_preview", fail)
    assert exit_status(make_evaluator(folder, tmp_path / "out", preview=True)) == 0
    assert all("no fonts" in row["warnings"][-1] for row in report_rows(tmp_path / "out").values())


def visible(out: Path) -> set[str]:
    return {path.name for path in out.rglob("*") if path.is_file() and path.parent.name != ".locks"}


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm"])
def test_values_interruption_keeps_report_and_leaves_no_halves(how: str, folder: Path, tmp_path: Path) -> None:
    def interrupt(call: int) -> None:
        if call == 2 and how == "ctrl-c":
            raise KeyboardInterrupt
        if call == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    out = tmp_path / "out"
    assert exit_status(make_evaluator(folder, out, Bright(interrupt))) == 130
    assert list(report_rows(out)) == ["chest"]
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["run"]["exit_status"] == 130
    assert visible(out) == {"chest_seg.png", "chest_seg.json", "report.json", "report.csv", "report.html"}
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_values_signal_while_writing_waits_for_the_case(
    number: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from esp_medsam_monai.engines import case_results

    write = case_results.write_mask_sidecar

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), number)
        return write(*args, **kwargs)

    monkeypatch.setattr(case_results, "write_mask_sidecar", interrupted)
    out = tmp_path / "out"
    assert exit_status(make_evaluator(folder, out)) == 130
    assert {case: row["status"] for case, row in report_rows(out).items()} == {"chest": "done"}
    assert {"chest_seg.png", "chest_seg.json"} <= visible(out)
    monkeypatch.undo()
    assert exit_status(make_evaluator(folder, out)) == 0
    assert [row["status"] for row in report_rows(out).values()] == ["skipped", "done", "done"]


def test_values_signal_while_reports_are_written_waits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All cases are done then, and so says the exit status."""
    from esp_medsam_monai.engines import run_reports

    write = run_reports.write_report_table

    def interrupted(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return write(*args)

    monkeypatch.setattr(run_reports, "write_report_table", interrupted)
    out = tmp_path / "out"
    assert exit_status(make_evaluator(folder, out)) == 0
    assert {"report.json", "report.csv", "report.html"} <= visible(out)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "--dataset_dir"),
        ("nowhere", "does not exist"),
        ("empty", "nothing matched in"),
        ("empty/notes.txt", "it is not NIfTI"),
        ("out", "both input and output"),
    ],
)
def test_values_nothing_found(name: str | None, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing", encoding="utf-8")
    (tmp_path / "out").mkdir()
    assert exit_status(make_evaluator(None if name is None else tmp_path / name, tmp_path / "out")) == 2
    assert words in caplog.text
    if name == "out":
        assert list((tmp_path / "out").iterdir()) == []  # nothing is written among the images
    else:
        assert report_rows(tmp_path / "out") == {}


def test_bad_input_no_output_dir(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert exit_status(make_evaluator(folder, None)) == 2
    assert "--output_dir" in caplog.text


def test_bad_input_batches_of_cases(folder: Path, tmp_path: Path) -> None:
    dataset = CaseDataset(folder, preprocessing(), tmp_path / "out")
    with pytest.raises(ValueError, match="batch_size"):
        FolderEvaluator(torch.device("cpu"), DataLoader(dataset, batch_size=2), Bright(), SliceBatchInferer(), tmp_path)


def test_values_weights_are_loaded_and_noted(folder: Path, tmp_path: Path) -> None:
    network = Bright()
    (tmp_path / "models").mkdir()
    torch.save({"scale": torch.full((1,), -1.0).half()}, tmp_path / "models" / "model.pt")
    out = tmp_path / "out"
    assert exit_status(make_evaluator(folder, out, network, val_handlers=[WeightsLoader(network, tmp_path)])) == 0
    assert network.scale.item() == -1
    run = json.loads((out / "report.json").read_text(encoding="utf-8"))["run"]
    assert run["weights"] == str(tmp_path / "models" / "model.pt")
    assert len(run["weights_sha256"]) == 64


def test_bad_input_weights_that_do_not_fit_end_the_run(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = Bright()
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    made = make_evaluator(
        folder, tmp_path / "out", network, val_handlers=[WeightsLoader(network, "", tmp_path / "other.pt")]
    )
    assert exit_status(made) == 1
    assert "other.pt does not fit" in caplog.text
    assert "Traceback" not in caplog.text
    assert report_rows(tmp_path / "out") == {}
    run = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["run"]
    assert run["exit_status"] == 1
    assert "other.pt does not fit" in run["notes"][0]


def test_values_results_inside_the_input_are_not_searched(folder: Path) -> None:
    out = folder / "results"
    assert exit_status(make_evaluator(folder, out)) == 0
    assert exit_status(make_evaluator(folder, out)) == 0
    assert len(report_rows(out)) == 3


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (InputRefused("MISSING_SLICES", "series x\nlacks slices."), "MISSING_SLICES: series x lacks slices."),
        (OSError("disk on fire"), "INTERNAL_ERROR: OSError: disk on fire"),
        (
            FileExistsError(errno.EEXIST, "File exists", "out\x1b[0m"),
            "CANNOT_WRITE: [Errno 17] File exists: 'out\\x1b[0m'; make room, or give another --output_dir.",
        ),
        (ValueError("caf\udce9\r\nname"), "INTERNAL_ERROR: ValueError: caf\\udce9 name"),
    ],
)
def test_values_reason_begins_with_a_code(cause: Exception, expected: str) -> None:
    wrapped = RuntimeError("applying transform")
    wrapped.__cause__ = cause
    assert reason_of(wrapped) == expected
