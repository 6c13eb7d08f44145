"""The chains that bundles name, from files on disk to what the network takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from esp_medsam_monai.transforms import NormalizeSlices, evaluation_transforms, preprocessing, training_transforms
from monai.data import CacheDataset, DataLoader
from monai.transforms import LoadImaged
from PIL import Image

from esp_medsam_monai.errors import find_refusal
from esp_medsam_monai.io import ReadingRules
from esp_medsam_monai.modalities import label_values, shipped_modalities

NETWORK = {"fundus": ["vessel"], "xray": ["lung"], "mr": ["front", "back"]}
LABELS = {"mr": {"front": 1, "back": 2}}
SIZE = 64


@pytest.fixture
def entries(tmp_path: Path, volume) -> list[dict]:
    """A colour picture with a 1-bit mask, a grey one with a 0/255 mask, and a volume with two labels."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (100, 70, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "eye.png")
    Image.fromarray(colour[..., 0] > 128).save(tmp_path / "eye_mask.png")
    Image.fromarray(colour[:50, :, 0]).save(tmp_path / "chest.png")
    Image.fromarray((colour[:50, :, 0] > 128).astype(np.uint8) * 255).save(tmp_path / "chest_mask.png")
    brain = volume(shape=(30, 36, 20), dtype="int16")
    brain.save(tmp_path / "brain.nii.gz")
    brain.array[:] = (brain.array > 100).astype(np.int16) + (brain.array > 180)
    brain.save(tmp_path / "brain_mask.nii.gz")
    named = (("eye", "fundus", ".png"), ("chest", "xray", ".png"), ("brain", "mr", ".nii.gz"))
    return [
        {"image": str(tmp_path / f"{n}{end}"), "label": str(tmp_path / f"{n}_mask{end}"), "modality": m}
        for n, m, end in named
    ]


def test_preprocessing_is_flat_and_begins_with_loading():
    steps = preprocessing().transforms
    assert isinstance(steps[0], LoadImaged)
    assert [type(step).__name__ for step in steps[1:]] == ["RouteModalityd", "ScaleIntensityByModalityd"]


def test_preprocessing_keeps_colours_and_scales_volumes(entries):
    chain = preprocessing(modalities=NETWORK)
    eye = chain(dict(entries[0]))["image"]
    stored = np.asarray(Image.open(entries[0]["image"]))
    np.testing.assert_array_equal(eye.numpy(), stored.transpose(2, 1, 0).astype(np.float32))
    brain = chain({"image": entries[2]["image"], "modality": "MR"})["image"]
    assert brain.shape == (1, 30, 36, 20)
    assert brain.dtype == torch.float32
    assert (brain.meta["modality"], brain.meta["modality_source"]) == ("mr", "datalist")
    assert (float(brain.min()), float(brain.max())) == (0.0, 255.0)


def test_the_sidecar_is_heard_and_silence_is_refused(entries, tmp_path):
    only_image = {"image": entries[1]["image"]}
    with pytest.raises(RuntimeError) as error:
        preprocessing()(dict(only_image))
    refusal = find_refusal(error.value)
    assert refusal is not None
    assert refusal.code == "NO_MODALITY"
    assert "chest.png" in refusal.message
    (tmp_path / "chest.json").write_text(json.dumps({"modality": "xray"}), encoding="utf-8")
    meta = preprocessing()(dict(only_image))["image"].meta
    assert (meta["modality"], meta["modality_source"]) == ("xray", "sidecar")


def test_every_chain_hands_the_rules_of_reading_on():
    """To images and labels alike."""
    rules = ReadingRules(non_finite_limit=0.25)
    chains = (
        preprocessing(rules=rules),
        evaluation_transforms(NETWORK, rules=rules),
        training_transforms(NETWORK, SIZE, rules=rules),
    )
    for chain, count in zip(chains, (1, 2, 2), strict=True):
        loaders = [step for step in chain.transforms if isinstance(step, LoadImaged)]
        assert len(loaders) == count
        assert all(any(getattr(r, "rules", None) is rules for r in step._loader.readers) for step in loaders)


@pytest.mark.parametrize("augment", [True, False])
def test_training_samples_are_what_the_network_takes(entries, augment):
    chain = training_transforms(NETWORK, SIZE, label_values=LABELS, augment=augment)
    dataset = CacheDataset(entries, chain, progress=False, num_workers=0)
    batch = next(iter(DataLoader(dataset, batch_size=3)))
    assert batch["image"].shape == (3, 3, SIZE, SIZE)
    assert batch["image"].dtype == torch.float32
    assert batch["label"].shape == (3, 1, SIZE, SIZE)
    assert batch["label"].dtype == torch.uint8
    assert batch["modality"] == ["fundus", "xray", "mr"]
    values = label_values(NETWORK)
    for label, modality in zip(batch["label"], batch["modality"], strict=True):
        assert set(label.unique().tolist()) == {0, *values[modality].values()}


def test_what_is_cached_takes_a_byte_a_value(entries):
    dataset = CacheDataset(entries, training_transforms(NETWORK, SIZE, label_values=LABELS), progress=False)
    cached = [dataset._cache[i] for i in range(3)]
    assert all(item[key].dtype == torch.uint8 for item in cached for key in ("image", "label"))
    assert cached[0]["image"].shape == (3, SIZE, SIZE)


