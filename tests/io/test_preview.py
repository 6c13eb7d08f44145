"""write_preview: the right slices, upright, with every target in its colour."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from monai.data import MetaTensor
from PIL import Image

from esp_medsam_monai.geometry import slice_plan
from esp_medsam_monai.io.preview import PANELS, informative_slices, write_preview
from esp_medsam_monai.modalities import describe_target, target_color

TARGETS = {"hippocampus_anterior": 7, "hippocampus_posterior": 8}


def near(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    """Number of pixels of nearly that colour."""
    return int((np.abs(picture.astype(int) - color).max(axis=-1) < 12).sum())


def draw(path: Path, shape: tuple[int, ...], found: bool = True, warnings: tuple[str, ...] = ()) -> np.ndarray:
    image = MetaTensor(torch.full((1, *shape), 60.0), affine=torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0])))
    mask = torch.zeros((1, *shape), dtype=torch.uint8)
    if found:
        mask[:, 4:16, 4:16] = 7
    write_preview(path, image, mask, TARGETS, "mr", "sub/case", warnings)
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("shape", [(30, 24, 9), (30, 24, 1), (30, 24)])
def test_values_contours_have_the_target_s_color(shape: tuple[int, ...], tmp_path: Path) -> None:
    row = describe_target("mr", "hippocampus_anterior")
    assert row is not None
    with_mask = draw(tmp_path / "a.png", shape)
    without = draw(tmp_path / "b.png", shape, found=False)
    assert near(with_mask, row.color) > near(without, row.color) + 200
    assert near(without, row.color) > 20  # the swatch of the legend


def test_shape_is_compact(tmp_path: Path) -> None:
    height, width = draw(tmp_path / "a.png", (30, 24, 9)).shape[:2]
    assert width <= 1600
    assert height <= 600


def test_values_warning_is_on_the_picture(tmp_path: Path) -> None:
    amber = (255, 180, 84)
    assert near(draw(tmp_path / "a.png", (30, 24, 9)), amber) == 0
    assert near(draw(tmp_path / "b.png", (30, 24, 9), warnings=("outside what it knows",)), amber) > 20


def test_values_picture_is_upright_and_in_proportion(tmp_path: Path) -> None:
    picture = torch.zeros((3, 40, 20))  # (C, W, H)
    picture[0, 30:, :6] = 255  # red, upper right
    image = MetaTensor(picture, affine=torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])))
    write_preview(tmp_path / "a.png", image, torch.zeros((1, 40, 20)), {"lesion": 1}, "dermoscopy", "case")
    drawn = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    rows, columns = np.nonzero(np.abs(drawn.astype(int) - (255, 0, 0)).max(axis=-1) < 12)
    left = columns < drawn.shape[1] // 2  # the first of two panels
    assert left.any()
    panel_rows, panel_columns = np.nonzero(drawn[:, : drawn.shape[1] // 2].max(axis=-1) == 0)  # black of the image
    assert rows[left].max() < panel_rows.max() - 20
    assert columns[left].min() > panel_columns.min() + 20


def test_values_own_target_without_a_row(tmp_path: Path) -> None:
    image = MetaTensor(torch.full((1, 12, 12, 4), 60.0))
    path = write_preview(tmp_path / "a.png", image, torch.ones((1, 12, 12, 4)), {"my_tumour": 1}, "ct", "case")
    drawn = np.asarray(Image.open(path).convert("RGB"))
    assert near(drawn, target_color("ct", "my_tumour")) > 20


@pytest.mark.parametrize("text", [r"a$\frac$b", "$x_1$", "100 % {of} #1_2"])
def test_bad_input_names_are_no_formulas(text: str, tmp_path: Path) -> None:
    """matplotlib reads what stands between dollar signs as TeX."""
    image = MetaTensor(torch.full((1, 12, 12), 60.0))
    path = write_preview(tmp_path / "a.png", image, torch.zeros((1, 12, 12)), {"lesion": 1}, "ultrasound", text, [text])
    assert path.is_file()


@pytest.mark.parametrize(("shape", "count"), [((30, 24, 9), 6), ((30, 24), 2)])
def test_values_file_says_where_its_panels_lie(shape: tuple[int, ...], count: int, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", shape, found=False)
    picture = Image.open(tmp_path / "a.png")
    boxes = json.loads(picture.info[PANELS])
    assert len(boxes) == count
    drawn = np.asarray(picture.convert("RGB")).astype(int)
    for left, upper, right, lower in boxes:
        inner = drawn[upper + 2 : lower - 20, left + 25 : right - 2]  # without the letters at two edges
        assert np.median(inner) == 60
        assert (drawn[upper + 20 : lower - 2, max(0, left - 4) : max(0, left - 2)].max(axis=-1, initial=0) < 40).all()


def test_values_first_panel_of_a_picture_shows_it_as_it_is(tmp_path: Path) -> None:
    drawn = draw(tmp_path / "a.png", (30, 24))
    first, second = json.loads(Image.open(tmp_path / "a.png").info[PANELS])
    color = target_color("mr", "hippocampus_anterior")
    counts = [near(drawn[upper:lower, left:right], color) for left, upper, right, lower in (first, second)]
    assert counts[0] == 0 and counts[1] > 100


def test_values_panels_are_in_true_proportion_and_full(tmp_path: Path) -> None:
    image = MetaTensor(torch.full((1, 30, 24, 3), 60.0), affine=torch.diag(torch.tensor([1.0, 2.5, 4.0, 1.0])))
    path = write_preview(tmp_path / "a.png", image, torch.zeros((1, 30, 24, 3)), TARGETS, "mr", "case")
    picture = Image.open(path)
    drawn = np.asarray(picture.convert("RGB"))
    left, upper, right, lower = json.loads(picture.info[PANELS])[1]  # the first has letters
    assert (right - left) / (lower - upper) == pytest.approx(30 * 1.0 / (24 * 2.5), rel=0.02)
    assert (drawn[upper + 2 : lower - 25, left + 2 : right - 2] == 60).all()


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, for the words in them."""
    saved: list[Figure] = []
    save = Figure.savefig

    def remember(figure: Figure, *args: object, **kwargs: object) -> None:
        saved.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", remember)
    return saved


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAR"])
def test_values_letters_name_the_sides_of_the_patient(
    axis: int, codes: str, figures: list[Figure], tmp_path: Path
) -> None:
    """Where the patient's sides are, the coordinates of the voxels tell."""
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(tuple(codes)), (8, 8, 8))
    world = nib.affines.apply_affine(affine, np.indices((8, 8, 8)).transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)
    image = MetaTensor(torch.from_numpy(world), affine=torch.from_numpy(affine))
    plan = slice_plan(image.affine, (8, 8, 8), axis)
    points = plan.to_slices(torch.from_numpy(world.copy()), 4, 5)[0].numpy()
    expected = []
    for edge in (points[:, 4, 0], points[:, 0, 4]):  # the left one and the upper one
        step = edge - points[:, 4, 4]
        world_axis = int(np.abs(step).argmax())
        expected.append(("LR", "PA", "IS")[world_axis][int(step[world_axis] > 0)])
    mask = torch.zeros((1, 8, 8, 8))
    write_preview(tmp_path / "a.png", image[:1], mask, TARGETS, "mr", "case", axis=axis)
    assert [text.get_text() for text in figures[0].axes[0].texts[-2:]] == expected


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("codes", ["RAS", "LPI"])
def test_values_the_slice_that_holds_something_is_shown(
    axis: int, codes: str, figures: list[Figure], tmp_path: Path
) -> None:
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(tuple(codes)), (8, 8, 8))
    image = MetaTensor(torch.full((1, 8, 8, 8), 60.0), affine=torch.from_numpy(affine))
    mask = torch.zeros((1, 8, 8, 8), dtype=torch.uint8)
    mask[0, 1, 2, 4] = 7
    plan = slice_plan(image.affine, (8, 8, 8), axis)
    (number,) = (i for i in range(8) if plan.to_slices(mask, i, i + 1).any())
    write_preview(tmp_path / "a.png", image, mask, TARGETS, "mr", "case", axis=axis)
    assert [axes.texts[0].get_text() for axes in figures[0].axes] == [f"{number + 1} / 8"]


