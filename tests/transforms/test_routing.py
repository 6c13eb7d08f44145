"""RouteModality(d): the contract's order of sources, and refusals that say what to do."""

from __future__ import annotations

import pytest
import torch
from esp_medsam_monai.transforms import RouteModality, RouteModalityd
from monai.data import MetaTensor
from monai.transforms import Compose

from esp_medsam_monai.errors import InputRefused, find_refusal

NETWORK = {"mr": ["hippocampus"], "xray": ["lung"], "ultrasound": ["lesion"], "fundus": ["vessel"]}


def image(**meta) -> MetaTensor:
    return MetaTensor(torch.zeros(1, 4, 4), meta={"filename_or_obj": "a/b.png", **meta})


FOUND = {"modality": "fundus", "modality_source": "dicom"}


@pytest.mark.parametrize(
    ("user", "listed", "meta", "default", "expected"),
    [
        ("mr", "xray", FOUND, "ultrasound", ("mr", "user")),
        (None, "xray", FOUND, "ultrasound", ("xray", "datalist")),
        ("", "", FOUND, "ultrasound", ("fundus", "dicom")),
        (None, None, {**FOUND, "modality_source": "sidecar"}, None, ("fundus", "sidecar")),
        (None, "  ", {}, "ultrasound", ("ultrasound", "default")),
        ("MR", None, {}, None, ("mr", "user")),
        (None, "DX", {}, None, ("xray", "datalist")),
    ],
)
def test_first_source_that_speaks_wins(user, listed, meta, default, expected):
    route = RouteModalityd("image", user, NETWORK, default)
    entry = {"image": image(**meta)} if listed is None else {"image": image(**meta), "modality": listed}
    result = route(entry)
    assert (result["image"].meta["modality"], result["image"].meta["modality_source"]) == expected
    assert result["modality"] == expected[0]


@pytest.mark.parametrize(
    ("word", "code", "told"),
    [
        (None, "NO_MODALITY", ["a/b.png", "dermoscopy", "mr"]),
        ("sonar", "UNKNOWN_MODALITY", ["sonar", "dermoscopy", "mr"]),
        ("ES", "UNKNOWN_MODALITY", ["colonoscopy"]),
        (["mr"], "UNKNOWN_MODALITY", ["mr"]),
        ("ct", "NO_WEIGHTS", ["ct", "mr, xray, ultrasound, fundus"]),
    ],
)
def test_refusals_name_what_can_be_used(word, code, told):
    with pytest.raises(InputRefused) as refusal:
        RouteModality(None, NETWORK)(image(), word)
    assert refusal.value.code == code
    assert all(text in refusal.value.message for text in told)


def test_the_refusal_survives_compose():
    with pytest.raises(RuntimeError) as error:
        Compose([RouteModalityd("image")])({"image": image()})
    refusal = find_refusal(error.value)
    assert refusal is not None
    assert refusal.code == "NO_MODALITY"


def test_a_users_own_modality_is_known_when_the_network_has_it():
    route = RouteModality(modalities={"oct": ["fluid"]})
    assert route(image(), "OCT").meta["modality"] == "oct"
    with pytest.raises(InputRefused, match="UNKNOWN_MODALITY"):
        RouteModality()(image(), "oct")
