"""MLflow: MONAI's own ``--tracking mlflow``, and our settings for it, on the training and evaluation configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from monai.utils import path_to_sqlite_uri
from PIL import Image

pytest.importorskip("mlflow", reason="mlflow is not installed (pip install 'esp-medsam-monai[mlflow]')")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    """Two X-rays with a bright disc, in every section."""
    rows, columns = np.mgrid[:48, :48]
    disc = (rows - 20) ** 2 + (columns - 30) ** 2 < 150
    entries = []
    for i in range(2):
        Image.fromarray(np.where(disc, 220, 40 + i).astype(np.uint8)).save(tmp_path / f"{i}.png")
        Image.fromarray(disc.astype(np.uint8)).save(tmp_path / f"{i}_seg.png")
        entries.append({"image": f"{i}.png", "label": f"{i}_seg.png", "modality": "xray"})
    path = tmp_path / "list.json"
    path.write_text(json.dumps(dict.fromkeys(("training", "validation", "test"), entries)))
    return path


def run(repository: Path, run_id: str, tracking: str, datalist: Path, output: Path, **options: Any) -> None:
    bundle = repository / "bundles" / "esp_medsam"
    names = ("train",) if run_id == "training" else ("train", "evaluate")
    workflow = ConfigWorkflow(
        [str(bundle / "configs" / f"{name}.yaml") for name in names],
        meta_file=None,
        logging_file=False,
        workflow_type="train",
        run_id=run_id,
        tracking=tracking,
        **{
            "bundle_root": str(bundle),
            "datalist": str(datalist),
            "output_dir": str(output),
            "device": "cpu",
            "image_size": 64,
            "image_sizes": {},
            "samples_per_epoch": 4,
            "batch_size": 2,
            "num_workers": 0,
            "max_epochs": 2,
            **options,
        },
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def runs(output: Path, experiment: str) -> list[Any]:
    """Runs in the database of an output folder, the newest first, and the client."""
    import mlflow

    client = mlflow.MlflowClient(path_to_sqlite_uri(str(output / "mlruns.db")))
    found = client.get_experiment_by_name(experiment)
    return [(client, each) for each in client.search_runs(found.experiment_id)]


def test_monais_own_tracking_works_on_the_training(repository: Path, datalist: Path, tmp_path: Path) -> None:
    run(repository, "training", "mlflow", datalist, tmp_path / "out")
    ((client, found),) = runs(tmp_path / "out", "monai_experiment")
    assert found.info.status == "FINISHED"
    assert set(found.data.metrics) == {"train_loss", "lr_group_0", "val_dice", "val_dice_xray"}
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    steps = [metric.value for metric in client.get_metric_history(found.info.run_id, "train_loss")]
    assert (sum(steps[:2]) / 2, sum(steps[2:]) / 2) == pytest.approx([row["loss"] for row in history])


def test_our_settings_track_training_and_evaluation(repository: Path, datalist: Path, tmp_path: Path) -> None:
    settings, out = str(repository / "bundles" / "esp_medsam" / "configs" / "tracking_mlflow.yaml"), tmp_path / "out"
    run(repository, "training", settings, datalist, out, run_name="first")
    ((client, found),) = runs(out, "esp_medsam")
    assert (found.info.run_name, found.info.status) == ("first", "FINISHED")
    assert set(found.data.metrics) == {
        *("train_loss", "train_loss_mask", "train_loss_patch", "learning_rate", "val_dice", "val_dice_xray")
    }
    history = json.loads((out / "history.json").read_text())
    told = [metric.value for metric in client.get_metric_history(found.info.run_id, "val_dice")]
    assert told == pytest.approx([row["dice"]["mean"] for row in history])
    assert {each.path for each in client.list_artifacts(found.info.run_id)} == {"history.json", "curve.png"}

    run(repository, "evaluation", settings, datalist, out, run_name="second", ckpt=str(out / "best.pt"))
    ((_, evaluated), (_, before)) = runs(out, "esp_medsam")
    assert before.data.metrics == found.data.metrics
    lung = json.loads((out / "metrics.json").read_text())["xray"]["lung"]
    assert evaluated.data.metrics["xray.lung.dice"] == pytest.approx(lung["dice"])
    assert evaluated.data.metrics["xray.lung.n"] == 2
