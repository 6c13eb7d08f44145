from __future__ import annotations

import json

import pytest

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.io.sidecar import file_stem, sidecar_files, sidecar_modality


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content) if not isinstance(content, str) else content)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.nii.gz", "a"), ("a.NII.GZ", "a"), ("a.b.nii", "a.b"), ("a.b.png", "a.b"), ("IM0001", "IM0001")],
)
def test_stems(name, stem):
    assert file_stem(f"x/{name}") == stem


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"modality": "mr"}, "mr"),
        ({"modality": "Dermoscopy"}, "dermoscopy"),
        ({"modality": "US"}, "ultrasound"),
        ({"modality": "OCT"}, "oct"),  # a modality of one's own network
        ({"Modality": "MR", "EchoTime": 0.1}, "mr"),
        ({"Modality": "XC"}, None),  # says too little
        ({"Modality": "MR", "modality": "ct"}, "ct"),
        ({"EchoTime": 0.1}, None),
    ],
)
def test_keys(tmp_path, content, expected):
    _write(tmp_path / "a.json", content)
    assert sidecar_modality(tmp_path / "a.nii.gz") == expected


def test_the_nearest_sidecar_speaks(tmp_path):
    image = tmp_path / "study" / "deep" / "a.png"
    _write(tmp_path / "modality.json", {"modality": "ct"})
    _write(tmp_path / "study" / "modality.json", {"modality": "mr"})
    image.parent.mkdir()
    assert sidecar_modality(image) is None
    assert sidecar_modality(image, root=tmp_path / "study") == "mr"
    assert sidecar_modality(image, root=tmp_path) == "mr"
    _write(image.parent / "modality.json", {"modality": "xray"})
    assert sidecar_modality(image, root=tmp_path) == "xray"
    assert sidecar_modality(image.parent) == "xray"
    _write(image.with_suffix(".json"), {"EchoTime": 1})  # says nothing: the folder's speaks
    assert sidecar_modality(image) == "xray"
    _write(image.with_suffix(".json"), {"modality": "fundus"})
    assert sidecar_modality(image) == "fundus"


@pytest.mark.parametrize("content", ["{not json", "[1, 2]", '{"modality": 3}'])
def test_broken_sidecars_are_refused_by_name(tmp_path, content):
    _write(tmp_path / "a.json", content)
    with pytest.raises(InputRefused, match=r"a\.json") as caught:
        sidecar_modality(tmp_path / "a.png")
    assert caught.value.code == "BAD_SIDECAR"


def test_which_files_were_asked(tmp_path):
    image = tmp_path / "study" / "a.png"
    assert sidecar_files(image, tmp_path) == []
    for path in (image.with_suffix(".json"), image.with_name("modality.json"), tmp_path / "modality.json"):
        _write(path, {"EchoTime": 1})
    _write(image.with_name("b.json"), {"modality": "mr"})
    assert sidecar_files(image) == [image.with_suffix(".json"), image.with_name("modality.json")]
    assert sidecar_files(image, tmp_path)[2:] == [tmp_path / "modality.json"]
