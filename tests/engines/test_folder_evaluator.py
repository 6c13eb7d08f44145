"""FolderEvaluator: every case stands alone, everything is in the report, and the exit status tells."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn as nn
from esp_medsam_monai.transforms import postprocessing, preprocessing
from monai.data import DataLoader
from PIL import Image

from esp_medsam_monai.engines import CaseDataset, FolderEvaluator, WeightsLoader
from esp_medsam_monai.engines.case_dataset import reason_of
from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.inferers import SliceBatchInferer

MODALITIES = {"xray": ("lung",), "mr": ("hippocampus_anterior",)}


class Bright(nn.Module):
    """Analytic stand-in: the target is what is bright; ``before`` runs at every call."""

    def __init__(self, before: Callable[[int], None] = lambda call: None) -> None:
        super().__init__()
        self.modalities = MODALITIES
        self.img_size = 32
        self.before = before
        self.calls = 0
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor, modality: str | None = None) -> torch.Tensor:
        self.calls += 1
        self.before(self.calls)
        return (x[:, :1] - 128) * self.scale


def evaluator(
    folder: Path | None, out: Path | None, network: nn.Module | None = None, **kwargs: Any
) -> FolderEvaluator:
    dataset = CaseDataset(folder, preprocessing(modalities=MODALITIES), out)
    network = network or Bright()
    inferer = SliceBatchInferer(image_size=32, batch_size=64)
    kwargs = {"postprocessing": postprocessing(output_dir=out), "preview": False} | kwargs
    return FolderEvaluator(torch.device("cpu"), DataLoader(dataset, batch_size=1), network, inferer, out, **kwargs)


def status(made: FolderEvaluator) -> int:
    made.run()
    try:
        made.finish()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def rows(out: Path) -> dict[str, dict[str, Any]]:
    return {row["case"]: row for row in json.loads((out / "report.json").read_text(encoding="utf-8"))["cases"]}


@pytest.fixture
def folder(volume: Any, tmp_path: Path) -> Path:
    """Two volumes and a picture, all with sidecars, the volumes' in the folder above."""
    root = tmp_path / "in"
    volume(spacing=(4.0, 5.0, 6.0)).save(root / "mr" / "deep" / "a.nii.gz")
    volume(shape=(40, 45, 1), dtype="uint8").save(root / "mr" / "deep" / "b.nii")
    (root / "mr" / "modality.json").write_text('{"modality": "mr"}', encoding="utf-8")
    Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30)).save(root / "chest.png")
    (root / "chest.json").write_text('{"Modality": "DX"}', encoding="utf-8")
    return root


def test_values_all_done(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert status(evaluator(folder, out, preview=True)) == 0
    found = rows(out)
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

    assert status(evaluator(folder, out, Bright(stumble))) == 8
    found = rows(out)
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
    assert status(evaluator(folder, out)) == 0
    assert not (out / "mr/deep/a.error.txt").exists()


def test_values_image_outside_training_is_warned_of(folder: Path, volume: Any, tmp_path: Path) -> None:
    volume(spacing=(40.0, 40.0, 40.0)).save(folder / "mr" / "far.nii.gz")
    assert status(evaluator(folder, tmp_path / "out")) == 0
    warnings = {case: row["warnings"] for case, row in rows(tmp_path / "out").items()}
    assert "outside what the weights were trained on: slices of 400 x 480 mm" in warnings["mr/far"][0]
    assert warnings["mr/deep/a"] == []  # 48 x 50 mm


def test_values_failing_preview_keeps_the_mask(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr("esp_medsam_monai.engines.folder_evaluator.write_preview", fail)
    assert status(evaluator(folder, tmp_path / "out", preview=True)) == 0
    assert all("no fonts" in row["warnings"][-1] for row in rows(tmp_path / "out").values())


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm"])
def test_values_interruption_keeps_report_and_leaves_no_halves(how: str, folder: Path, tmp_path: Path) -> None:
    def interrupt(call: int) -> None:
        if call == 2 and how == "ctrl-c":
            raise KeyboardInterrupt
        if call == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    out = tmp_path / "out"
    assert status(evaluator(folder, out, Bright(interrupt))) == 130
    assert list(rows(out)) == ["chest"]
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["run"]["exit_status"] == 130
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["chest_seg.png", "report.json"]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "--dataset_dir"),
        ("nowhere", "does not exist"),
        ("empty", "nothing matched in"),
        ("empty/notes.txt", "is a file"),
        ("out", "both input and output"),
    ],
)
def test_values_nothing_found(name: str | None, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing", encoding="utf-8")
    (tmp_path / "out").mkdir()
    assert status(evaluator(None if name is None else tmp_path / name, tmp_path / "out")) == 2
    assert words in caplog.text
    assert rows(tmp_path / "out") == {}


def test_bad_input_no_output_dir(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert status(evaluator(folder, None)) == 2
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
    assert status(evaluator(folder, out, network, val_handlers=[WeightsLoader(network, tmp_path)])) == 0
    assert network.scale.item() == -1
    run = json.loads((out / "report.json").read_text(encoding="utf-8"))["run"]
    assert run["weights"] == str(tmp_path / "models" / "model.pt")
    assert len(run["weights_sha256"]) == 64


def test_bad_input_weights_that_do_not_fit_end_the_run(folder: Path, tmp_path: Path) -> None:
    network = Bright()
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    made = evaluator(
        folder, tmp_path / "out", network, val_handlers=[WeightsLoader(network, "", tmp_path / "other.pt")]
    )
    with pytest.raises(ValueError, match=r"other\.pt does not fit"):
        made.run()
    assert rows(tmp_path / "out") == {}


def test_values_results_inside_the_input_are_not_searched(folder: Path) -> None:
    out = folder / "results"
    assert status(evaluator(folder, out)) == 0
    assert status(evaluator(folder, out)) == 0
    assert len(rows(out)) == 3


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (InputRefused("MISSING_SLICES", "series x\nlacks slices."), "MISSING_SLICES: series x lacks slices."),
        (OSError("disk on fire"), "INTERNAL_ERROR: OSError: disk on fire"),
    ],
)
def test_values_reason_begins_with_a_code(cause: Exception, expected: str) -> None:
    wrapped = RuntimeError("applying transform")
    wrapped.__cause__ = cause
    assert reason_of(wrapped) == expected
