"""The table against what the contract and the published code say."""

from __future__ import annotations

import string

import pydicom
import pytest
from pydicom.sr.codedict import codes as dictionary

from esp_medsam_monai.errors import InputRefused, find_refusal
from esp_medsam_monai.modalities import (
    MODALITIES,
    PUBLISHED_MODALITIES,
    Code,
    check_modalities,
    describe_target,
    image_side,
    label_names,
    label_values,
    modality_from_code,
    published_modalities,
    shipped_image_sizes,
    shipped_modalities,
    target_codes,
    target_color,
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
        ("us", "ultrasound"),
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


def test_every_target_of_the_table_has_a_colour_of_its_own():
    colors = [target.color for row in MODALITIES.values() for target in row.targets]
    assert len(set(colors)) == len(colors) == 8


def test_colours_depend_on_the_names_alone():
    assert target_color("mr", "hippocampus_anterior") == (204, 121, 167)  # the table's
    # Written down, so that a release cannot change the colours of users' own targets unnoticed.
    assert target_color("mr", "my_own") == (240, 228, 66)
    assert target_color("ct", "my_own") != target_color("mr", "my_own")
    own = {target_color("ct", letter) for letter in string.ascii_lowercase}
    assert len(own) > 8 and all(0 <= value <= 255 for color in own for value in color)


def _codes():
    for modality, row in MODALITIES.items():
        for target in row.targets:
            named = target.codes
            for role in ("category", "kind", "anatomy", "modifier"):
                if getattr(named, role) is not None:
                    yield pytest.param(getattr(named, role), id=f"{modality}-{target.name}-{role}")


@pytest.mark.skipif(pydicom.__version__.startswith("2."), reason="pydicom 2 has an older edition of the codes")
@pytest.mark.parametrize("code", list(_codes()))
def test_codes_are_those_of_snomed(code):
    """pydicom's dictionary is made from DICOM PS3.16."""
    assert code.scheme == "SCT"
    word = "".join(part[0].upper() + part[1:] for part in code.meaning.split())
    found = getattr(dictionary.SCT, word)
    assert (found.value, found.scheme_designator, found.meaning) == (code.value, code.scheme, code.meaning)


def test_targets_of_one_modality_differ_in_their_codes():
    for row in MODALITIES.values():
        assert len({target.codes for target in row.targets}) == len(row.targets)


def test_a_target_of_the_user_s_own_has_private_codes():
    codes = target_codes("ct", "liver")
    assert codes.category == Code("85756007", "SCT", "Tissue")
    assert codes.kind == Code("liver", "99ESPMEDSAM", "ct liver")
    long = [target_codes("ct", "a_very_long_name_of_a_target_" + end).kind.value for end in ("one", "two")]
    assert long[0] != long[1] and all(len(value) == 16 for value in long)  # DICOM's limit of a Code Value
    assert len(target_codes("ct", 100 * "a").kind.meaning) == 64


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


def test_only_a_larger_side_of_its_own_counts():
    assert image_side("fundus", 224, {"fundus": 672}) == 672
    assert image_side("fundus", 1024, {"fundus": 672}) == 1024
    assert image_side("mr", 224, {"fundus": 672}) == image_side(None, 224) == 224
    assert set(shipped_image_sizes()) <= set(shipped_modalities())
    assert all(side % 32 == 0 for side in shipped_image_sizes().values())
