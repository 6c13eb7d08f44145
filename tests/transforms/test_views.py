"""Numbered views: what each shows, against numpy; which modality has which."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from esp_medsam_monai.transforms import ContentKeyd, View, ViewSliced, views_of
from esp_medsam_monai.transforms.views import cut_view
from monai.data import CacheDataset
from monai.transforms import Compose

IMAGE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, size=(3, 40, 40)).astype(np.uint8))


def seen(number: int, modality: str = "fundus", image: torch.Tensor = IMAGE, side: int = 40) -> np.ndarray:
    data = {"image": image, "modality": modality, "view": number}
    return ViewSliced("image", side)(data)["image"].numpy()


def test_the_first_views_are_the_image_and_its_mirror_images() -> None:
    pixels = IMAGE.numpy()
    np.testing.assert_array_equal(seen(0), pixels)
    np.testing.assert_array_equal(seen(1), np.flip(pixels, 2))
    np.testing.assert_array_equal(seen(2), np.flip(pixels, 1))


def test_mirror_images_are_exact_at_another_side_too() -> None:
    for number, axis in ((1, 2), (2, 1)):
        np.testing.assert_array_equal(seen(number, side=33), np.flip(seen(0, side=33), axis))


def test_what_has_an_upside_is_not_turned_over() -> None:
    assert len(views_of("fundus")) == 7 and len(views_of("xray")) == len(views_of("a modality of my own")) == 6
    assert all(1 not in view.flip for view in views_of("xray"))
    assert any(1 in view.flip for view in views_of("fundus"))


def test_crops_are_windows_brought_to_the_side() -> None:
    image = IMAGE[:, :20, :]
    for view, rows, columns in (
        (View(window=(0.25, 0.0, 0.75, 0.75)), slice(5, 20), slice(0, 30)),
        (View(window=(0.0, 0.25, 0.75, 0.75)), slice(0, 15), slice(10, 40)),
    ):
        window = image[:, rows, columns]
        assert torch.equal(cut_view(image, view, 40), cut_view(window, View(), 40))
    doubled = cut_view(IMAGE[:1], View(window=(0.5, 0.0, 0.5, 0.5)), 20)
    np.testing.assert_array_equal(doubled.numpy(), IMAGE[:1, 20:, :20].numpy())


@pytest.mark.parametrize("crop", [0.75, 0.5, 1 / 3, 0.3])
def test_crops_cover_the_image(crop: float) -> None:
    covered = np.zeros((60, 60), bool)
    for view in views_of("xray", crop)[2:]:
        top, left, height, width = (round(60 * value) for value in view.window)
        assert top + height <= 60 and left + width <= 60
        covered[top : top + height, left : left + width] = True
    assert covered.all()


def test_modalities_that_are_seen_larger_have_crops_of_their_scale() -> None:
    """At side 40 of 120, nine crops of a third of the side show pixels one to one."""
    transform = ViewSliced("image", 40, {"fundus": 120})
    views = transform.views("fundus")
    assert len(views) == 3 + 9 and len(transform.views("xray")) == 6
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, size=(1, 120, 120)).astype(np.uint8))
    shown = [transform({"image": image, "modality": "fundus", "view": i})["image"].numpy() for i in range(3, 12)]
    expected = [image[:, i : i + 40, j : j + 40].numpy() for i in (0, 40, 80) for j in (0, 40, 80)]
    np.testing.assert_array_equal(shown, expected)


def test_views_are_whole_grey_levels_and_the_same_every_time() -> None:
    first, second = (seen(4, image=IMAGE[:, :37], side=64) for _ in range(2))
    assert first.dtype == np.uint8 and first.shape == (3, 64, 64)
    np.testing.assert_array_equal(first, second)


def test_an_unknown_number_is_an_error() -> None:
    with pytest.raises(IndexError):
        seen(7)
    with pytest.raises(ValueError, match="crop"):
        views_of("xray", 0.0)


def test_a_cache_keeps_the_image_and_not_a_view() -> None:
    data = [{"image": IMAGE, "modality": "xray", "view": 1}]
    dataset = CacheDataset(data, Compose([ViewSliced("image", 40)]), progress=False)
    assert torch.equal(dataset._cache[0]["image"], IMAGE)
    assert torch.equal(dataset[0]["image"], IMAGE.flip(2))


def test_the_key_says_all_about_the_content() -> None:
    def key(image: torch.Tensor = IMAGE, modality: str = "xray", settings: str = "") -> str:
        return ContentKeyd("image", settings=settings)({"image": image, "modality": modality})["key"]

    changed = IMAGE.clone()
    changed[2, 39, 39] ^= 1
    others = [key(changed), key(IMAGE.flip(2)), key(IMAGE.reshape(3, 80, 20)), key(modality="mr"), key(settings="a")]
    assert len({key(), *others}) == 6
    assert key() == key(IMAGE.clone()) and len(key()) == 64
