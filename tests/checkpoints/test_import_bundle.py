"""Published files become a bundle that MONAI runs."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from PIL import Image

from esp_medsam_monai.bundle import folder, stated_sha256
from esp_medsam_monai.checkpoints import import_bundle, import_weights, load_official, load_weights
from esp_medsam_monai.hashing import sha256_of

NAMES = ("xray", "fundus")


@pytest.fixture(scope="module")
def files(official, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    for index, name in enumerate(NAMES):
        torch.save(official(index), folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in NAMES}


@pytest.fixture(scope="module")
def bundle(files, tmp_path_factory):
    (folder,) = import_weights(files, tmp_path_factory.mktemp("out") / "published")
    return folder


@pytest.fixture(scope="module")
def template(repository):
    return repository / "bundles" / "esp_medsam"


def test_it_is_complete(bundle, template):
    """What the shipped bundle has, and weights; but no pictures of what others did."""
    files = [path for path in template.rglob("*") if path.is_file() and path.parent.name not in ("models", "images")]
    wanted = {path.relative_to(template) for path in files}
    made = {path.relative_to(bundle) for path in bundle.rglob("*") if path.is_file()}
    assert {str(path) for path in made - wanted} == {"models/model.pt", "models/model.pt.sha256"}
    assert stated_sha256(bundle / "models" / "model.pt") == sha256_of(bundle / "models" / "model.pt")
    assert wanted <= made
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]  # no temporary folder is left


@pytest.mark.parametrize("name", ["inference.yaml", "train.yaml"])
def test_configs_say_what_differs_and_nothing_else(bundle, template, name):
    texts = [(root / "configs" / name).read_text(encoding="utf-8") for root in (bundle, template)]
    own, shipped = map(yaml.safe_load, texts)
    assert own.keys() == shipped.keys()
    changed = {key for key in shipped if own[key] != shipped[key]}
    assert changed == {"modalities", "image_size", "image_sizes", "divisor", "network_def", "batch_size"}
    assert own["modalities"] == {"xray": ["lung"], "fundus": ["vessel"]}
    assert (own["image_size"], own["image_sizes"], own["divisor"]) == (1024, None, "published")
    assert texts[0].count(" # ") == texts[1].count(" # ")  # comments stay
    assert "bundles/esp_medsam" not in texts[0]


@pytest.mark.parametrize("name", ["inference.yaml", "train.yaml"])
def test_network_of_the_config_takes_the_weights(bundle, official, name):
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / name)
    net = parser.get_parsed_content("network_def").eval()
    load_weights(net, bundle / "models" / "model.pt")
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = load_official({"fundus": official(1)})(x)
        torch.testing.assert_close(net(x, "fundus"), alone, rtol=0, atol=1e-5)


def test_metadata(bundle):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    data_format = metadata["network_data_format"]
    assert data_format["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "xray_lung", "2": "fundus_vessel"}
    assert data_format["outputs"]["pred"]["num_channels"] == 1
    assert data_format["inputs"]["image"]["spatial_shape"] == [1024, 1024]
    assert data_format["inputs"]["image"]["modality"] == "xray, fundus"
    assert "ISIC" not in json.dumps(metadata)


def test_documents_do_not_speak_of_the_shipped_weights(bundle):
    text = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    assert "xray_lung" in text
    assert "hippocampus" not in text + (bundle / "docs" / "data_license.txt").read_text(encoding="utf-8")


def test_run_inference(bundle, tmp_path):
    """The command of the README, from another working directory, at a smaller side to save time."""
    (tmp_path / "in").mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "in" / "eye.png")
    command = [sys.executable, "-m", "monai.bundle", "run", "inference"]
    command += ["--config_file", str(bundle / "configs" / "inference.yaml"), "--bundle_root", str(bundle)]
    command += ["--dataset_dir", "in", "--output_dir", "out", "--modality", "fundus", "--image_size", "64"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with Image.open(tmp_path / "out" / "eye_seg.png") as mask:
        assert mask.size == (50, 40)
        assert {*np.unique(np.asarray(mask))} <= {0, 2}


def test_separate(files, official, tmp_path):
    """Files that share nothing become a bundle each."""
    other = {key: value + 1 if key.startswith("patch_decoder.") else value for key, value in official(1).items()}
    torch.save(other, tmp_path / "other.pth")
    given = {"xray": files["xray"], "fundus": tmp_path / "other.pth"}
    with pytest.raises(ValueError, match="--separate"):
        import_weights(given, tmp_path / "together")
    assert not (tmp_path / "together").exists()
    made = import_weights(given, tmp_path / "apart", separate=True)
    assert made == [tmp_path / "apart" / "xray", tmp_path / "apart" / "fundus"]
    config = yaml.safe_load((made[1] / "configs" / "inference.yaml").read_text(encoding="utf-8"))
    assert config["modalities"] == {"fundus": ["vessel"]}
    assert config["network_def"]["extra_queries"] == 6


def test_nothing_is_overwritten(files, tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="not empty"):
        import_weights(files, tmp_path)


def test_template_of_another_layout_is_refused(tmp_path):
    text = "a: 1 # one\nb:\n  c: 2\n# d: 2\n"
    assert import_bundle._edit(text, {"a": 3, "b": [4]}, tmp_path) == "a: 3 # one\nb:\n- 4\n# d: 2\n"
    with pytest.raises(ValueError, match="not laid out"):
        import_bundle._edit("{a: 1}\n", {"a": 3}, tmp_path)


def test_missing_template_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(folder, "__file__", str(tmp_path / "package" / "bundle" / "folder.py"))
    with pytest.raises(FileNotFoundError, match="install esp-medsam-monai again"):
        import_weights({"xray": tmp_path / "file.pth"}, tmp_path / "out")
