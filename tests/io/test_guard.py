from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from esp_medsam_monai.errors import InputRefused, warnings_of
from esp_medsam_monai.io.guard import check_affine, check_file, check_values


def _code(function, *args):
    with pytest.raises(InputRefused) as caught:
        function(*args)
    return caught.value.code


def test_files(tmp_path):
    (tmp_path / "empty.nii").touch()
    (tmp_path / "dangling.nii").symlink_to(tmp_path / "nowhere.nii")
    os.mkfifo(tmp_path / "pipe.nii")
    assert _code(check_file, tmp_path / "absent.nii") == "NOT_FOUND"
    assert _code(check_file, tmp_path / "dangling.nii") == "NOT_FOUND"
    assert _code(check_file, tmp_path / "empty.nii") == "NOT_AN_IMAGE"
    assert _code(check_file, tmp_path / "pipe.nii") == "NOT_AN_IMAGE"
    check_file(tmp_path)


def test_what_may_not_be_opened(tmp_path, monkeypatch):
    """Simulated, because the superuser may open everything."""
    (tmp_path / "a.nii").write_text("x")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", "a.nii")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputRefused, match=r"a\.nii.*Permission denied") as caught:
        check_file(tmp_path / "a.nii")
    assert caught.value.code == "NOT_READABLE"
    assert _code(check_file, tmp_path) == "NOT_READABLE"


@pytest.mark.parametrize(
    "columns",
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 0]],
        [[1, 1, 0], [1, 1, 0], [0, 0, 1]],
        [[np.inf, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.009, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[51, 0, 0], [0, 1, 0], [0, 0, 1]],
        # Large voxels hide from the determinant that two axes point the same way.
        [[40, 40, 0], [0, 0.00001, 0], [0, 0, 40]],
    ],
)
def test_affines_that_cannot_be_meant(columns):
    affine = np.eye(4)
    affine[:3, :3] = columns
    assert _code(check_affine, affine, (4, 4, 4), "x.nii") == "BAD_AFFINE"


def test_origins_must_be_numbers_too():
    affine = np.eye(4)
    affine[1, 3] = np.nan
    assert _code(check_affine, affine, (4, 4, 4), "x.nii") == "BAD_AFFINE"


def test_affines_that_can_be_meant():
    check_affine(np.diag([0.01, 50.0, 1.0, 1.0]), (4, 4, 4), "x.nii")
    check_affine(np.diag([1.0, 1.0, 300.0, 1.0]), (4, 4, 1), "x.nii")  # the thickness of one slice
    check_affine(np.diag([1.0, 1.0, 300.0, 1.0]), (4, 4), "x.nii")
    with pytest.raises(InputRefused, match="1 x 1 x 300 mm"):
        check_affine(np.diag([1.0, 1.0, 300.0, 1.0]), (4, 4, 2), "x.nii")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_few_values_that_are_no_numbers_are_replaced_and_counted(dtype):
    array = np.arange(2, 102, dtype=dtype).reshape(10, 10)
    array[3, 4], array[5, 5], array[6, 6] = np.nan, np.inf, -np.inf
    expected = np.where(np.isfinite(array), array, 2)
    meta = {}
    result = check_values(array, meta, "x.nii", 0.5)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, expected)
    assert len(warnings_of(meta)) == 1
    assert warnings_of(meta)[0].startswith("NON_FINITE: 3 of 100 values of x.nii (3.00%)")
    assert "(3, 4)" in warnings_of(meta)[0]


def test_the_limit_is_a_share():
    array = np.arange(100, dtype=np.float32)
    array[:50] = np.nan
    check_values(array, {}, "x.nii", 0.5)
    assert _code(check_values, array, {}, "x.nii", 0.49) == "NON_FINITE"
    assert _code(check_values, np.full(4, np.nan, np.float32), {}, "x.nii", 1.0) == "NON_FINITE"


def test_values_beyond_float32_count_as_infinite():
    """Networks compute in float32, where they would be."""
    array = np.array([1.0, 2.0, 3.0, 1e300])
    assert check_values(array, {}, "x.nii", 0.5).tolist() == [1.0, 2.0, 3.0, 1.0]


def test_labels_are_never_repaired():
    assert _code(check_values, np.array([0, 1, np.nan]), {}, "x.nii", 0.5, True) == "NON_FINITE"
    meta = {}
    check_values(np.zeros((3, 3), np.uint8), meta, "x.nii", 0.5, True)
    assert warnings_of(meta) == []


def test_images_of_one_value():
    meta = {}
    check_values(np.full((3, 3), 7, np.int16), meta, "x.nii", 0.5)
    assert warnings_of(meta) == ["EMPTY_IMAGE: every pixel of x.nii has the value 7; there is nothing to find."]
    meta = {}
    check_values(np.array([[1.0, np.nan]]), meta, "x.nii", 0.5)
    assert [sentence.split(":")[0] for sentence in warnings_of(meta)] == ["NON_FINITE", "EMPTY_IMAGE"]
