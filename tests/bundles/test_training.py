"""The training and evaluation configs of the bundle, run for a step or two on made-up pictures."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow
from PIL import Image

from tests.bundles.small_run import make_pictures


@pytest.fixture(scope="module")
def datalist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The bundle's configs without its weights."""
    folder = tmp_path_factory.mktemp("bundle")
    shutil.copytree(repository / "bundles" / "esp_medsam" / "configs", folder / "configs")
    return folder


def workflow(bundle: Path, configs: tuple[str, ...] = ("train.yaml",), **override: Any) -> ConfigWorkflow:
    return ConfigWorkflow(
        [str(bundle / "configs" / name) for name in configs],
        meta_file=None,
        logging_file=False,
        workflow_type="train",
        **{
            "bundle_root": str(bundle),
            "device": "$torch.device('cpu')",
            "image_size": 64,
            "batch_size": 2,
            "samples_per_epoch": 4,
            "num_workers": 0,
            "max_epochs": 1,
            **override,
        },
    )


def train(bundle: Path, **override: Any) -> ConfigWorkflow:
    run = workflow(bundle, **{"run_id": "training", **override})
    run.initialize()
    run.run()
    run.finalize()
    return run


@pytest.fixture(scope="module")
def trained(bundle: Path, datalist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training of one epoch."""
    folder = tmp_path_factory.mktemp("run")
    train(bundle, datalist=str(datalist), output_dir=str(folder))
    return folder


def test_a_run_leaves_weights_history_picture_and_tensorboard(trained: Path) -> None:
    names = {path.name.split(".")[0] if "tfevents" in path.name else path.name for path in trained.iterdir()}
    assert names == {"best.pt", "last.pt", "history.json", "curve.png", "events", "data_check.csv", "data_check.json"}
    (row,) = json.loads((trained / "history.json").read_text())
    assert row["epoch"] == 1 and np.isfinite(row["loss"])
    assert set(row["dice"]) == {"mean", "dermoscopy", "xray"}


def test_a_resumed_run_goes_on_from_the_last_epoch(trained: Path, bundle: Path, datalist: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    train(bundle, datalist=str(datalist), output_dir=str(folder), resume=True, max_epochs=2)
    assert [row["epoch"] for row in json.loads((folder / "history.json").read_text())] == [1, 2]
    assert torch.load(folder / "last.pt", weights_only=True)["iteration"] == 4


def test_the_seed_decides_everything(bundle: Path, datalist: Path, tmp_path: Path) -> None:
    """First weights, order and changes of the images: to the bit, whatever was drawn before."""
    weights = []
    for i, seed in enumerate((3, 3, 4)):
        torch.manual_seed(i)
        train(bundle, datalist=str(datalist), output_dir=str(tmp_path / str(i)), samples_per_epoch=2, seed=seed)
        weights.append(torch.load(tmp_path / str(i) / "last.pt", weights_only=True)["network"])
    first, again, other = weights
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    learned = [key for key, value in first.items() if value.is_floating_point() and value.ndim > 1]
    assert not any(torch.equal(first[key], other[key]) for key in learned)


def test_activation_checkpointing_reaches_the_network_and_changes_nothing(
    trained: Path, bundle: Path, datalist: Path, tmp_path: Path
) -> None:
    run = train(bundle, datalist=str(datalist), output_dir=str(tmp_path), use_checkpoint="true")
    assert run.trainer.network.image_encoder.use_checkpoint is True
    kept, again = (torch.load(folder / "last.pt", weights_only=True)["network"] for folder in (trained, tmp_path))
    torch.testing.assert_close(again, kept, rtol=1e-5, atol=1e-6)


def test_monai_label_entries_train_through_the_default_modality(bundle: Path, datalist: Path, tmp_path: Path) -> None:
    """It replaces the lists by entries without modality, and gives no datalist."""
    entries = [
        {"image": str(datalist.parent / f"{i}.png"), "label": str(datalist.parent / f"{i}_seg.png")} for i in (0, 2)
    ]
    override = {"train#dataset#data": entries, "validate#dataset#data": entries[:1], "modality": "dermoscopy"}
    run = train(bundle, output_dir=str(tmp_path / "run"), run_id="run", samples_per_epoch=2, **override)
    assert run.trainer.state.epoch == 1
    assert set(run.evaluator.state.metrics) == {"val_dice", "val_dice_dermoscopy"}


def test_training_without_validation_images_keeps_its_weights(bundle: Path, datalist: Path, tmp_path: Path) -> None:
    content = json.loads(datalist.read_text())
    alone = datalist.parent / "training_alone.json"
    alone.write_text(json.dumps({"training": content["training"]}))
    train(bundle, datalist=str(alone), output_dir=str(tmp_path / "run"), samples_per_epoch=2)
    best, last = (torch.load(tmp_path / "run" / name, weights_only=True) for name in ("best.pt", "last.pt"))
    assert all(torch.equal(value, last["network"][key]) for key, value in best.items())


def test_nothing_to_train_on_is_said(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit, match="8"):
        train(bundle, output_dir=str(tmp_path / "run"))
    assert "--datalist LIST.json" in caplog.text
    with pytest.raises(RuntimeError) as caught:
        train(bundle, output_dir=str(tmp_path / "run"), check_data=False)
    causes = []
    error: BaseException | None = caught.value
    while error is not None:
        causes.append(str(error))
        error = error.__cause__
    assert "--datalist LIST.json" in causes[-1]


@pytest.fixture
def broken(datalist: Path) -> Path:
    """A datalist with a missing image, a truncated one and a label of another size among good ones, in each section."""
    content = json.loads(datalist.read_text())
    folder = datalist.parent
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:-40])
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "small_seg.png")
    bad = [
        {**content["test"][0], "image": "gone.png"},
        {**content["test"][0], "image": "cut.png"},
        {**content["test"][1], "label": "small_seg.png"},
    ]
    for name in ("training", "test"):
        content[name] = [bad[0], content[name][0], bad[1], content[name][1], bad[2]]
    (folder / "broken.json").write_text(json.dumps(content))
    return folder / "broken.json"


def test_broken_data_end_a_training_before_its_first_step(bundle: Path, broken: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="8"):
        train(bundle, datalist=str(broken), output_dir=str(tmp_path / "run"))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"data_check.csv", "data_check.json"}
    with (tmp_path / "run" / "data_check.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["level"] == "error"]
    assert [(row["section"], row["code"], Path(row["image"]).name) for row in rows] == [
        ("training", "NOT_FOUND", "gone.png"),
        ("training", "TRUNCATED", "cut.png"),
        ("training", "LABEL_SHAPE", "1.png"),
    ]


def test_check_only_ends_before_the_first_step(bundle: Path, datalist: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="0"):
        train(bundle, datalist=str(datalist), output_dir=str(tmp_path / "run"), check_only=True)
    assert not list(tmp_path.rglob("*.pt"))


def test_the_config_has_what_monai_asks_of_a_training(bundle: Path, tmp_path: Path) -> None:
    run = workflow(bundle, run_id="training", output_dir=str(tmp_path))
    run.initialize()
    assert run.check_properties() == []
    content = yaml.safe_load((bundle / "configs" / "train.yaml").read_text())
    assert content["train"]["dataset"]["data"] == content["validate"]["dataset"]["data"] == []
    assert isinstance(content["train"]["handlers"], list)


def test_training_and_inference_build_the_same_network(bundle: Path) -> None:
    train_config, inference = (
        yaml.safe_load((bundle / "configs" / f"{n}.yaml").read_text()) for n in ("train", "inference")
    )
    assert train_config["network_def"].pop("use_checkpoint") == "@use_checkpoint"  # how it learns, not what it is
    for name in ("network_def", "modalities", "image_size", "divisor"):
        assert train_config[name] == inference[name]


def evaluate(bundle: Path, datalist: Path, output: Path, **override: Any) -> dict[str, Any]:
    run = workflow(
        bundle,
        ("train.yaml", "evaluate.yaml"),
        run_id="evaluation",
        datalist=str(datalist),
        output_dir=str(output),
        **override,
    )
    run.initialize()
    run.run()
    return json.loads((output / "metrics.json").read_text())


def test_evaluation_needs_test_alone_and_measures_the_weights_it_is_given(
    trained: Path, bundle: Path, datalist: Path, tmp_path: Path
) -> None:
    alone = datalist.parent / "test_alone.json"
    alone.write_text(json.dumps({"test": json.loads(datalist.read_text())["test"]}))
    metrics = evaluate(bundle, alone, tmp_path / "out", ckpt=str(trained / "best.pt"))
    assert {modality: list(targets) for modality, targets in metrics.items()} == {
        "dermoscopy": ["lesion"],
        "xray": ["lung"],
    }
    assert all(entry["n"] + entry["both_empty"] == 2 for targets in metrics.values() for entry in targets.values())
    assert len((tmp_path / "out" / "cases.csv").read_text().splitlines()) == 5
    assert set(json.loads((tmp_path / "out" / "metrics_by_domain.json").read_text())) == {"set0", "set1"}


def test_evaluation_goes_on_over_broken_cases(
    trained: Path, bundle: Path, datalist: Path, broken: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SystemExit, match="8"):
        evaluate(bundle, broken, tmp_path / "out", ckpt=str(trained / "best.pt"))
    with (tmp_path / "out" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["target"], row["reason"].partition(":")[0]) for row in rows] == [
        ("0", "lesion", ""),
        ("1", "lung", ""),
        ("gone", "", "NOT_FOUND"),
        ("cut", "", "TRUNCATED"),
        ("1", "", "LABEL_SHAPE"),
    ]
    assert "3 of 5 cases failed" in caplog.text
    good = datalist.parent / "good.json"
    good.write_text(json.dumps({"test": json.loads(datalist.read_text())["test"][:2]}))
    expected = evaluate(bundle, good, tmp_path / "good", ckpt=str(trained / "best.pt"))
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == expected


def test_check_only_looks_at_the_test_section_of_an_evaluation(bundle: Path, broken: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="8"):
        evaluate(bundle, broken, tmp_path / "out", check_only=True)
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert "cut.png" in (tmp_path / "out" / "data_check.csv").read_text()


def test_evaluation_takes_the_bundles_weights_by_default(
    trained: Path, bundle: Path, datalist: Path, tmp_path: Path
) -> None:
    with pytest.raises(Exception, match=r"model\.pt|Failed"):
        evaluate(bundle, datalist, tmp_path / "none")
    (bundle / "models").mkdir()
    shutil.copy(trained / "best.pt", bundle / "models" / "model.pt")
    given = evaluate(bundle, datalist, tmp_path / "given", ckpt=str(trained / "best.pt"))
    assert evaluate(bundle, datalist, tmp_path / "shipped") == given


def test_weights_of_another_network_are_refused(bundle: Path, datalist: Path, tmp_path: Path) -> None:
    torch.save({"something": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(RuntimeError):
        evaluate(bundle, datalist, tmp_path / "out", ckpt=str(tmp_path / "other.pt"))
    assert not (tmp_path / "out" / "metrics.json").exists()
