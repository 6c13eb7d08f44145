"""The weights that travel with the bundle: a safe file, the right network, masks that obey the volume law."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from PIL import Image

from esp_medsam_monai.checkpoints import load_weights
from esp_medsam_monai.modalities import describe_target, shipped_modalities
from esp_medsam_monai.networks import ESPMedSAM


@pytest.fixture(scope="module")
def bundle(repository: Path) -> Path:
    return repository / "bundles" / "esp_medsam"


@pytest.fixture(scope="module")
def config(bundle: Path) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.yaml")
    parser["device"] = torch.device("cpu")
    return parser


@pytest.fixture(scope="module")
def network(bundle: Path, config: ConfigParser) -> ESPMedSAM:
    net: ESPMedSAM = config.get_parsed_content("network_def")
    load_weights(net, bundle / "models" / "model.pt")
    return net.eval()


def test_file_holds_half_precision_tensors_and_nothing_else(bundle: Path) -> None:
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert {type(value) for value in state.values()} == {torch.Tensor}
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float16}
    assert all(torch.isfinite(value.float()).all() for value in state.values())


def test_terms_name_every_set(bundle: Path) -> None:
    """Each data set that a target was learned from has its line in the terms."""
    terms = (bundle / "docs" / "data_license.txt").read_text(encoding="utf-8")
    for modality, targets in shipped_modalities().items():
        for target in targets:
            row = describe_target(modality, target)
            assert row is not None
            assert row.source.split(",")[0] in terms


def test_48_storage_orders_of_a_brain_give_the_same_labels(config: ConfigParser, network: ESPMedSAM) -> None:
    """The volume law with the shipped network, on the real MR volume that nibabel carries."""
    source = nib.load(Path(nib.__file__).parent / "tests" / "data" / "anatomical.nii")
    volume = nib.Nifti1Image(np.asarray(source.dataobj)[4:28, 8:36, 2:14:4], source.affine @ np.diag([1, 1, 4, 1]))
    values = np.asarray(volume.dataobj, dtype=np.float32)
    values = 255 * (values - values.min()) / np.ptp(values)
    inferer = config.get_parsed_content("inferer")
    found = None
    for order in nib_orders():
        turned = nib.orientations.apply_orientation(values, order)
        affine = volume.affine @ nib.orientations.inv_ornt_aff(order, values.shape)
        image = MetaTensor(torch.from_numpy(np.ascontiguousarray(turned))[None, None], affine=torch.from_numpy(affine))
        labels = inferer(image, network, "mr")
        assert labels.shape == image.shape
        back = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.io_orientation(volume.affine))
        labels = nib.orientations.apply_orientation(labels[0, 0].numpy(), back)
        if found is None:
            found = labels
            # Hippocampus or not: the law says something only where something was found.
            assert 0 < np.count_nonzero(labels) < labels.size
        np.testing.assert_array_equal(labels, found)


def nib_orders() -> list[np.ndarray]:
    """nibabel's 48 orientation arrays, the identity first."""
    permutations = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    signs = [(a, b, c) for a in (1, -1) for b in (1, -1) for c in (1, -1)]
    return [np.array(list(zip(axes, flips, strict=True)), dtype=float) for axes in permutations for flips in signs]


def test_masks_of_real_test_images(shared_dir: Path, config: ConfigParser, network: ESPMedSAM) -> None:
    """Lungs and skin lesions of the test split: far better than chance, so these are trained weights, put in right."""
    splits = json.loads((shared_dir / "data" / "splits.json").read_text(encoding="utf-8"))
    inferer = config.get_parsed_content("inferer")
    for modality, name, value in (("xray", "shenzhen", 2), ("dermoscopy", "isic_ham", 1)):
        config["modality"] = modality
        config.parse(reset=True)
        preprocessing = config.get_parsed_content("preprocessing")
        folder = shared_dir / "data" / modality / name
        dice = []
        for stem in splits[modality]["in_domain"][name]["test"][:6]:
            image = preprocessing({"image": str(folder / "images" / f"{stem}.jpg")})["image"]
            found = inferer(image[None], network)[0, 0].numpy() == value
            reference = open_mask(folder / "masks" / f"{stem}.png").T > 0
            dice.append(2 * (found & reference).sum() / (found.sum() + reference.sum()))
        assert np.mean(dice) > 0.7, f"{modality}: {dice}"


def open_mask(path: Path) -> np.ndarray:
    """A mask by another reader than ours."""
    with Image.open(path) as picture:
        return np.array(picture.convert("L"))