def test_the_validation_sample_is_the_picture_stretched_and_upright(entries):
    chain = training_transforms(NETWORK, SIZE, label_values=LABELS, augment=False)
    first, second = chain(dict(entries[1])), chain(dict(entries[1]))
    assert torch.equal(first["image"], second["image"])
    stored = Image.open(entries[1]["label"]).resize((SIZE, SIZE), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(first["label"][0].numpy() > 0, np.asarray(stored) > 0)


def test_validation_takes_the_slice_that_an_entry_names(entries, volume):
    """Of 20 axial slices the sixth alone is labelled."""
    mask = volume(shape=(30, 36, 20), dtype="int16")
    mask.array[:] = 0
    mask.array[..., 5] = 2
    mask.save(Path(entries[2]["label"]))
    chain = training_transforms(NETWORK, SIZE, label_values=LABELS, augment=False, listed_slices=True)
    filled = [bool(chain({**entries[2], "slice": (i, 20)})["label"].any()) for i in range(20)]
    assert filled == [i == 5 for i in range(20)]


def test_the_same_seed_gives_the_same_samples(entries):
    chain = training_transforms(NETWORK, SIZE, label_values=LABELS)
    runs = [[chain.set_random_state(seed)(dict(e))["image"] for e in entries] for seed in (0, 0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(runs[0], runs[2], strict=True))


def test_entries_of_image_and_label_alone_work_through_the_default(entries):
    entry = {key: entries[2][key] for key in ("image", "label")}
    chain = training_transforms(NETWORK, SIZE, default_modality="mr", label_values=LABELS, augment=False)
    assert chain(entry)["modality"] == "mr"


def test_the_divisor_reaches_the_last_step(entries):
    sam, published = (
        training_transforms(NETWORK, SIZE, d, augment=False)(dict(entries[0])) for d in ("sam", "published")
    )
    zero, one = (NormalizeSlices("sam")(torch.full((1, 1, 1), level)) for level in (0.0, 1.0))
    raw = (sam["image"] - zero) / (one - zero)
    assert torch.allclose(published["image"], NormalizeSlices("published")(raw), atol=1e-3)


def test_real_pictures_and_volumes_of_all_shipped_modalities(shared_dir):
    splits = json.loads((shared_dir / "data" / "splits.json").read_text(encoding="utf-8"))
    network = shipped_modalities()
    labels = {"mr": {"hippocampus_anterior": 1, "hippocampus_posterior": 2}}
    chain = training_transforms(network, 128, label_values=labels, augment=False)
    for name, parts in splits.items():
        modality = "mr" if name == "mr_hippocampus" else name
        data_set, split = next(iter(parts["in_domain"].items()))
        stem = split["train"][0]
        if modality == "mr":
            folder = shared_dir / "data" / "volumes" / data_set
            image, label = folder / "images" / stem, folder / "labels" / stem
        else:
            folder = shared_dir / "data" / name / data_set
            image, label = folder / "images" / f"{stem}.jpg", folder / "masks" / f"{stem}.png"
        sample = chain({"image": str(image), "label": str(label), "modality": modality})
        assert sample["image"].shape == (3, 128, 128), name
        assert bool(torch.isfinite(sample["image"]).all()), name
        assert set(sample["label"].unique().tolist()) - {0} <= set(label_values(network)[modality].values()), name
        assert int(sample["label"].count_nonzero()) > 20, name


def test_a_modality_seen_larger_gives_squares_of_the_common_side(entries):
    """The picture is 70 x 100; stretched to a square of 128 every pixel of its mask is one or two of the sample's."""
    options = {"modalities": NETWORK, "image_size": SIZE, "label_values": LABELS, "augment": False}
    whole = training_transforms(**{**options, "image_size": 128})(dict(entries[0]))
    middle = training_transforms(**options, image_sizes={"fundus": 128})(dict(entries[0]))
    for key in ("image", "label"):
        torch.testing.assert_close(middle[key], whole[key][:, 32:96, 32:96], atol=1e-5, rtol=0)
    drawn = training_transforms(**{**options, "augment": True}, image_sizes={"fundus": 128})
    assert {tuple(drawn(dict(entry))["image"].shape) for entry in entries} == {(3, SIZE, SIZE)}


def test_a_square_cut_at_random_is_the_same_of_image_and_mask(entries, monkeypatch):
    monkeypatch.setattr("esp_medsam_monai.transforms.factories.augmentation_by_modality", lambda names: {})
    chain = training_transforms(NETWORK, SIZE, label_values=LABELS, image_sizes={"fundus": 256})
    monkeypatch.undo()
    Image.fromarray(np.tile(np.arange(100, dtype=np.uint8)[:, None], (1, 70))).save(entries[0]["image"])
    Image.fromarray(np.tile(np.arange(100)[:, None] >= 50, (1, 70))).save(entries[0]["label"])
    chain.set_random_state(seed=3)
    tops = set()
    for _ in range(4):
        sample = chain(dict(entries[0]))
        grey = sample["image"][0] * 58.395 + 123.675
        tops.add(round(float(grey.min())))
        # Rows of the mask are foreground where the grey level, which is the row in the file, is 50 or more.
        sure = (grey - 49.5).abs() > 1
        assert torch.equal((sample["label"][0] > 0)[sure], (grey > 49.5)[sure])
    assert len(tops) > 1
