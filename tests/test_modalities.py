"""The table against what the contract and the published code say."""

from __future__ import annotations

import pytest

from esp_medsam_monai.errors import InputRefused, find_refusal
from esp_medsam_monai.modalities import (
    MODALITIES,
    PUBLISHED_MODALITIES,
    check_modalities,
    describe_target,
    label_names,
    label_values,
    modality_from_code,
    published_modalities,
    shipped_modalities,
)


def test_label_values_of_the_shipped_network():
    """The contract lists them one by one."""
    assert label_names(shipped_modalities()) == {
        0: "background",
        1: "dermoscopy_lesion",
        2: "xray_lung",
        3: "ultrasound_lesion",
        4: "fundus_vessel",
        5: "microscopy_nucleus",
        6: "colonoscopy_polyp",
        7: "mr_hippocampus_anterior",
        8: "mr_hippocampus_posterior",
    }
    assert label_values({"mr": ["a", "b"], "ct": ["c"]}) == {"mr": {"a": 1, "b": 2}, "ct": {"c": 3}}


def test_order_of_the_published_files():
    """Index of each modality in the published decoder (specification, section 2.4)."""
    assert PUBLISHED_MODALITIES == ("dermoscopy", "xray", "ultrasound", "fundus", "microscopy", "colonoscopy")
    assert [len(targets) for targets in published_modalities().values()] == [1] * 6


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("MR", "mr"),
        ("CT", "ct"),
        ("US", "ultrasound"),
        ("CR", "xray"),
        ("DX", "xray"),
        ("OP", "fundus"),
        ("SM", "microscopy"),
        ("GM", "microscopy"),
        (" mr ", "mr"),
        ("fundus", "fundus"),
        ("ES", None),
        ("XC", None),
        ("", None),
    ],
)
def test_dicom_codes(code, name):
    assert modality_from_code(code) == name


def test_no_code_means_two_modalities():
    codes = [code for row in MODALITIES.values() for code in row.dicom_codes]
    assert len(codes) == len(set(codes))


def test_every_shipped_target_says_what_it_was_trained_on():
    for modality, targets in shipped_modalities().items():
        for target in targets:
            row = describe_target(modality, target)
            assert row is not None
            assert row.body_part and row.view and row.source
            assert all(0 <= value <= 255 for value in row.color)
    assert describe_target("mr", "my_own") is None


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        ({}, "empty"),
        ({"mr": []}, "no target"),
        ({"mr": "liver"}, "list"),
        ({"mr": ["liver", "liver"]}, "twice"),
        ({"MR": ["liver"]}, "'MR'"),
        ({"mr": ["left.lung"]}, "left.lung"),
        ({"a_b": ["c"], "a": ["b_c"]}, "a_b_c"),
    ],
)
def test_bad_input(modalities, message):
    with pytest.raises(ValueError, match=message):
        check_modalities(modalities)


def test_a_refusal_is_found_behind_what_monai_wraps_around_it():
    refusal = InputRefused("NO_MODALITY", "x.nii.gz: nothing says the modality.")
    try:
        try:
            raise refusal
        except ValueError as error:
            raise RuntimeError("applying transform") from error
    except RuntimeError as wrapped:
        assert find_refusal(wrapped) is refusal
    assert str(refusal).startswith("NO_MODALITY: ")
    assert find_refusal(RuntimeError("other")) is None