@pytest.mark.parametrize(("shape", "size"), [((30, 24, 9), "1,296 voxels, 3.24 mL"), ((30, 24), "144 pixels, 20.0 %")])
def test_values_sizes_in_the_legend(shape: tuple[int, ...], size: str, figures: list[Figure], tmp_path: Path) -> None:
    image = MetaTensor(torch.full((1, *shape), 60.0), affine=torch.diag(torch.tensor([0.5, 2.0, 2.5, 1.0])))
    mask = torch.zeros((1, *shape), dtype=torch.uint8)
    mask[:, 4:16, 4:16] = 7  # 12 x 12 pixels; a voxel has 2.5 mm³
    write_preview(tmp_path / "a.png", image, mask, TARGETS, "mr", "case")
    words = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert words == [f"hippocampus anterior: {size}", "hippocampus posterior: nothing found"]


@pytest.mark.parametrize(
    ("filled", "expected"),
    [
        ([False] * 3 + [True] * 2, [3, 4]),
        ([True] * 11, [0, 2, 4, 6, 8, 10]),
        ([False] * 12, [1, 3, 5, 7, 9, 11]),
        ([False] * 2, [0, 1]),
    ],
)
def test_values_informative_slices(filled: list[bool], expected: list[int]) -> None:
    assert informative_slices(filled) == expected


def test_values_memory_of_a_preview_is_that_of_its_panels(tmp_path: Path) -> None:
    """Six panels of 512 x 512 are 5 MB of pixels; in double precision, with their contours' grids, 250 MB."""
    draw(tmp_path / "first.png", (512, 512, 8))  # imports and fonts
    tracemalloc.start()
    try:
        draw(tmp_path / "second.png", (512, 512, 8))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 80e6
