"""The volume law, for volumes that nobody thought of: shape and affine out are those in, storage order means nothing.

From file to file: the chain that bundles use, an analytic network, the chain that saves.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from esp_medsam_monai.transforms import postprocessing, preprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff

from esp_medsam_monai.inferers import SliceBatchInferer

MODALITIES = {"dermoscopy": ["lesion", "rim"], "mr": ["bright", "dark"]}
LABELS = {"dermoscopy": {0, 1, 2}, "mr": {0, 3, 4}}
MARGIN = 0.37  # of 255
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
ORDERS = [
    np.array(list(zip(order, signs, strict=True)))
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]

examples = settings(max_examples=120, deadline=None, derandomize=True, database=None)


class Sloping:
    """Analytic network: one target where a pixel exceeds its surroundings, the other where it falls below them.

    The surroundings are the slice's mean, the pixel above and the pixel to the left, so that the result depends on how
    a volume is cut and on which way up its slices are. A constant slice has no target.
    """

    modalities = MODALITIES
    default_modality = None
    img_size = 8

    def __call__(self, x: torch.Tensor, modality: str | None = None) -> torch.Tensor:
        # In double precision, so that sums do not depend on the batch.
        grey = x.double().mean(1, keepdim=True)
        around = 0.5 * grey.mean((2, 3), keepdim=True) + 0.3 * grey.roll(1, 2) + 0.2 * grey.roll(1, 3)
        return torch.cat([grey - around - MARGIN, around - grey - MARGIN], dim=1).float()


@dataclass(frozen=True)
class Stored:
    """An image as a file holds it: ``array`` ``(X, Y)`` or ``(X, Y, Z)``, RAS ``affine`` ``(4, 4)``."""

    array: np.ndarray
    affine: np.ndarray

    def reordered(self, orientation: np.ndarray) -> Stored:
        """The same image in another storage order; ``orientation`` as nibabel writes it."""
        matrix = np.eye(4)
        size = self.array.ndim
        turn = inv_ornt_aff(orientation, self.array.shape)
        matrix[:size, :size], matrix[:size, 3] = turn[:size, :size], turn[:size, size]
        return Stored(np.ascontiguousarray(apply_orientation(self.array, orientation)), self.affine @ matrix)

    def save(self, path: Path) -> Path:
        nib.save(nib.Nifti1Image(self.array, self.affine, dtype=self.array.dtype), path)
        return path


def pixels(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Noise of a type, with the values that such files hold."""
    generator = np.random.default_rng(seed)
    if dtype == "rgb":
        return np.ascontiguousarray(generator.integers(0, 256, (*shape, 3), np.uint8)).view(RGB)[..., 0]
    low, high = {"uint8": (0, 256), "int16": (-1000, 3000), "int64": (-(10**6), 10**6)}.get(dtype, (0, 1))
    if dtype.startswith("float"):
        return generator.normal(0.0, 10.0, shape).astype(dtype)
    return generator.integers(low, high, shape).astype(dtype)


@st.composite
def images(draw: st.DrawFn) -> Stored:
    """Any 2D or 3D image that a reader should take."""
    shape = tuple(draw(st.lists(st.integers(1, 12), min_size=2, max_size=3)))
    spacing = draw(st.lists(st.floats(0.05, 8.0), min_size=3, max_size=3))
    angles = draw(st.lists(st.sampled_from([0.0, 45.0, 90.0]) | st.floats(-180.0, 180.0), min_size=3, max_size=3))
    shear = draw(st.just([0.0, 0.0, 0.0]) | st.lists(st.floats(-0.4, 0.4), min_size=3, max_size=3))
    linear = np.eye(3)
    linear[np.triu_indices(3, 1)] = shear
    for axis, angle in enumerate(np.deg2rad(angles)):
        turn = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        linear = turn @ linear
    affine = np.eye(4)
    affine[:3, :3] = linear @ np.diag(spacing)
    affine[:3, 3] = draw(st.lists(st.floats(-300.0, 300.0), min_size=3, max_size=3))
    dtype = draw(st.sampled_from(["uint8", "int16", "int64", "float32", "float64", "rgb"]))
    return Stored(pixels(shape, dtype, draw(st.integers(0, 2**16))), affine)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """From an image to the mask that comes back from the disk."""
    folder = tmp_path_factory.mktemp("law")
    chains = {name: preprocessing("image", name, MODALITIES) for name in MODALITIES}
    saving = postprocessing("pred", folder / "out")

    def segment(image: Stored, size: int, axis: int | str | None = None) -> nib.Nifti1Image:
        modality = "dermoscopy" if image.array.dtype == RGB else "mr"
        loaded = chains[modality]({"image": str(image.save(folder / "case.nii.gz"))})["image"]
        mask = SliceBatchInferer(image_size=size, batch_size=5, axis=axis)(loaded[None], Sloping())[0]
        saved = saving({"pred": mask})["pred"].meta["saved_to"]
        return nib.load(saved)

    return segment


@examples
@given(image=images(), order=st.sampled_from(ORDERS), size=st.integers(4, 14))
def test_geometry_out_is_geometry_in_and_storage_order_means_nothing(run, image, order, size):
    if image.array.ndim == 2:
        keep = [int(o) for o in order[:, 0] if o < 2]
        order = np.array([(o, sign) for o, sign in zip(keep, order[:2, 1], strict=True)])
    stored = image.reordered(order)
    masks = {}
    for name, each in (("image", image), ("stored", stored)):
        mask = run(each, size)
        labels = np.asarray(mask.dataobj)
        assert labels.shape == each.array.shape and labels.dtype == np.uint8
        np.testing.assert_allclose(mask.affine, each.affine, atol=1e-3)
        assert set(np.unique(labels)) <= LABELS["dermoscopy" if each.array.dtype == RGB else "mr"]
        masks[name] = Stored(labels, mask.affine)
    np.testing.assert_array_equal(masks["stored"].array, masks["image"].reordered(order).array)


@examples
@given(
    side=st.integers(2, 9),
    depth=st.integers(1, 9),
    axis=st.integers(0, 2),
    order=st.sampled_from(ORDERS),
    seed=st.integers(0, 2**16),
)
def test_labels_are_those_that_numpy_finds_slice_by_slice(run, side, depth, axis, order, seed):
    """Square slices of the network's own size are not stretched, so every label is known.

    Axial slices show anterior at the top, the others superior; the patient's right is at the left, in sagittal slices
    anterior (contract, "one radiological orientation"). In RAS order the pixel above or to the left is the next one.
    """
    shape = [side, side, side]
    shape[axis] = depth
    colour = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    image = Stored(colour.view(RGB)[..., 0], np.diag([1.0, 2.0, 3.0, 1.0]))
    mask = run(image.reordered(order), side, axis=int(order[axis, 0]))

    grey = colour.astype(float).mean(-1)  # 8-bit colour is taken as it is
    row, column = {0: (2, 1), 1: (2, 0), 2: (1, 0)}[axis]
    around = (
        0.5 * grey.mean((row, column), keepdims=True) + 0.3 * np.roll(grey, -1, row) + 0.2 * np.roll(grey, -1, column)
    )
    labels = np.where(grey - around > MARGIN, 1, np.where(around - grey > MARGIN, 2, 0)).astype(np.uint8)
    clear = np.abs(np.abs(grey - around) - MARGIN) > 1e-4  # a sum in another order may fall to the other side
    expected, where = (Stored(each, image.affine).reordered(order).array for each in (labels, clear))
    np.testing.assert_array_equal(np.asarray(mask.dataobj)[where], expected[where])
